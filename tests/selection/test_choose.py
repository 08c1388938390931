"""The precedence: every step won and lost, and the traps that users fell into."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.conftest import make_state
from tests.latents.files import write_gguf
from tests.latents.models import MODELS
from tests.selection.conftest import SD1, SDXL, SIXTEEN, TINY, World
from vae_manager.errors import VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.library.state import load_state
from vae_manager.selection.choose import Wishes, choose
from vae_manager.selection.decision import BAKED, SAME, STEPS
from vae_manager.selection.presets import Found, Preset, VaeWish
from vae_manager.selection.rules import parse_rules


def rules(*entries, **fields):
    """Rules from their documents; with fields, one rule for every checkpoint."""
    found = parse_rules({"version": 1, "rules": list(entries) or [{"when": {}, **fields}]})
    assert not found.problems
    return found


def preset(vae="Automatic", **fields) -> Found:
    return Found(Preset(VaeWish(vae), **fields), "its sha256")


@pytest.fixture
def model(world: World) -> Path:
    """A checkpoint that every step has a different VAE for."""
    for name in ("prompt", "panel", "job", "preset", "rule", "card", "vae-ft-mse-840000-ema-pruned"):
        world.vae(f"{name}.safetensors", metadata=SD1)
    world.vae("clearvae-v2.3.safetensors", metadata=SD1)
    path = world.checkpoint("koji.safetensors")
    path.with_suffix(".json").write_text(json.dumps({"vae": "card.safetensors"}))
    return path


EVERY = {
    "prompt": "prompt",
    "panel": "panel",
    "job": "job",
    "preset": preset("preset"),
    "rules": rules(vae="rule", name="all"),
}
WINNERS = {
    "prompt": "prompt", "panel": "panel", "job": "job", "preset": "preset", "rules": "rule", "preference": "card",
    "built-in": "clearvae-v2.3",
}  # fmt: skip


@pytest.mark.parametrize("step", STEPS)
def test_every_step_wins_when_those_above_do_not_ask(world: World, model: Path, outcomes, step: str):
    place = STEPS.index(step)
    if place > STEPS.index("preference"):
        model.with_suffix(".json").unlink()
    if place > STEPS.index("built-in"):
        model = model.rename(model.with_name("plain.safetensors"))
    if step == "default":
        model = world.checkpoint("empty.safetensors", baked=False)
    wishes = {name: value for name, value in EVERY.items() if STEPS.index(name) >= place}
    decision = world.choose(model, **wishes)
    assert decision.source == step
    expected = dict.fromkeys(STEPS[:place], "not asked") | {step: "chosen"}
    expected |= dict.fromkeys(STEPS[place + 1 :], "not reached")
    if step == "default":
        expected["baked"] = "refused"
    assert outcomes(decision) == expected and list(outcomes(decision)) == list(STEPS)
    if step == "baked":
        assert decision.kind == "baked" and decision.vae is None
    else:
        assert decision.vae and decision.vae.stem == WINNERS.get(step, "vae-ft-mse-840000-ema-pruned")
    assert not decision.warnings


@pytest.mark.parametrize("step", ["prompt", "panel", "job", "preset", "rules", "preference"])
def test_every_step_loses_with_a_warning_when_its_vae_is_not_there(world: World, model: Path, outcomes, step: str):
    missing = {"preset": preset("nowhere"), "rules": rules(vae="nowhere", name="r")}.get(step, "nowhere")
    if step == "preference":
        model.with_suffix(".json").write_text(json.dumps({"vae": "nowhere"}))
        decision = world.choose(model)
    else:
        decision = world.choose(model, **{step: missing})
    assert outcomes(decision)[step] == ("refused" if step != "preference" else "not asked")
    assert decision.kind in ("file", "baked") and decision.source != step
    assert len(decision.warnings) == 1 and "There is no VAE 'nowhere'" in decision.warnings[0]


def test_the_built_in_rule_only_advises_what_to_get(world: World, outcomes):
    decision = world.choose(world.checkpoint("koji.safetensors"))
    assert outcomes(decision)["built-in"] == "refused" and decision.source == "baked" and not decision.warnings
    assert "get clearvaeSD15_v23.safetensors (its sha256 begins with ab33ad55c6)" in decision.advice[0]


def test_a_damaged_baked_vae_loses(world: World):
    world.vae("vae-ft-mse-840000.safetensors", metadata=SD1)
    path = world.checkpoint("plain.safetensors")
    checkpoint = world.open(path, problems=("its tensor 'x' holds NaN",))
    decision = choose(Wishes(checkpoint=checkpoint), world.files())
    assert decision.source == "default" and "is damaged: its tensor 'x' holds NaN." in decision.warnings[0]


def test_nothing_at_all_is_left_to_the_host_with_a_warning(world: World):
    decision = world.choose(world.checkpoint("empty.safetensors", baked=False))
    assert decision.kind == decision.source == "host"
    assert "No VAE was found for empty.safetensors" in decision.warnings[0]
    assert "get vae-ft-mse-840000-ema-pruned.safetensors" in decision.advice[0]


def test_the_default_takes_any_vae_that_is_certainly_of_the_family(world: World):
    world.vae("nobody-knows.safetensors")
    world.vae("mine.safetensors", metadata=SDXL)
    decision = world.choose(world.checkpoint("x.safetensors", "sdxl", baked=False))
    assert decision.source == "default" and decision.vae and decision.vae.name == "mine.safetensors"


def test_a_file_that_only_has_the_usual_vaes_name_is_the_last_choice(world: World):
    """An unlisted sha256 (of a copy in another precision, or of anything) speaks against the name, not for no VAE."""
    path = world.checkpoint("m.safetensors", baked=False)
    named = world.vae("vae-ft-mse-840000-ema-pruned.safetensors")
    assert (
        world.choose(path).reason == "the usual choice for Stable Diffusion 1.x and 2.x among the files that are here"
    )
    world.hashes.sha256(vae_file(named))
    found = world.choose(path)
    assert found.vae and found.vae.path == named and "called like the usual choice" in found.reason
    certain = world.vae("z.safetensors", metadata=SD1)
    found = world.choose(path)
    assert found.vae and found.vae.path == certain
    sdxl = world.checkpoint("x.safetensors", "flux", baked=False)
    world.hashes.sha256(vae_file(world.vae("ae.safetensors")))
    assert world.choose(sdxl).kind == "host"  # four channels, whatever its name


def test_a_vae_whose_numbers_are_none_is_neither_the_default_nor_had_by_its_name(world: World):
    """Its name comes first and its header is in order."""
    broken = make_state(TINY)
    broken["decoder.conv_out.weight"][0, 0, 0, 0] = float("nan")
    save_file(broken, str(world.folder / "VAE" / "a-nan.safetensors"), SD1)
    world.vae("b-good.safetensors", metadata=SD1)
    checkpoint = world.open(world.checkpoint("m.safetensors", baked=False), thorough=True)
    assert choose(Wishes(checkpoint=checkpoint), world.files()).vae.name == "b-good.safetensors"
    asked = choose(Wishes(checkpoint=checkpoint, prompt="a-nan"), world.files())
    assert asked.vae.name == "b-good.safetensors"
    assert "'decoder.conv_out.weight' holds NaN" in asked.warnings[0] and "a-nan" in asked.warnings[0]


def test_the_default_passes_over_what_did_not_load(world: World):
    """Otherwise the same file would be chosen, fail and be chosen again."""
    for name in ("one", "two"):
        world.vae(f"{name}.safetensors", metadata=SDXL)
    path = world.checkpoint("x.safetensors", "sdxl", baked=False)
    first = world.choose(path)
    assert first.vae and first.vae.name == "one.safetensors"
    second = world.choose(path, unusable={str(first.vae.path): "it cannot be read"})
    assert second.vae and second.vae.name == "two.safetensors"


def test_without_a_checkpoint_the_host_keeps_what_it_has(world: World):
    world.vae("a.safetensors")
    decision = world.choose(host="the WebUI's own choice: x")
    assert (decision.kind, decision.reason) == ("host", "the WebUI's own choice: x")
    assert world.choose(panel="a").vae and world.choose(panel=BAKED).kind == "baked"


# --- wrong family


@pytest.mark.parametrize("step", ["prompt", "panel", "job", "preset", "rules", "preference"])
def test_another_familys_vae_is_refused_at_every_step(world: World, step: str):
    world.vae("xl.safetensors", metadata=SDXL)
    path = world.checkpoint("plain.safetensors")
    wish = {"preset": preset("xl"), "rules": rules(vae="xl")}.get(step, "xl")
    if step == "preference":
        path.with_suffix(".json").write_text('{"vae": "xl"}')
    wishes = {} if step == "preference" else {step: wish}
    decision = world.choose(path, **wishes)
    assert decision.source == "baked" and "made for SDXL" in decision.warnings[0]
    assert "plain.safetensors is Stable Diffusion 1.x" in decision.warnings[0]
    assert world.choose(path, **wishes, allow_other_family=True).source == step


def test_other_channels_are_refused_even_where_the_family_is_not_known(world: World):
    world.vae("sixteen.safetensors", SIXTEEN)
    decision = world.choose(world.checkpoint("plain.safetensors"), panel="sixteen")
    assert "made for 16-channel latents" in decision.warnings[0]


def test_a_vae_that_may_fit_is_let_through(world: World):
    world.vae("four.safetensors")
    assert world.choose(world.checkpoint("plain.safetensors"), panel="four").kind == "file"


def test_a_file_that_is_no_vae_is_refused_in_words(world: World):
    (world.folder / "VAE" / "junk.safetensors").write_bytes(b"junk")
    decision = world.choose(world.checkpoint("plain.safetensors"), panel="junk")
    assert decision.source == "baked" and decision.warnings[0].startswith("junk cannot be used: ")


# --- traps


def test_model_does_not_take_the_vae_of_model_v2(world: World):
    path = world.checkpoint("model.safetensors")
    world.checkpoint("model-v2.safetensors")
    os.replace(world.vae("x.pt"), path.with_name("model-v2.vae.pt"))
    assert world.choose(path).source == "baked"
    v2 = world.choose(path.with_name("model-v2.safetensors"))
    assert v2.source == "preference" and v2.vae and v2.vae.path.name == "model-v2.vae.pt"


def test_the_file_beside_the_checkpoint_wins_over_one_of_its_name_elsewhere(world: World):
    path = world.checkpoint("model.safetensors")
    world.vae("other/model.safetensors")
    os.replace(world.vae("x.pt"), path.with_name("model.vae.pt"))
    decision = world.choose(path)
    assert decision.vae and decision.vae.path == path.with_name("model.vae.pt")


@pytest.mark.parametrize("ending", [".vae.safetensors", ".vae.pt"])
def test_the_file_beside_a_gguf_checkpoint(world: World, ending: str):
    path = world.checkpoint("x.safetensors").with_name("model.Q4_K.gguf")
    write_gguf(path, MODELS["flux1"])
    world.vae("ae.safetensors", SIXTEEN)
    beside = path.with_name(f"model.Q4_K{ending}")
    os.replace(world.vae(f"y{ending}", SIXTEEN), beside)
    decision = world.choose(path)
    assert decision.source == "preference" and decision.vae and decision.vae.path == beside


def test_one_name_in_two_folders_must_be_told_apart(world: World):
    for folder in ("a", "b"):
        world.vae(f"{folder}/soft.safetensors")
    path = world.checkpoint("plain.safetensors")
    decision = world.choose(path, panel="soft")
    assert "fits 2 files; write one of 'a/soft.safetensors', 'b/soft.safetensors'" in decision.warnings[0]
    for written in ("b/soft.safetensors", "b/soft", "B\\SOFT.safetensors", "VAE/b/soft.safetensors"):
        found = world.choose(path, panel=written)
        assert found.vae and found.vae.name == "b/soft.safetensors", written
    named_alike = world.checkpoint("soft.safetensors")
    assert "Several VAEs have the checkpoint's own name" in world.choose(named_alike).warnings[0]


def test_a_vae_replaced_while_running_is_used_as_it_is_now(world: World):
    path, vae = world.checkpoint("plain.safetensors"), world.vae("a.safetensors", metadata=SD1)
    files = world.files()
    world.vae("a.safetensors", metadata=SDXL | {"more": "bytes"})
    decision = choose(Wishes(checkpoint=world.open(path), panel="a"), files)
    assert "made for SDXL" in decision.warnings[0]
    allowed = choose(Wishes(checkpoint=world.open(path), panel="a", allow_other_family=True), files)
    assert allowed.vae and allowed.vae.size == vae.stat().st_size


def test_a_vae_deleted_since_it_was_listed_loses(world: World):
    path, files = world.checkpoint("plain.safetensors"), world.files()
    world.vae("a.safetensors")
    files = world.files()
    (world.folder / "VAE" / "a.safetensors").unlink()
    decision = choose(Wishes(checkpoint=world.open(path), panel="a"), files)
    assert decision.source == "baked" and "is not there any more" in decision.warnings[0]


def test_a_vae_that_would_not_load_leaves_the_choice_to_the_next_step(world: World):
    world.vae("a.safetensors")
    world.vae("b.safetensors")
    path = world.checkpoint("plain.safetensors")
    wishes = {"panel": "a", "rules": rules(vae="b")}
    first = world.choose(path, **wishes)
    assert first.vae and first.vae.name == "a.safetensors"
    second = world.choose(path, **wishes, unusable={str(first.vae.path): "it was deleted meanwhile"})
    assert second.vae and second.vae.name == "b.safetensors"
    assert second.warnings == ("a cannot be used: it was deleted meanwhile.",)


def test_a_vae_deleted_between_the_decision_and_its_loading(world: World):
    """The decision names a file; loading says that it is gone; deciding again takes the next step's."""
    vae = world.vae("a.safetensors")
    world.vae("b.safetensors")
    path, files = world.checkpoint("plain.safetensors"), world.files()
    wishes = Wishes(checkpoint=world.open(path), panel="a", rules=rules(vae="b"))
    decision = choose(wishes, files)
    assert decision.vae and decision.vae.path == vae
    vae.unlink()
    with pytest.raises(VaeFileError, match="No such file") as failure:
        load_state(decision.vae)
    second = choose(replace(wishes, unusable={str(vae): str(failure.value)}), files)
    assert second.vae and second.vae.name == "b.safetensors"
    assert second.trace[1].outcome == "refused" and len(second.warnings) == 1


