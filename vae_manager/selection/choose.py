"""Decide which VAE a job gets: the precedence, with its trace.

`_STEPS` is the whole order, highest first; each step is one short function below that says what it asks for. The
highest step whose wish can be had wins. A wish that cannot be had is passed over with a warning, never silently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from vae_manager.errors import BadInputError, VaeFileError, os_reason
from vae_manager.library.files import VaeFile, vae_file
from vae_manager.library.padding import padding_of_file
from vae_manager.library.tensors import is_safetensors_name
from vae_manager.selection.card import card_vae
from vae_manager.selection.checkpoint import Checkpoint
from vae_manager.selection.decision import AUTOMATIC, BAKED, SAME, Decision, Part, Step
from vae_manager.selection.names import KNOWN_PREFIX, VaeIndex, called, shown
from vae_manager.selection.presets import Preset, VaeWish
from vae_manager.selection.rules import FAMILY_DEFAULT, Rule, builtin_rules
from vae_manager.selection.twins import baked_twin
from vae_manager.selection.wishes import Answer, Wishes

__all__ = ["Answer", "Wishes", "choose"]


@dataclass(frozen=True)
class _Job:
    """One decision on its way: what is wished, and the files that there are."""

    wishes: Wishes
    index: VaeIndex

    @property
    def checkpoint(self) -> Checkpoint | None:
        return self.wishes.checkpoint

    @property
    def preset(self) -> Preset:
        return self.wishes.preset.preset if self.wishes.preset else Preset()


def choose(wishes: Wishes, files: Sequence[VaeFile] | VaeIndex) -> Decision:
    """Go down the precedence until a step decides. Never raises: a bad wish becomes a warning."""
    hashes = wishes.checkpoint.hashes if wishes.checkpoint else None
    job = _Job(wishes, VaeIndex.of(files, hashes))
    trace, answers = [], []
    winner: tuple[str, Answer] | None = None
    for name, ask in _STEPS:
        if winner is not None:
            trace.append(Step(name, "not reached", f"{winner[0]} decided"))
            continue
        answer = ask(job)
        trace.append(Step(name, answer.outcome, answer.detail))
        answers.append(answer)
        if answer.outcome == "chosen":
            winner = name, answer
    decision = _decision(winner, wishes.host, trace)
    warnings = tuple(sentence for answer in answers for sentence in answer.warnings)
    advice = tuple(sentence for answer in answers for sentence in answer.advice)
    return _with_settings(_with_parts(replace(decision, warnings=warnings, advice=advice), job), job)


def _decision(winner: tuple[str, Answer] | None, host: str, trace: list[Step]) -> Decision:
    if winner is None:
        return Decision("host", "host", host, trace=(*trace, Step("host", "chosen", host)))
    step, answer = winner
    return Decision("file" if answer.vae else "baked", step, answer.detail, answer.vae, tuple(trace))


# --- the steps


def _prompt(job: _Job) -> Answer:
    """1. `<vae:NAME>` in that picture's prompt."""
    return _asked(job, job.wishes.prompt or "", "the prompt asks for {}")


def _panel(job: _Job) -> Answer:
    """2. The panel, the API argument or an X/Y/Z cell."""
    return _asked(job, job.wishes.panel, f"{job.wishes.asker} asks for {{}}")


def _override(job: _Job) -> Answer:
    """3. What the user told the host for this job."""
    return _asked(job, job.wishes.job or "", "the WebUI's settings of this job ask for {}")


def _preset(job: _Job) -> Answer:
    """4. The checkpoint's preset."""
    if job.wishes.preset is None:
        return Answer("not asked", "this checkpoint has no preset" if job.checkpoint else _NO_CHECKPOINT)
    return _wished(job, job.preset.vae, f"this checkpoint's preset (by {job.wishes.preset.how}) says {{}}")


def _rules(job: _Job) -> Answer:
    """5. The user's rules, in their order."""
    return _first_rule(job, job.wishes.rules.rules, nag=True)


