"""One picture job: what it asked for, what each of its pictures is given, and what its infotext says of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vae_manager.codec.coder import Watch, foreseen
from vae_manager.codec.kinds.shapes import Padding
from vae_manager.color.statistics import OwnEnds, own_ends
from vae_manager.library.files import VaeFile
from vae_manager.selection.decision import AUTOMATIC, BAKED, SAME, Decision, Part
from vae_manager.selection.prompt_tags import refuse_vae_tag, take_vae_tag
from vae_manager.selection.settings import ENCODE_VAE, HIRES_VAE, PanelSettings, by_hand, said_by, with_said
from vae_manager.webui.chooser import Asked
from vae_manager.webui.coloring import FirstPass, Made, Wish
from vae_manager.webui.hosts.picture_job import PictureJob, Said
from vae_manager.webui.infotext import SHORT_HASH, Recorded
from vae_manager.webui.looking import same_file

Name = str | None
"""What a picture's prompt asks for."""


@dataclass(frozen=True)
class Tags:
    """What the prompts of a job ask for, picture by picture."""

    names: tuple[Name, ...] = (None,)
    hires: tuple[Name, ...] = ()
    """What a hires prompt of its own asks for; empty where there is none."""
    warnings: tuple[str, ...] = ()

    @property
    def asks(self) -> bool:
        return any(self.names) or any(self.hires)

    def of(self, picture: int) -> Name:
        return self.names[min(picture, len(self.names) - 1)]

    def of_hires(self, picture: int) -> Name:
        return self.hires[picture] if picture < len(self.hires) else None


def read_tags(view: PictureJob) -> Tags:
    """The `<vae:NAME>` tags of all prompts of a job."""
    prompts, hires, negative = view.prompts, view.hires_prompts, view.negative_prompts
    if not any(may_ask(prompt) for prompt in (*prompts, *hires, *negative)):
        return Tags((None,) * len(prompts))
    found = {prompt: take_vae_tag(prompt) for prompt in {*prompts, *hires}}
    warnings = [w for prompt in [*prompts, *hires] for w in found[prompt].warnings]
    warnings += [w for prompt in dict.fromkeys(negative) for w in refuse_vae_tag(prompt).warnings]
    own = [found[h].vae if h not in prompts[i : i + 1] else None for i, h in enumerate(hires)]
    names = tuple(found[prompt].vae for prompt in prompts) or (None,)
    return Tags(names, tuple(own) if any(own) else (), tuple(dict.fromkeys(warnings)))


def strip_tags(view: PictureJob) -> None:
    """Take the tags out of the prompts of the batch that comes next: the model never sees them, the infotext does."""
    view.rewrite_batch(
        lambda prompt: take_vae_tag(prompt).prompt if may_ask(prompt) else prompt,
        lambda prompt: refuse_vae_tag(prompt).prompt if may_ask(prompt) else prompt,
    )


def may_ask(prompt: str) -> bool:
    """Whether there is anything in a prompt that looks like a tag of ours: most jobs are none of our business."""
    return "<vae:" in prompt.lower()