def test_a_hash_of_the_file_that_was_there_before_counts_for_nothing(world: World):
    """The hash cache is from another modification time: the file was replaced by one of the same size."""
    path = world.vae("a.safetensors", seed=1)
    old = world.hashes.sha256(world.files().find("a"))
    time_before = path.stat().st_mtime_ns
    size = path.stat().st_size
    world.vae("a.safetensors", seed=2)
    os.utime(path, ns=(time_before + 1_000_000, time_before + 1_000_000))
    assert path.stat().st_size == size
    files = world.files()
    assert world.hashes.peek(files.files[0]) is None and files.with_hash(old) == []
    assert world.hashes.sha256(files.files[0]) != old
    wish = Found(Preset(VaeWish("gone.safetensors", old)), "its name")
    decision = world.choose(world.checkpoint("plain.safetensors"), preset=wish)
    assert decision.source == "baked" and "There is no VAE 'gone.safetensors'" in decision.warnings[0]


def test_a_vae_of_exactly_the_checkpoints_name_wins_only_when_it_fits(world: World):
    path = world.checkpoint("model.safetensors")
    os.replace(world.vae("x.safetensors", metadata=SDXL), path.with_name("model.vae.safetensors"))
    decision = world.choose(path)
    assert decision.source == "baked" and "made for SDXL" in decision.warnings[0]


