"""Rules: what matches, what is said about mistakes, and that no file of rules can do harm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.selection.conftest import World
from vae_manager.errors import BadInputError
from vae_manager.library.digest import weights_digest
from vae_manager.library.known import known_vaes
from vae_manager.library.tensors import open_tensors
from vae_manager.selection.rules import (
    _CONDITIONS,
    FIELDS,
    SCHEMA,
    builtin_rules,
    load_rules,
    parse_rules,
)
from vae_manager.selection.settings import RULED


def one(**entry):
    return parse_rules({"version": 1, "rules": [{"when": {}, "vae": "x", **entry}]}, "rules.json")


@pytest.mark.parametrize(
    ("when", "matches"),
    [
        ({}, True),
        ({"name": "real*"}, True),
        ({"name": "REALISTIC_v5.safetensors"}, True),
        ({"name": "istic"}, False),
        ({"name": ["x", "*v5"]}, True),
        ({"name_regex": "v[45]$"}, True),
        ({"name_regex": "^v5"}, False),
        ({"folder": "photo"}, True),
        ({"folder": "models/*"}, True),
        ({"folder": "*/checkpoints/models/photo"}, True),
        ({"folder_regex": "anime"}, False),
        ({"family": "sd1"}, True),
        ({"family": ["sdxl", "flux"]}, False),
        ({"has_vae": True}, True),
        ({"has_vae": False}, False),
        ({"vae_in_name": "none"}, False),
        ({"metadata": {"author": "Some*"}}, True),
        ({"metadata": {"author": "Some*", "other": "*"}}, False),
        ({"metadata_regex": {"author": "one$"}}, True),
        ({"name": "real*", "family": "sdxl"}, False),
    ],
)
def test_conditions(world: World, when: dict, matches: bool):
    path = world.checkpoint("models/photo/realistic_v5.safetensors", author="Someone")
    found = one(when=when)
    assert not found.problems and found.rules[0].matches(world.open(path)) is matches


def test_hashes_match_when_they_are_known_and_say_so_when_not(world: World):
    path = world.checkpoint("a.safetensors")
    checkpoint = world.open(path, thorough=True)
    sha256, digest = checkpoint.sha256(), weights_digest(open_tensors(path)).fp16
    assert sha256
    for when in ({"sha256": sha256[:12].upper()}, {"baked_digest": ["0" * 64, digest]}):
        assert one(when=when).rules[0].matches(checkpoint) is True
    other = world.open(world.checkpoint("b.safetensors", seed=1))
    assert one(when={"sha256": "0" * 64}).rules[0].matches(other) is None
    assert one(when={"sha256": "0" * 64, "name": "x"}).rules[0].matches(other) is False
    bare = world.open(world.checkpoint("c.safetensors", baked=False))
    assert one(when={"baked_digest": "0" * 64}).rules[0].matches(bare) is False


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"name": "n", "vae": 5}, "rule 1 'n', field 'vae' must be text"),
        ({"vae": []}, "rule 1, field 'vae' must be"),
        ({"vae": ["a", ""]}, "field 'vae' must be text"),
        ({"when": None}, "field 'when' must be an object"),
        ({"when": {"nam": "x"}}, "field 'nam' is not known in 'when'; the conditions are family"),
        ({"when": {"family": "sd9"}}, "field 'when.family' is 'sd9'; the families are sd1"),
        ({"when": {"name_regex": "(a"}}, "field 'when.name_regex' is a pattern that cannot be used: it is no valid"),
        ({"when": {"name_regex": r"(a)\1"}}, "'when.name_regex' .* reference back"),
        ({"when": {"metadata": {"k": 1}}}, "field 'when.metadata.k' must be text"),
        ({"when": {"metadata_regex": {"k": "("}}}, "field 'when.metadata_regex.k'"),
        ({"when": {"sha256": "xyz"}}, "field 'when.sha256' is 'xyz', which is not 10 to 64"),
        ({"when": {"has_vae": 1}}, "field 'when.has_vae' must be true or false"),
        ({"tiling": "tiles"}, "field 'tiling' must be one of auto, exact"),
        ({"color": []}, "field 'color' must be one of"),
        ({"color_strength": float("nan")}, "field 'color_strength' must be a number from 0 to 1"),
        ({"enabled": "no"}, "field 'enabled' must be true or false"),
        ({"vea": "x"}, "field 'vea' is not known; the fields are name"),
        ({"vae": "\ud800"}, "half a character"),
    ],
)
def test_a_mistake_names_the_rule_and_the_field(entry: dict, said: str):
    found = one(**entry)
    assert not found.rules and len(found.problems) == 1
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(found.problems[0])
    assert found.problems[0].startswith("In rules.json, rule 1") and "This rule is left out." in found.problems[0]


def test_a_mistake_in_one_rule_leaves_the_others(tmp_path: Path):
    path = tmp_path / "rules.json"
    good = {"when": {}, "vae": "x"}
    path.write_text(json.dumps({"version": 1, "rules": [good, {"vae": 1}, {**good, "enabled": False}, good]}))
    found = load_rules(path)
    assert [rule.number for rule in found.rules] == [1, 4] and len(found.problems) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON (line 1"),
        ("[" * 100_000, "not valid JSON"),
        ("\xff", "not valid JSON"),
        ("[]", "must hold an object"),
        ('{"version": 2, "rules": []}', "field 'version' must be 1"),
        ('{"version": 1, "rules": {}}', "field 'rules' must be a list"),
        ('{"version": 1, "rule": []}', "field 'rule' is not known"),
    ],
)
def test_a_file_that_holds_no_rules(tmp_path: Path, text: str, said: str):
    path = tmp_path / "rules.json"
    path.write_bytes(text.encode("latin-1"))
    found = load_rules(path)
    assert not found.rules and said in found.problems[0] and path.exists()


def test_no_file(tmp_path: Path):
    assert load_rules(tmp_path / "no.json", missing_ok=True).problems == ()
    with pytest.raises(BadInputError, match="no rules file"):
        load_rules(tmp_path / "no.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["(a+)+$", "*", "sd1", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from([*_CONDITIONS, "name", "vae", "when", "tiling", "color_strength", "k"]), inner),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(JSON, max_size=4) | JSON)
def test_no_document_crashes_or_hangs(tmp_path_factory, entries):
    found = parse_rules({"version": 1, "rules": entries})
    checkpoint = _any_checkpoint(tmp_path_factory)
    for rule in found.rules:
        assert rule.matches(checkpoint) in (True, False, None)
    parse_rules(entries)


_KEPT: list = []


def _any_checkpoint(factory):
    if not _KEPT:
        world = World(factory.mktemp("rules"))
        _KEPT.append(world.open(world.checkpoint("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!.safetensors")))
    return _KEPT[0]


# --- what is published


def test_the_schema_says_what_the_program_takes():
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    rule = schema["$defs"]["rule"]["properties"]
    assert (
        tuple(rule)
        == FIELDS
        == ("name", "when", "vae", "tiling", "color", "color_strength", "padding", "enabled", "note")
    )
    assert set(schema["$defs"]["when"]["properties"]) == set(_CONDITIONS)
    choices = {setting.key: setting.rule_choices for setting in RULED if setting.kind == "choice"}
    assert {key: tuple(rule[key]["enum"]) for key in choices} == choices
    assert choices == {
        "tiling": ("auto", "exact", "whole", "host"),
        "color": ("off", "auto", "match"),
        "padding": ("auto", "zeros", "reflect"),
    }
    assert schema["$defs"]["rule"]["required"] == ["when", "vae"]


def test_the_built_in_rules_are_right_and_name_known_vaes():
    found = builtin_rules()
    ids = {f"known:{vae.id}" for vae in known_vaes()}
    assert not found.problems and found.rules and found.defaults
    for rule in (*found.rules, *found.defaults):
        assert set(rule.vaes) <= ids | {"baked", "default"}, rule.title


@pytest.mark.parametrize(
    ("name", "vae"),
    [
        ("AOM3A1B_orangemixs", "known:nai-anime"), ("anything-v4.5-pruned", "known:nai-anime"),
        ("Counterfeit-V2.5", "known:nai-anime"), ("pastelMix", "known:kl-f8-anime2"),
        ("Realistic_Vision_V5.1_noVAE", "known:vae-ft-mse-840000"),
        ("chilloutmix_NiPrunedFp32Fix", "known:vae-ft-mse-840000"),
        ("dreamshaper_8", "baked"), ("bluePencil_v10", "known:clearvae-v2.3"), ("model_baked-vae", "baked"),
        ("something_withoutVAE", "default"), ("my-own-model", None), ("roman", None), ("anything-v3000", None),
        ("model_w-o-vae", "default"), ("merge-of-two-vaes", None),
        ("animeKinoVAE", None), ("AnimeTwo_vae", None), ("casinoVae_v2", None), ("supernovae", None),
        ("model_noBakedVae", "default"), ("model_unbakedVae", "default"), ("modelNoVAE", "default"),
        ("meinamix_meinaV9-NoVae", "known:kl-f8-anime2"), ("dreamshaper_33NoVae", "known:vae-ft-mse-840000"),
        ("myMix_v20BakedVae", "baked"), ("myMix_vaeIncluded", "baked"), ("myMix_withClipVae", "baked"),
        ("anything3d_v1", None), ("anything_v30", "known:nai-anime"), ("anythingV3Pruned", "known:nai-anime"),
        ("AnyOrangeMix_v4", "known:nai-anime"), ("many-orange_3", None), ("anything-4", "known:nai-anime"),
        ("renai-dream", None),
    ],
)  # fmt: skip
def test_the_built_in_rules_on_real_names(world: World, name: str, vae: str | None):
    checkpoint = world.open(world.checkpoint(f"{name}.safetensors"))
    rule = next((rule for rule in builtin_rules().rules if rule.matches(checkpoint)), None)
    assert (rule.vaes[0] if rule else None) == vae