def _preference(job: _Job) -> Answer:
    """6. The host's own preference: its setting, the checkpoint's card, or a file of exactly the same stem."""
    if job.checkpoint is None:
        return Answer("not asked", _NO_CHECKPOINT)
    setting = _asked(job, job.wishes.setting or "", "the WebUI's settings ask for {}")
    card = _asked(job, card_vae(job.checkpoint.file.path) or "", "the checkpoint's card asks for {}")
    warnings: tuple[str, ...] = ()
    for answer in (setting, card):
        if answer.outcome == "chosen":
            return replace(answer, warnings=warnings)
        warnings += answer.warnings
    beside = _beside(job, job.checkpoint)
    return replace(beside, warnings=warnings + beside.warnings)


def _built_in(job: _Job) -> Answer:
    """7. Built-in rules for known checkpoints. They ask for nothing that the user does not have."""
    return _first_rule(job, builtin_rules().rules, nag=False)


def _baked(job: _Job) -> Answer:
    """8. The VAE baked into the checkpoint, when healthy."""
    if job.checkpoint is None:
        return Answer("not asked", _NO_CHECKPOINT)
    facts, problems = job.checkpoint.facts, job.checkpoint.problems
    if facts.has_vae is False:
        broken = f"the checkpoint cannot be read: {facts.problem}" if facts.problem else None
        return Answer("refused", broken or "the checkpoint has no VAE baked in")
    if facts.has_vae and (problem := next(iter(problems), facts.problem)):
        sentence = f"The VAE baked into {job.checkpoint.file.path.name} is damaged: {problem}."
        return Answer("refused", sentence, warnings=(sentence,))
    if facts.has_vae is None:
        return Answer("chosen", f"the VAE baked into the checkpoint, which was not examined ({facts.problem})")
    return Answer("chosen", f"the VAE baked into the checkpoint{_same_as(job, job.checkpoint)}")


def _default(job: _Job) -> Answer:
    """9. The family's default among the files that are there."""
    if job.checkpoint is None:
        return Answer("not asked", _NO_CHECKPOINT)
    if job.checkpoint.left_alone:
        return Answer("refused", f"the checkpoint is {job.checkpoint.title}: {job.checkpoint.leaves}")
    title = job.checkpoint.space.title if job.checkpoint.space else "it"
    answer = _first_rule(job, builtin_rules().defaults, nag=False)
    if answer.outcome == "chosen":
        return replace(answer, detail=f"the usual choice for {title} among the files that are here")
    if (own := _any_of_family(job, job.checkpoint)) is not None:
        return Answer("chosen", f"the first VAE for {title} that is here", own, advice=answer.advice)
    if (named := _first_rule(job, _by_mere_name(builtin_rules().defaults), nag=False)).outcome == "chosen":
        return replace(named, detail=f"it is called like the usual choice for {title}; its sha256 is on no list")
    unknown = job.checkpoint.space is None
    detail = "the checkpoint's family is not known" if unknown else f"no VAE for {title} is among the files"
    return replace(answer, outcome="refused", detail=detail, warnings=(*answer.warnings, *_nothing(job, detail)))


_STEPS: tuple[tuple[str, Callable[[_Job], Answer]], ...] = (
    ("prompt", _prompt),
    ("panel", _panel),
    ("job", _override),
    ("preset", _preset),
    ("rules", _rules),
    ("preference", _preference),
    ("built-in", _built_in),
    ("baked", _baked),
    ("default", _default),
)

_NO_CHECKPOINT = "no checkpoint is loaded"


# --- what the steps are made of


def _asked(job: _Job, name: str, asker: str) -> Answer:
    """A wish by one name; 'Automatic' and no name at all are no wish. `asker`: who asks, with {} for what."""
    return _wished(job, VaeWish(name.strip() or AUTOMATIC), asker)


def _wished(job: _Job, wish: VaeWish, asker: str) -> Answer:
    if wish.name.casefold() == AUTOMATIC.casefold() and wish.sha256 is None:
        return Answer("not asked", AUTOMATIC)
    return _get(job, wish.name, wish.sha256, asker)