def test_the_default_is_a_file_as_it_is_now(world: World):
    """Replaced since it was listed: what it was is not what it is."""
    world.vae("a.safetensors", metadata=SD1)
    path, files = world.checkpoint("empty.safetensors", baked=False), world.files()
    world.vae("a.safetensors", metadata=SDXL | {"more": "bytes"})
    checkpoint = world.open(path)
    checkpoint.cache.vae(files.files[0])
    assert choose(Wishes(checkpoint=checkpoint), files).kind == "host"


def test_a_renamed_vae_is_found_by_its_hash(world: World):
    path = world.vae("old-name.safetensors")
    file = world.files().find("old-name")
    sha256 = world.hashes.sha256(file)
    path.rename(path.with_name("new-name.safetensors"))
    world.hashes.sha256(world.files().find("new-name"))
    wish = Found(Preset(VaeWish("old-name.safetensors", sha256)), "its name")
    decision = world.choose(world.checkpoint("plain.safetensors"), preset=wish)
    assert decision.vae and decision.vae.name == "new-name.safetensors"
    assert world.files().find(sha256[:10]).name == "new-name.safetensors"


def test_baked_is_refused_where_nothing_is_baked(world: World):
    world.vae("vae-ft-mse-840000.safetensors")
    decision = world.choose(world.checkpoint("plain.safetensors", baked=False), panel=BAKED)
    assert decision.source == "default" and "no VAE baked into plain.safetensors" in decision.warnings[0]


