"""The page's views without a page: what they find out, and that no name becomes markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import FLUX, make_state
from vae_manager.errors import Interrupted
from vae_manager.library.files import Folder
from vae_manager.page import colour_view, compare_view, decode_view, library_view, models_view
from vae_manager.page.house import House
from vae_manager.page.markup import bars, before_after, difference, histogram, table
from vae_manager.page.work import Stoppable

MARKUP = "<img src=x onerror=alert(1)>.safetensors"
ROOT = Path(__file__).parents[2]
DEMO = ROOT / "vae_manager" / "data" / "demo"


@pytest.fixture
def house(tmp_path: Path, write_vae) -> House:
    write_vae("VAE/a.safetensors", scale_factor="0.18215", title="<b>mine</b>")
    write_vae(f"VAE/{MARKUP}", FLUX)
    (tmp_path / "VAE" / "broken.safetensors").write_bytes(b"\x10")
    models = tmp_path / "models"
    models.mkdir()
    part = {"model.diffusion_model.x": make_state()["decoder.conv_in.weight"]}
    for name, said in (("sd.safetensors", "stable-diffusion-v1"), (f"xl-{MARKUP}", "stable-diffusion-xl-v1-base")):
        save_file(part, str(models / name), {"modelspec.architecture": said})
    folders = (Folder(tmp_path / "VAE"), Folder(models, marked_only=True))
    return House(lambda: folders, lambda: (models,), tmp_path / "home")


def tags(text: str) -> set[str]:
    """The elements of a piece of HTML."""
    return set(re.findall(r"<(\w+)", text))


def picture(side: int = 64) -> Image.Image:
    y, x = np.mgrid[0:side, 0:side] / side
    return Image.fromarray((np.stack([x, y, 1 - x], axis=2) * 255).astype(np.uint8))


# --- library


def test_the_library_says_what_each_vae_is(house: House):
    rows = {row.name: row for row in library_view.rows(house, house.vaes())}
    assert rows["a.safetensors"].space == "Stable Diffusion 1.x and 2.x" and rows["a.safetensors"].precision == "fp32"
    assert "Flux.1" in rows[MARKUP].space and not rows[MARKUP].health
    assert "broken" in rows["broken.safetensors"].health or "bytes long" in rows["broken.safetensors"].health
    shown = library_view.library_html(list(rows.values()))
    assert "img" not in tags(shown) and "b" not in tags(shown) and shown.count("<tr") == 4
    assert "There is no VAE" in library_view.library_html([])


def test_the_first_paint_opens_no_file(house: House, monkeypatch: pytest.MonkeyPatch):
    files = house.vaes()
    monkeypatch.setattr(library_view, "quick_report", lambda *_: pytest.fail("a file was opened"))
    assert [row.name for row in library_view.quick_rows(files)] == [file.name for file in files]


def test_two_files_of_the_same_weights_say_so(house: House, tmp_path: Path):
    copy = tmp_path / "VAE" / "copy.safetensors"
    copy.write_bytes((tmp_path / "VAE" / "a.safetensors").read_bytes())
    for file in house.vaes():
        if file.name in ("a.safetensors", "copy.safetensors"):
            house.facts.digest(file, compute=True)
    rows = {row.name: row.same for row in library_view.rows(house, house.vaes())}
    assert (rows["a.safetensors"], rows["copy.safetensors"], rows[MARKUP]) == ("copy.safetensors", "a.safetensors", "")


def test_everything_of_one_vae(house: House, tmp_path: Path):
    found = library_view.details_html(house, "a.safetensors")
    assert "&lt;b&gt;mine&lt;/b&gt;" in found and "b" not in tags(found)
    assert re.search(r"\b[0-9a-f]{64}\b", found)
    assert "no VAE" in library_view.details_html(house, "gone.safetensors")
    assert "cannot be used" in library_view.details_html(house, "broken.safetensors")
    assert "img" not in tags(library_view.details_html(house, MARKUP))
    assert "Stable Diffusion 1.x" in library_view.dropped_html(house, str(tmp_path / "VAE" / "a.safetensors"))
    assert "cannot be read" in library_view.dropped_html(house, str(tmp_path / "nowhere"))


# --- models and rules


def test_each_checkpoint_with_its_vae_and_the_reason(house: House):
    rows = {row.name: row for row in models_view.rows(house)}
    assert rows["sd.safetensors"].kind == "file" and rows["sd.safetensors"].chosen == "a.safetensors"
    other = rows[f"xl-{MARKUP}"]
    assert other.kind == "host" and other.why
    shown = models_view.models_html(list(rows.values()), "all")
    assert "img" not in tags(shown) and "2 of 2 checkpoints" in shown
    assert "1 of 2" in models_view.models_html(list(rows.values()), "nothing found")
    assert "1 of 2" in models_view.models_html(list(rows.values()), "another VAE than its own")
    assert "None of 2" in models_view.models_html(list(rows.values()), "damaged")
    assert "no checkpoint" in models_view.models_html([], "all")


def test_a_checkpoint_in_two_folders_that_are_one_is_listed_once(house: House, tmp_path: Path):
    (models,) = house.checkpoint_folders()
    (tmp_path / "again").symlink_to(models)
    twice = House(house.vae_folders, lambda: (models, tmp_path / "again"), house.home)
    assert models_view.rows(twice) == models_view.rows(house)


def test_what_several_families_share_is_made_for_each_of_them(house: House, tmp_path: Path):
    path = tmp_path / "VAE" / "nameless.safetensors"
    save_file(load_file(tmp_path / "VAE" / "a.safetensors"), path)  # without what its metadata says
    rows = {row.name: row.space for row in library_view.rows(house, house.vaes())}
    assert rows["nameless.safetensors"] == "Stable Diffusion 1.x and 2.x / SDXL"
    assert "not known" not in library_view.details_html(house, "nameless.safetensors")


RULES = json.dumps({"version": 1, "rules": [{"when": {"name": "sd*"}, "vae": "broken.safetensors"}]})


def test_rules_are_checked_saved_and_tried(house: House):
    assert models_view.rules_text(house) == models_view.EMPTY
    assert "This is no JSON in line 1" in models_view.check_rules("{")[1]
    wrong = '{"version": 1, "rules": [{"when": {"no such <b>": 1}, "vae": "x"}]}'
    assert 'role="alert"' in models_view.check_rules(wrong)[1] and "b" not in tags(models_view.check_rules(wrong)[1])
    for bad in ("{", wrong, "[]", "9" * 5000, "[" * 100_000):
        assert "Not saved" in models_view.save_rules(house, bad) and not house.rules_file.exists()
    assert "Saved 1 rules" in models_view.save_rules(house, RULES)
    assert json.loads(house.rules_file.read_text()) == json.loads(RULES) == json.loads(models_view.rules_text(house))


def test_rules_are_tried_as_they_stand_in_the_box(house: House):
    rules = json.dumps({"version": 1, "rules": [{"when": {"name": "xl*"}, "vae": "Baked"}]})
    name = f"xl-{MARKUP}"
    assert name in models_view.checkpoint_names(house)
    said = models_view.try_rules(house, rules, name)
    assert "img" not in tags(said) and "rules" in said
    assert "a.safetensors" in models_view.try_rules(house, models_view.EMPTY, "sd.safetensors")
    assert "Choose a checkpoint" in models_view.try_rules(house, models_view.EMPTY, None)
    assert not house.rules_file.exists()


# --- pictures


def test_a_comparison_says_how_much_each_differs(house: House):
    found = compare_view.compare(house, ["a.safetensors", "broken.safetensors", "gone"], picture(), 256, None)
    assert found.count("<figure") == 1 and "dB, mean CIEDE2000" in found
    assert "broken.safetensors cannot be used" in found and "no VAE &#x27;gone&#x27;" in found
    assert "slider" in found and found.count("<img") == 3


def test_a_latent_goes_through_the_decoders_alone(house: House, tmp_path: Path, write_vae):
    import torch

    write_vae("VAE/c.safetensors", seed=3)
    latent = tmp_path / "x.safetensors"
    save_file({"latent": torch.linspace(-1, 1, 4 * 8 * 8).reshape(1, 4, 8, 8)}, str(latent))
    names = ["a.safetensors", "c.safetensors", MARKUP]
    found = compare_view.compare(house, names, None, 256, str(latent))
    assert found.count("<figure") == 2 and "figcaption>c.safetensors: " in found
    assert "this VAE takes 16" in found and "<img src=x" not in found


@pytest.mark.parametrize(
    ("names", "image", "says"),
    [([], picture(), "Choose two to six"), (["a"] * 7, picture(), "at most 6"), (["a"], None, "Give a picture")],
)
def test_a_comparison_that_cannot_be_made_is_one_sentence(house: House, names, image, says):
    found = compare_view.compare(house, names, image, 256, None)
    assert says in found and found.count("<li>") == 1


def test_a_washed_out_picture_is_mended_and_a_good_one_left():
    photo = Image.open(DEMO / "photo.jpg").convert("RGB")
    pale = Image.fromarray((np.asarray(photo) * 0.55 + 70).astype(np.uint8))
    said, out = colour_view.correct(pale, 1.0)
    assert "ashed out" in said and out is not pale and said.count("<svg") == 2 and "slider" in said
    assert np.asarray(out).std() > np.asarray(pale).std() * 1.2
    assert colour_view.correct(pale, 0.0)[1] is pale
    said, out = colour_view.correct(photo, 1.0)
    assert out is photo and said.count("<svg") == 1
    assert colour_view.correct(None, 1.0) == ('<p class="vae-manager-about">Drop a picture here first.</p>', None)


def test_the_plans_for_a_size(house: House):
    found = decode_view.plan_html(house, "a.safetensors", 512, 256, "cpu")
    assert "512 × 256" in found and found.count("vae-manager-bar") >= 5 and "vae-manager-chosen" in found
    assert "Tried: " in decode_view.plan_html(house, "a.safetensors", 64, 64, "cpu", run=True)
    assert "Choose a VAE" in decode_view.plan_html(house, None, 64, 64, "cpu")
    assert "cannot be used" in decode_view.plan_html(house, "broken.safetensors", 64, 64, "cpu")


# --- long work


def stopping(after: int):
    """Tells that raise from the one behind `after` on, and what was told before."""
    told: list[tuple] = []

    def tell(*how_far, **words):
        if len(told) >= after:
            raise Interrupted("the work was stopped")
        told.append((how_far, words.get("desc")))

    return tell, told


LONG = {
    "look again": lambda house, tell: library_view.rows(house, house.vaes(), tell),
    "details": lambda house, tell: library_view.details_html(house, "a.safetensors", tell),
    "models": lambda house, tell: models_view.rows(house, tell),
    "compare": lambda house, tell: compare_view.compare(house, ["a.safetensors"], picture(), 256, None, tell),
    "try": lambda house, tell: decode_view.plan_html(house, "a.safetensors", 256, 256, "cpu", run=True, tell=tell),
}


@pytest.mark.parametrize("name", LONG)
def test_every_long_thing_ends_where_it_tells_how_far_it_is(house: House, name: str):
    tell, told = stopping(0)
    with pytest.raises(Interrupted):
        LONG[name](house, tell)
    tell, told = stopping(1000)
    LONG[name](house, tell)
    assert told


def test_a_comparison_tells_of_every_strip_of_every_vae(house: House, write_vae):
    write_vae("VAE/c.safetensors", seed=3)
    told: list[tuple[float, str]] = []
    names = ["a.safetensors", "c.safetensors"]
    compare_view.compare(house, names, picture(), 256, None, lambda share, desc: told.append((share, desc)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == 1 and len(shares) > 4
    assert [name for _, name in told] == sorted(name for _, name in told) and {name for _, name in told} == set(names)


def test_stop_ends_what_runs_and_not_what_is_begun_after_it():
    work, told = Stoppable(), []
    work.stop()  # nothing runs
    with work.running(told.append) as tell:
        tell(1)
        with work.running(told.append) as other:
            work.stop()
            with pytest.raises(Interrupted):
                other(2)
        with pytest.raises(Interrupted):
            tell(3)
    with work.running(told.append) as tell:
        tell(4)
    assert told == [1, 4]


# --- drawing


def test_where_two_pictures_differ():
    one = np.zeros((4, 6, 3), np.float32)
    other = one.copy()
    other[1, 2] = 0.5
    drawn = np.asarray(difference(one, other))
    assert drawn.shape == (4, 6, 3) and tuple(drawn[1, 2]) == (252, 240, 120) and drawn.sum() == drawn[1, 2].sum()


def test_texts_are_escaped_everywhere():
    image = picture(8)
    for found in (
        table(("<b>",), [("<i>",)], "<u>"),
        before_after(image, image, ("<b>", "<i>")),
        histogram(image, '"<b>'),
        bars([("<b>", 1.0, "<i>", True)], ("<u>", 2.0, "<s>")),
    ):
        assert not {"b", "i", "u", "s"} & tags(found)
    assert "width: 50.0%" in bars([("x", 1.0, "", False)], ("y", 2.0, ""))