def _get(job: _Job, name: str, sha256: str | None, asker: str) -> Answer:
    """Whether a VAE can be had, and be used with this checkpoint."""
    if name.casefold() in (BAKED.casefold(), "none"):
        return _get_baked(job, asker)
    try:
        held = job.index.with_hash(sha256) if sha256 else []
        file = _present(held[0] if held else job.index.find(name))
        if problem := job.wishes.unusable.get(str(file.path)):
            raise VaeFileError(problem)
        if job.checkpoint and (problem := job.checkpoint.damage(file)):
            raise VaeFileError(problem)
        misfit = job.checkpoint.misfit(file, job.wishes.allow_other_family) if job.checkpoint else None
    except BadInputError as error:
        return _refused(str(error))
    except VaeFileError as error:
        return _refused(error.sentence(called(name)))
    except OSError as error:  # it went away while it was looked at
        return _refused(f"{called(name)} cannot be read: {os_reason(error)}.")
    if misfit:
        return _refused(misfit)
    return Answer("chosen", asker.format(file.name), file)


def _get_baked(job: _Job, asker: str) -> Answer:
    if job.checkpoint and job.checkpoint.facts.has_vae is False:
        return _refused(f"There is no VAE baked into {job.checkpoint.file.path.name}; choose a VAE file for it.")
    same = _same_as(job, job.checkpoint) if job.checkpoint else ""
    return Answer("chosen", asker.format(f"the VAE baked into the checkpoint{same}"))


def _same_as(job: _Job, checkpoint: Checkpoint) -> str:
    """Which file the baked VAE is the same as, for the end of a sentence; empty where that is not known."""
    twin = baked_twin(checkpoint, job.index.files)
    return f", which has the same weights as {twin.name}" if twin else ""


def _refused(sentence: str) -> Answer:
    return Answer("refused", sentence, warnings=(sentence,))


def _present(file: VaeFile) -> VaeFile:
    """The file as it is now: it may have been replaced or deleted since it was listed.

    Raises:
        VaeFileError: it is gone.
    """
    try:
        return vae_file(file.path, file.name)
    except OSError as error:
        raise VaeFileError("it is not there any more; refresh the list") from error


def _first_rule(job: _Job, rules: Sequence[Rule], nag: bool) -> Answer:
    """The first rule that matches and whose VAE can be had.

    `nag`: the user asked, so what cannot be had is a warning; otherwise it is advice.
    """
    if job.checkpoint is None:
        return Answer("not asked", _NO_CHECKPOINT)
    missed: list[str] = []
    unknown: list[str] = []
    for rule in rules:
        matches = rule.matches(job.checkpoint)
        if matches is None:
            unknown.append(f"{_capital(rule.title)} needs a hash or digest that is not known yet.")
        elif matches:
            answer = _by_rule(job, rule)
            if answer.outcome == "chosen":
                return _told(answer, missed, unknown, nag)
            missed.append(f"{_capital(rule.title)} matched, but cannot be followed: {answer.detail}")
    detail = missed[0] if missed else f"none of the {len(rules)} rules matches" if rules else "there are no rules"
    return _told(Answer("refused" if missed else "not asked", detail), missed, unknown, nag)


def _told(answer: Answer, missed: list[str], unknown: list[str], nag: bool) -> Answer:
    if nag:
        return replace(answer, warnings=tuple(missed), advice=tuple(unknown))
    return replace(answer, advice=tuple(missed))


def _by_rule(job: _Job, rule: Rule) -> Answer:
    """The first of the rule's VAEs that can be had; where none can, what is wrong with the first."""
    because = f"{rule.title} matched ({rule.why()})"
    refusal: Answer | None = None
    for vae in rule.vaes:
        answer = _default_answer(job) if vae == FAMILY_DEFAULT else _get(job, vae, None, "")
        if answer.outcome == "chosen":
            return replace(answer, detail=because, warnings=(), advice=())
        refusal = refusal or answer
    assert refusal is not None  # a rule has at least one VAE
    return refusal


def _by_mere_name(rules: Sequence[Rule]) -> list[Rule]:
    """The rules met by a file that is only called like a known VAE: better than no VAE at all."""
    return [replace(rule, vaes=tuple(vae.removeprefix(KNOWN_PREFIX) for vae in rule.vaes)) for rule in rules]


def _default_answer(job: _Job) -> Answer:
    """The family's default for a rule that asks for it; rules for defaults name VAEs, so this goes no deeper."""
    answer = _default(job)
    return answer if answer.outcome == "chosen" else replace(answer, outcome="refused")