def test_none_means_baked_to_the_host(world: World):
    assert world.choose(world.checkpoint("plain.safetensors"), job="None").source == "job"
    assert world.choose(world.checkpoint("plain.safetensors"), job="Automatic").source == "baked"


# --- what comes with it


def test_encode_and_hires_come_from_the_preset_unless_something_above_decides(world: World):
    for name in ("a", "b", "c"):
        world.vae(f"{name}.safetensors")
    path = world.checkpoint("plain.safetensors")
    wish = preset("a", encode_vae=VaeWish("b"), hires_vae=VaeWish("Baked"))
    decision = world.choose(path, preset=wish)
    assert decision.encode and decision.encode.vae and decision.encode.vae.name == "b.safetensors"
    assert decision.hires and decision.hires.kind == "baked"
    above = world.choose(path, preset=wish, prompt="c")
    assert above.encode is None and above.hires is None
    asked = world.choose(path, preset=wish, prompt="c", encode="a", hires="nowhere")
    assert asked.encode and asked.encode.vae and asked.encode.vae.name == "a.safetensors"
    assert asked.hires is None and "'nowhere'" in asked.warnings[0]
    assert world.choose(path, encode=SAME).encode is None


def test_tiling_and_color_belong_to_the_checkpoint_whoever_decides_the_vae(world: World):
    world.vae("a.safetensors")
    path = world.checkpoint("plain.safetensors")
    told = rules({"when": {"family": "sd1"}, "vae": "a", "tiling": "exact", "color": "auto", "color_strength": 0.5})
    decision = world.choose(path, prompt="a", rules=told, preset=preset(said={"color": "off"}))
    assert decision.said == {"decode": "exact", "color": "off", "color_strength": 0.5}
    assert not world.choose(path).said


# --- rules at work


def test_the_first_rule_whose_vae_can_be_had_wins_and_the_trace_names_it(world: World):
    world.vae("b.safetensors")
    told = rules(
        {"name": "other", "when": {"name": "other*"}, "vae": "b"},
        {"name": "gone", "when": {"name": "real*"}, "vae": "gone"},
        {"name": "realistic", "when": {"name": "realistic*"}, "vae": ["gone", "b"]},
    )
    decision = world.choose(world.checkpoint("RealisticVision.safetensors"), rules=told)
    assert decision.vae and decision.reason == "rule 3 'realistic' matched (name 'realistic*')"
    assert decision.warnings[0].startswith("Rule 2 'gone' matched, but cannot be followed: There is no VAE 'gone'")


def test_a_rule_may_ask_for_baked_or_the_familys_default(world: World):
    world.vae("vae-ft-mse-840000.safetensors")
    path = world.checkpoint("thing-noVAE.safetensors")
    assert world.choose(path, rules=rules(vae="baked")).kind == "baked"
    assert world.choose(path, rules=rules(vae="default")).source == "rules"
    built_in = world.choose(path)
    assert built_in.source == "built-in" and built_in.vae and built_in.vae.stem == "vae-ft-mse-840000"