@dataclass
class Job:
    """What one processing object asked for and was given. The session alone changes it."""

    asked: Asked
    watch: Watch
    tags: Tags = field(default_factory=Tags)
    decisions: dict[tuple[Path, Name], Decision] = field(default_factory=dict)
    """By checkpoint and by what the prompt asks for."""
    decision: Decision = field(default_factory=lambda: Decision("host", "host", "nothing was decided yet"))
    """Of the first picture, with the model of the moment."""
    checkpoint: Path | None = None
    """The checkpoint of that model."""
    hashes: dict[Path, str] = field(default_factory=dict)
    """sha256 of the VAE files that were used, the host's own included."""
    has_baked: dict[Path, bool] = field(default_factory=dict)
    """By checkpoint: whether the host's first stage holds the VAE that is baked in."""
    made: dict[int, Made] = field(default_factory=dict)
    """What decoded a picture last, by its place in the job: in hires fix, what decoded the second pass."""
    own_ends: dict[int, OwnEnds] = field(default_factory=dict)
    """How far its decoder went beyond black and white, likewise, until the picture is finished."""
    first_passes: dict[int, FirstPass] = field(default_factory=dict)
    """What hires fix goes on with, until the picture is finished."""
    colors: dict[int, str] = field(default_factory=dict)
    """What was found wrong with a picture's colours, by its place in the job."""
    failed: set[int] = field(default_factory=set)
    """Pictures that could not be decoded with what was chosen: the host's own VAE did it."""
    inexact: set[int] = field(default_factory=set)
    """Pictures that were to be decoded exactly, and could not be: the host decoded them in its own way."""
    given_up: bool = False
    """Something broke: it is left to the host from here on."""
    warnings: list[str] = field(default_factory=list)

    @property
    def own(self) -> Path | None:
        """The VAE file that the host itself has loaded into that model."""
        return self.asked.own

    @property
    def is_idle(self) -> bool:
        """Whether there is nothing to do for it in the model."""
        host = all(decision.kind == "host" for decision in self.decisions.values())
        return self.given_up or self.asked.left_alone is not None or (host and not self.asked.on and not self.tags.asks)

    def looks_at_colors(self, view: PictureJob) -> bool:
        """Whether anything is to be done about the colours of its pictures."""
        return self.color.mode != "off" and not view.is_detail

    @property
    def settings(self) -> PanelSettings:
        """What the panel asks for, and where it leaves something open what a preset or rule says of the checkpoint."""
        settings = with_said(self.asked.settings, self.decision.said)
        # nothing of ours is in the decode of a VAE that is left alone, so nothing is claimed of it
        return settings if self.asked.left_alone is None else replace(settings, decode=PanelSettings.decode)

    @property
    def mode(self) -> str:
        """The decode mode."""
        return self.settings.decode

    def foreseen(self, module: nn.Module, shape: tuple[int, ...], device: torch.device, decodes: bool) -> int | None:
        """Bytes that a run through the host's first stage will take; None where it will be the host's own way."""
        if self.mode == "host" or len(shape) != 4:
            return None
        part = module.get_submodule("decoder" if decodes else "encoder")
        return foreseen(part, shape, device, decodes, self.mode, self.watch)

    @property
    def padding(self) -> Padding | None:
        """The user's word for how its VAEs pad; None: nobody has said."""
        padding = self.settings.padding
        return None if padding == "auto" else padding

    @property
    def color(self) -> Wish:
        """What is to be done about colours."""
        settings = self.settings
        return Wish(settings.color, settings.color_strength, by_hand(settings), settings.reference)

    def choice(self, part: str, picture: int, hires_pass: bool, decide: Callable[[Name], Decision]) -> Decision | Part:
        """Which VAE one picture is decoded or encoded with in one pass.

        Args:
            part: 'decode' or 'encode'.
            decide: the decision for what a prompt asks for, with the model of the moment.
        """
        decision = decide(self.tags.of(picture))
        if part == "encode" and decision.encode is not None:
            return decision.encode
        if hires_pass:
            name = self.tags.of_hires(picture)
            return decide(name) if name else decision.hires or decision
        return decision

    def keep(self, picture: int, made: Made, pixels: Tensor, first_pass: bool) -> None:
        """What the colours of a picture are judged by: (3, H, W) as decoded, 0 black and 1 white, not clipped yet."""
        self.own_ends.pop(picture, None)
        if (ends := own_ends(pixels)) is not None:
            self.own_ends[picture] = ends
        if first_pass:
            self.first_passes[picture] = FirstPass(pixels.clamp(0, 1).to("cpu", torch.float16), made)

    def document(self) -> dict[str, Any]:
        """For the REST interface."""
        decision = self.decision
        return {
            "vae": decision.vae.name if decision.vae else None,
            "kind": decision.kind,
            "source": decision.source,
            "reason": decision.reason,
            "hash": self.short_hash(decision.vae.path if decision.vae else self.own),
            ENCODE_VAE.name: _named(decision.encode),
            HIRES_VAE.name: _named(decision.hires),
            "decode": self.mode,
            "streamed": list(self.watch.streamed),
            "colors": {str(picture): said for picture, said in self.colors.items()},
            "warnings": list(self.warnings),
            "advice": list(decision.advice),
            "trace": [{"step": s.step, "outcome": s.outcome, "detail": s.detail} for s in decision.trace],
        }

    def short_hash(self, path: Path | None) -> str | None:
        sha256 = self.hashes.get(path) if path else None
        return sha256 and sha256[:SHORT_HASH]

    def recorded(self, decision: Decision) -> Recorded:
        """What the infotext says of a picture with this decision."""
        settings = PanelSettings(
            encode_vae=_named(decision.encode) or SAME,
            hires_vae=_named(decision.hires) or SAME,
            **said_by(self.settings),
        )
        if decision.kind == "file" and decision.vae:
            return Recorded(replace(settings, vae=decision.vae.name), self.short_hash(decision.vae.path))
        automatic = decision.kind == "host" or (decision.source not in ("prompt", "panel", "job") and self.own is None)
        return Recorded(replace(settings, vae=AUTOMATIC if automatic else BAKED))

    def named(self, decision: Decision) -> tuple[str | None, str | None]:
        """File name and short hash for the infotext's own `VAE` lines; (None, None) for the baked one."""
        file = decision.vae.path if decision.vae else self.own if decision.kind == "host" else None
        return (file.name, self.short_hash(file)) if file else (None, None)


