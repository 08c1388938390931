"""The panel's line about the picture that was made last."""

from __future__ import annotations

from types import SimpleNamespace

from tests.webui.test_pictures import decode_batch, start
from vae_manager.selection.settings import PanelSettings


def made(session, host, prompts: list[str], settings: PanelSettings) -> list[str]:
    """What is said after a job, in its parts."""
    job = start(session, prompts, settings)
    decode_batch(session, host)
    assert session.shelf.told == ""  # not before it is done
    session.finish(job, SimpleNamespace(extra_generation_params={}, all_prompts=prompts))
    return session.shelf.told.split(" · ")


def test_what_decoded_it_how_and_what_became_of_its_colours(session, host):
    vae, how, colours = made(session, host, ["x"], PanelSettings(True, "b", decode="exact"))
    assert vae == "Last picture: b.safetensors" and colours == "colours untouched"
    assert how.startswith("decoded exactly in ") and how.endswith(" GB")
    whole = made(session, host, ["x"], PanelSettings(True, "Baked", decode="whole", color="manual"))
    assert whole == [
        "Last picture: the VAE baked into the checkpoint",
        "decoded in one piece by the WebUI",
        "colours set by hand",
    ]
    assert made(session, host, ["x"], PanelSettings(True, "b", color="auto"))[2] == "colours untouched, nothing to fix"


def test_what_was_found_of_the_colours_and_what_could_not_be_done(session, host):
    job = start(session, ["x"], PanelSettings(True, "nope", color="auto"))
    session.shelf.last.colors[0] = "washed out: pale; corrected"
    session.finish(job, SimpleNamespace(extra_generation_params={}, all_prompts=["x"]))
    vae, _, colours, *warnings = session.shelf.told.split(" · ")
    assert (
        vae == "Last picture: the VAE baked into the checkpoint" and colours == "colours: washed out: pale; corrected"
    )
    assert len(warnings) == 1 and "There is no VAE 'nope'" in warnings[0]


def test_a_batch_names_every_vae_once(session, host):
    vae, *_ = made(session, host, ["x <vae:b>", "x <vae:c>", "x <vae:b>"], PanelSettings())
    assert vae == "Last picture: b.safetensors, c.safetensors"


def test_a_picture_that_was_not_ours_leaves_no_old_line(session, host):
    assert made(session, host, ["x"], PanelSettings(True, "b"))
    assert made(session, host, ["x"], PanelSettings()) == [""]
