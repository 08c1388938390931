"""The host's processing object, `p`, as everybody else sees it: nobody outside this folder reads an attribute of it.

Hosts make shallow copies of a `p` (X/Y/Z plots, prompts from a file), and run one `p` again and again (loopback, tiled
upscalers). So what we put on it is one attribute, `vae_manager`, that knows whose it is: a copy's is not taken for its
own, and every run begins without what the last one left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from vae_manager.webui.job import Job

OURS = "vae_manager"
"""The attribute of `p` that holds its view, while there is something to hold."""

CELL = "vae_manager_cell"
"""The attribute of `p` that holds what an X/Y/Z cell asks for. A cell's copies keep it."""

Said = str | None | Callable[..., str | None]
"""A value of the infotext, or a function that the host calls for each picture with what it knows of it."""


class PictureJob:
    """One run of one processing object. Make it with `PictureJob.of`."""

    def __init__(self, p: Any) -> None:
        self._p = p
        self.job: Job | None = None
        """What it was given by us; None: nothing."""
        self._init: _Around | None = None
        self._close: _Around | None = None
        self._begin: Callable[[], None] | None = None
        self._wrote: frozenset[str] = frozenset()

    @staticmethod
    def of(p: object) -> PictureJob:
        """The view of a processing object: always the same one while it holds anything of ours."""
        if isinstance(p, PictureJob):
            return p
        held = vars(p).get(OURS)
        return held if held is not None and held._p is p else PictureJob(p)

    def is_of(self, other: PictureJob) -> bool:
        """Whether both are views of one processing object."""
        return self._p is other._p

    # --- what it asks for

    @property
    def prompts(self) -> list[str]:
        """The prompts of all its pictures, tags included."""
        return list(getattr(self._p, "all_prompts", None) or [""])

    @property
    def negative_prompts(self) -> list[str]:
        return list(getattr(self._p, "all_negative_prompts", None) or [])

    @property
    def hires_prompts(self) -> list[str]:
        """Those of the hires pass; empty where there is none."""
        return list(getattr(self._p, "all_hr_prompts", None) or []) if self.has_hires_pass else []

    @property
    def has_hires_pass(self) -> bool:
        return bool(getattr(self._p, "enable_hr", False))

    @property
    def override(self) -> str | None:
        """What this job has instead of the host's `sd_vae` setting, as it is written there."""
        wanted = (getattr(self._p, "override_settings", None) or {}).get("sd_vae")
        return None if wanted is None else str(wanted)

    @property
    def override_modules(self) -> tuple[str, ...] | None:
        """The modules (VAE and text encoders) that this job has instead of Forge's list: names or paths."""
        wanted = (getattr(self._p, "override_settings", None) or {}).get("forge_additional_modules")
        return tuple(map(str, wanted)) if isinstance(wanted, (list, tuple)) else None

    @property
    def is_detail(self) -> bool:
        """Whether it paints a part of another job's picture (ADetailer), which is pasted into a finished whole."""
        return bool(vars(self._p).get("_ad_inner"))

    @property
    def cell(self) -> dict[str, object]:
        """What an X/Y/Z cell of ours asks for."""
        return dict(getattr(self._p, CELL, {}))

    def set_in_cell(self, name: str, value: object) -> None:
        """Have the cell ask for something. A new dict: cells are shallow copies of one another."""
        setattr(self._p, CELL, {**self.cell, name: value})

    def began_with(self, index: int) -> Image.Image | None:
        """The picture that img2img began with, for one picture of the batch, where it lies under the whole of it."""
        images = getattr(self._p, "init_images", None) or []
        if not images or getattr(self._p, "paste_to", None) is not None:  # "only masked" paints an enlarged part
            return None
        return images[min(index, len(images) - 1)]

    @property
    def mask(self) -> Image.Image | None:
        """White where img2img was to paint anew."""
        return getattr(self._p, "image_mask", None)

    # --- where it is

    @property
    def batch_size(self) -> int:
        return int(getattr(self._p, "batch_size", 1) or 1)

    @property
    def first(self) -> int:
        """The current batch's first picture, counted over the whole job."""
        return int(getattr(self._p, "iteration", 0) or 0) * self.batch_size

    @property
    def at(self) -> int:
        """The picture that is being finished, likewise."""
        return self.first + int(getattr(self._p, "batch_index", 0) or 0)

    @property
    def in_first_pass(self) -> bool:
        """Whether a hires pass is still to come."""
        return self.has_hires_pass and not getattr(self._p, "is_hr_pass", True)

    @property
    def in_hires_pass(self) -> bool:
        return bool(getattr(self._p, "is_hr_pass", False))

    def rewrite_batch(self, positive: Callable[[str], str], negative: Callable[[str], str]) -> None:
        """Change the prompts of the batch that comes next, in their own lists: the infotext keeps the job's."""
        for name, change in (("prompts", positive), ("negative_prompts", negative)):
            prompts = getattr(self._p, name, None) or []
            for index, prompt in enumerate(prompts):
                if (changed := change(prompt)) != prompt:
                    prompts[index] = changed

    # --- what is said of it

    def comment(self, text: str) -> None:
        """Tell the user, below the pictures."""
        self._p.comment(text)

    def record(self, values: Mapping[str, Said]) -> None:
        """Write into the infotext; None takes a line of the host's own out.

        The parameters become a dict of this job's own: copies go on sharing the dict of the original.
        """
        self._keep()
        self._wrote = self._wrote | frozenset(values)
        self._p.extra_generation_params = {**self._p.extra_generation_params, **values}

    def record_vae(self, name: str | None, short_hash: str | None) -> None:
        """Set the host's own two lines, where it has them."""
        self._p.sd_vae_name, self._p.sd_vae_hash = name, short_hash

    def unrecord(self, *keys: str) -> None:
        """Take lines out of the infotext: these, or all that we wrote."""
        gone = frozenset(keys) or self._wrote
        self._wrote = self._wrote - gone
        if gone:
            params = self._p.extra_generation_params
            self._p.extra_generation_params = {key: value for key, value in params.items() if key not in gone}

    def picture_of(self, known: Mapping[str, Any]) -> int:
        """Which picture an infotext is for: while a batch is saved hosts count within it, afterwards over the job."""
        index = int(known.get("index") or 0)
        return self.first + index if known.get("all_prompts") is getattr(self._p, "prompts", None) else index

    # --- its beginning and its end

    def forget(self) -> None:
        """Before a run: take away what an earlier one has left, here or on what this is a copy of."""
        held: PictureJob | None = vars(self._p).pop(OURS, None)
        if held is None:
            return
        for around in (held._init, held._close):
            if around is not None:
                around.remove(self._p)
        self._wrote = held._wrote
        self.unrecord()
        self.job = None

    def when_final(self, begin: Callable[[], None]) -> None:
        """Have `begin` called once, when all `process` hooks are through: hosts call `p.init` then, which encodes."""
        if not callable(getattr(self._p, "init", None)):
            begin()
            return
        self._keep()
        self._begin, self._init = begin, _Around(self._p, "init", self.begin_now)

    def begin_now(self) -> None:
        """Call what `when_final` was given, unless it was called already."""
        begin, self._begin = self._begin, None
        if self._init is not None:
            self._init.remove(self._p)
            self._init = None
            if not self._close and not self._wrote and self.job is None:
                vars(self._p).pop(OURS, None)
        if begin is not None:
            begin()

    def close_with(self, end: Callable[[], None]) -> None:
        """Have `end` called before the host closes the job, which it does after an exception too."""
        self._keep()
        if self._close is None:
            self._close = _Around(self._p, "close", end)

    def _keep(self) -> None:
        vars(self._p)[OURS] = self


class _Around:
    """One method of one `p`, with something of ours called before it."""

    def __init__(self, p: Any, name: str, before: Callable[[], None]) -> None:
        self.name, self.before, self.inner = name, before, getattr(p, name)
        self.own = vars(p).get(name)
        """What stood on the object itself; None: the class's own."""
        vars(p)[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.before()
        return self.inner(*args, **kwargs)

    def remove(self, p: Any) -> None:
        """Give the method back, of `p` or of a copy of it. Where somebody has wrapped it since, ours stays below."""
        if vars(p).get(self.name) is self:
            if self.own is None:
                del vars(p)[self.name]
            else:
                vars(p)[self.name] = self.own