def differing(
    tags: Tags, decisions: Mapping[Name, Decision], say: Callable[[Decision], str | None], prompts: Sequence[str]
) -> Said:
    """A value of the infotext: one for all pictures, or a function that the host calls for each."""
    said = {name: say(decision) for name, decision in decisions.items()}
    if len(set(said.values())) == 1:
        return said[tags.of(0)]

    def for_picture(**known: Any) -> str | None:
        # hosts index within the batch or within the job; the prompt at that place is the picture's own either way
        own, index = known.get("all_prompts") or prompts, known.get("index") or 0
        return said.get(take_vae_tag(own[min(index, len(own) - 1)]).vae)

    return for_picture


def as_host(decision: Decision, own: Path | None) -> Decision:
    """The decision, where the host itself has loaded the VAE that it is for: that need not be swapped."""
    file = decision.vae
    if file is None or not same_file(file.path, own) or decision.source not in ("job", "preference"):
        return decision
    return replace(decision, kind="host", vae=None)


def overruled(override: str | None, decisions: Iterable[Decision], path_of: Callable[[str], str]) -> list[str]:
    """What to say where the host's own setting for this job does not decide, such as a cell of its X/Y/Z plot.

    Args:
        path_of: which file the host means by a name.
    """
    if override is None or override.casefold() == AUTOMATIC.casefold():
        return []
    for decision in decisions:
        if decision.source not in ("prompt", "panel"):
            continue
        file = decision.vae
        meant = {file.name, file.path.name, str(file.path)} if file else {BAKED, "None"}
        if not {override, path_of(override)} & meant:
            return [
                f"This job's sd_vae setting, {override!r:.82}, does not decide, also where a grid's label says so: "
                f"{decision.reason}. With VAE on Automatic in the panel it would."
            ]
    return []


def told(decisions: Iterable[Decision]) -> list[str]:
    """The decisions' warnings, each set with what was done instead."""
    found: list[str] = []
    for decision in decisions:
        found += decision.warnings
        if decision.warnings:
            found[-1] += f" The picture was made with {_used(decision)}."
    return found


def _used(decision: Decision) -> str:
    if decision.vae is not None:
        return f"{decision.vae.name} ({decision.reason})"
    return "the VAE baked into the checkpoint" if decision.kind == "baked" else "the WebUI's own VAE"


def files_of(decision: Decision) -> tuple[VaeFile, ...]:
    """Every VAE file that a decision needs."""
    parts = (decision, decision.encode, decision.hires)
    return tuple(dict.fromkeys(part.vae for part in parts if part is not None and part.vae is not None))


def name_of(choice: Decision | Part) -> str:
    """What a choice is called in a sentence."""
    return choice.vae.name if choice.vae else "The baked VAE"


def _named(part: Part | None) -> str | None:
    return None if part is None else part.vae.name if part.vae else BAKED
