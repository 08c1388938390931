"""What the prompts of a job ask for, and what the model and the infotext see of it."""

from __future__ import annotations

from types import SimpleNamespace

from vae_manager.selection.decision import Decision
from vae_manager.webui.hosts.picture_job import PictureJob
from vae_manager.webui.job import Tags, differing, strip_tags
from vae_manager.webui.job import read_tags as tags_of


def job(**values) -> SimpleNamespace:
    return SimpleNamespace(**{"all_prompts": ["a"], "all_negative_prompts": [""], **values})


def read_tags(p: SimpleNamespace) -> Tags:
    return tags_of(PictureJob.of(p))


def test_each_picture_asks_for_its_own():
    tags = read_tags(job(all_prompts=["a <vae:one>", "b", "<vae:two:1> c"]))
    assert tags.names == ("one", None, "two") and tags.asks
    assert [tags.of(i) for i in range(4)] == ["one", None, "two", "two"]


def test_a_hires_prompt_of_its_own_asks_for_the_hires_pass():
    same = ["a <vae:one>"]
    assert read_tags(job(all_prompts=same, all_hr_prompts=same, enable_hr=True)).hires == ()
    tags = read_tags(job(all_prompts=["a <vae:one>"], all_hr_prompts=["b <vae:two>"], enable_hr=True))
    assert tags.of(0) == "one" and tags.of_hires(0) == "two" and tags.of_hires(1) is None
    assert read_tags(job(all_hr_prompts=["b <vae:two>"])).hires == ()  # hires fix is off


def test_in_the_negative_prompt_it_is_a_mistake():
    tags = read_tags(job(all_negative_prompts=["bad <vae:one>"] * 3))
    assert not tags.asks and len(tags.warnings) == 1 and "negative prompt" in tags.warnings[0]


def test_the_model_sees_no_tag_and_other_prompts_are_left_alone():
    p = job(prompts=["a cat <vae:one>", "plain <lora:x:1>"], negative_prompts=["<vae:one> bad", "bad"])
    prompts = p.prompts
    strip_tags(PictureJob.of(p))
    assert p.prompts is prompts == ["a cat", "plain <lora:x:1>"]
    assert p.negative_prompts == ["bad", "bad"]
    strip_tags(PictureJob.of(SimpleNamespace()))


def test_the_infotext_is_one_value_or_one_for_each_prompt():
    decisions = {name: Decision("file", "prompt", str(name)) for name in ("one", None, "two")}
    prompts = ["a <vae:one>", "b", "<vae:two> c"]
    tags = read_tags(job(all_prompts=prompts))
    assert differing(tags, decisions, lambda d: "same", prompts) == "same"
    value = differing(tags, decisions, lambda d: d.reason, prompts)
    assert callable(value)
    # hosts count within the batch while they save it, and over the job afterwards
    assert value(all_prompts=prompts[1:], index=1) == "two"
    assert value(all_prompts=prompts, index=0) == "one"
    assert value(all_prompts=prompts, index=99) == "two" and value() == "one"