def _beside(job: _Job, checkpoint: Checkpoint) -> Answer:
    """A VAE of exactly the checkpoint's stem: `model.vae.pt` for `model.safetensors`, never `model-v2.vae.pt`."""
    same = [file for file in job.index.with_stem(checkpoint.stem) if file.path != checkpoint.file.path]
    beside = [file for file in same if file.path.parent == checkpoint.file.path.parent] or same
    if not beside:
        return Answer("not asked", f"no card, and no VAE file called {shown(checkpoint.stem)}")
    if len({file.path.parent for file in beside}) > 1:
        names = ", ".join(repr(file.name) for file in beside[:8])
        return _refused(f"Several VAEs have the checkpoint's own name ({names}); keep one, or make a preset.")
    beside.sort(key=lambda file: not is_safetensors_name(file.path))
    answer = _get(job, beside[0].path.as_posix(), None, "")
    if answer.vae is None:
        return answer
    return replace(answer, detail=f"{answer.vae.name} has the checkpoint's own name")


def _any_of_family(job: _Job, checkpoint: Checkpoint) -> VaeFile | None:
    """A VAE that is certainly of the checkpoint's latent space."""
    if checkpoint.space is None:
        return None
    for file in _certain(job, checkpoint):
        return file
    return None


def _certain(job: _Job, checkpoint: Checkpoint) -> Iterator[VaeFile]:
    quick = replace(checkpoint, thorough=False)  # not a hash of every VAE that there is
    # but the one that fits is looked into where that is allowed: its name may come first and its numbers be none
    for listed in job.index.files:
        if str(listed.path) in job.wishes.unusable:
            continue
        try:
            # hundreds of files are asked, so only the one that fits is looked at again on the disk
            if (
                _is_certain(quick, listed)
                and _is_certain(quick, file := _present(listed))
                and checkpoint.damage(file) is None
            ):
                yield file
        except (VaeFileError, OSError):
            continue


def _is_certain(checkpoint: Checkpoint, vae: VaeFile) -> bool:
    facts = checkpoint.vae_facts(vae)
    if not facts.latents.certain or facts.channels is None or facts.latents.firm != checkpoint.latents.firm:
        return False
    # an EQ-VAE's latents are those of models that were trained with it, and of no others; it takes a look at the disk
    return padding_of_file(vae) != "reflect"


def _nothing(job: _Job, detail: str) -> tuple[str, ...]:
    assert job.checkpoint is not None
    name = job.checkpoint.file.path.name
    return (f"No VAE was found for {name}: {detail}, and none is baked in; put one into the VAE folder.",)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# --- what comes with the VAE


def _with_parts(decision: Decision, job: _Job) -> Decision:
    """The encode and hires VAE: the panel's, or the preset's unless something above it decided."""
    warnings: list[str] = []
    parts = {}
    above_preset = decision.source in ("prompt", "panel", "job")
    for part, panel, preset in (
        ("encode", job.wishes.encode, job.preset.encode_vae),
        ("hires", job.wishes.hires, job.preset.hires_vae),
    ):
        own = panel.strip().casefold() not in ("", SAME, AUTOMATIC.casefold())
        wish = VaeWish(panel.strip()) if own else VaeWish(SAME) if above_preset else preset
        asker = f"{job.wishes.asker} asks for {{}}" if own else "this checkpoint's preset says {}"
        answer = _part(job, wish, asker)
        warnings += answer.warnings
        if answer.outcome == "chosen":
            parts[part] = Part("file" if answer.vae else "baked", answer.detail, answer.vae)
    return replace(decision, warnings=(*decision.warnings, *warnings), **parts)


def _part(job: _Job, wish: VaeWish, asker: str) -> Answer:
    if wish.name.casefold() == SAME and wish.sha256 is None:
        return Answer("not asked", SAME)
    return _wished(job, wish, asker)


def _with_settings(decision: Decision, job: _Job) -> Decision:
    """Tiling and colour, each from the highest of preset, user's rules and built-in rules that says something.

    They belong to the checkpoint, not to the VAE: who decides the VAE makes no difference.
    """
    said: dict[str, object] = {}
    for source in (job.preset, *_matching(job, job.wishes.rules.rules), *_matching(job, builtin_rules().rules)):
        said = {**source.said, **said}
    return replace(decision, said=said)


def _matching(job: _Job, rules: Sequence[Rule]) -> Iterator[Rule]:
    for rule in rules:
        if rule.said and job.checkpoint and rule.matches(job.checkpoint):
            yield rule
