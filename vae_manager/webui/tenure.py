"""One job's hold on the host's first stage: our functions and weights in it, the host's switches as the job needs them.

Everything that is taken is put on one stack, and letting go gives all of it back. What fails in here ends in the
host's own result, and is told.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from vae_manager.codec import coder
from vae_manager.codec.wrapped import is_video, one_picture
from vae_manager.errors import VaeFileError
from vae_manager.latents.spaces import LatentSpace
from vae_manager.library.files import VaeFile, vae_file
from vae_manager.selection.decision import Decision, Part
from vae_manager.webui.baked import has_baked
from vae_manager.webui.coloring import rescaled
from vae_manager.webui.deciding import decide, follow, write_down
from vae_manager.webui.first_stage import FirstStage
from vae_manager.webui.frames import NO_EDGES, beside, causal_config
from vae_manager.webui.hosts.base import quietly
from vae_manager.webui.hosts.picture_job import PictureJob
from vae_manager.webui.job import Job, name_of
from vae_manager.webui.shelf import Shelf
from vae_manager.webui.tiny import decode_tiny

log = logging.getLogger("vae_manager")


class Tenure:
    """Between `hold` and `let_go`, the model of the moment computes with what the job was given."""

    def __init__(self, shelf: Shelf, stage: FirstStage, view: PictureJob, job: Job, lock: threading.RLock) -> None:
        """`lock`: held while a picture goes through: previews and API threads come in too."""
        self.view, self.job = view, job
        self._shelf, self._host, self._stage, self._lock = shelf, shelf.host, stage, lock
        self._stack = ExitStack()
        self._module: nn.Module | None = None
        """What is held."""
        self._batch: tuple[int, int] | None = None
        """While a batch is decoded: the thread that does it, and how many of its pictures are decoded already."""
        self._finishing = False
        """The batch is decoded: what is decoded now is a part of the picture that is being finished."""

    def hold(self) -> None:
        """Have the model that is loaded now compute with the VAE of the batch's first picture.

        Raises:
            VaeFileError: it cannot be loaded, or does not fit.
        """
        model, job = self._host.current_model(), self.job
        module = self._host.first_stage(model) if model is not None else None
        if module is not None and not job.given_up and self._host.checkpoint(model) != job.checkpoint:
            follow(self._shelf, self.view, job, model)
        if module is None or job.is_idle:
            self.let_go()
            return
        if module is not self._module:
            self.let_go()
            self._stack.callback(self._stage.release)
            self._module = module
            self._settle_tiler(module)
            self._stack.callback(self._host.tell(model, lambda *run: job.foreseen(module, *run)))
        self._stage.hold(
            module,
            {
                "decode": self._decode,
                "encode": self._encode,
                "decoder.forward": lambda inner, *a, **k: self._forward(True, inner, *a, **k),
                "encoder.forward": lambda inner, *a, **k: self._forward(False, inner, *a, **k),
            },
        )
        self._put(self._choice("decode", self.view.first))

    def let_go(self) -> None:
        """Give everything back. Nothing happens where nothing is held."""
        self._module = None
        self._shelf.frames.rest()
        self._stack.close()

    def begin_batch(self) -> None:
        """The host begins to decode the current batch, in this thread."""
        self._batch = (threading.get_ident(), 0)

    def end_batch(self) -> None:
        self._batch = None

    def finish_batch(self, finishing: bool) -> None:
        """The current batch is decoded, and its pictures are finished one by one; or the next one begins."""
        self._finishing = finishing

    def _settle_tiler(self, module: nn.Module) -> None:
        """Another tiler cuts latents up before they reach us: off, where it is the host's own and in the way."""
        job, tiler = self.job, self._host.tiler(module)
        if tiler and (job.mode == "exact" or len(job.decisions) > 1):
            self._stack.callback(self._host.suspend_tiler())
        job.watch.tiler = self._host.tiler(module)
        if tiler and job.mode in ("auto", "exact"):
            what = "your choice 'exact' goes before it" if job.mode == "exact" else "its tiles decode this picture"
            job.watch.warn(f"{tiler} is switched on: {what}. For exact pixels in little memory, switch it off.")

    # --- which VAE

    def _choice(self, part: str, picture: int) -> Decision | Part:
        model = self._host.current_model()
        hires = self.view.in_hires_pass
        return self.job.choice(part, picture, hires, lambda name: decide(self._shelf, self.job, model, name))

    def _put(self, choice: Decision | Part) -> None:
        """Have the first stage compute with the VAE chosen."""
        file, stage = self._file_of(choice), self._stage
        apart = self._is_causal or self._shelf.tinies.of(file, stage.module) is not None
        stage.use(None if apart else file, None if apart else self.job.padding)
        if apart and self.job.padding == "reflect":
            self.job.watch.warn(NO_EDGES)

    def _file_of(self, choice: Decision | Part) -> VaeFile | None:
        """The file whose VAE is to compute; None: the host's own."""
        if choice.kind == "host" or choice.vae is not None:
            return choice.vae
        checkpoint = self._host.checkpoint(self._host.current_model())
        return None if has_baked(self._stage, self.job, checkpoint) else vae_file(checkpoint)

    @property
    def _is_causal(self) -> bool:
        """Whether the model's VAE is one beside which single pictures are computed."""
        return self._stage.module is not None and causal_config(self._stage.module) is not None

    # --- inside the host's decode and encode

    def _in_batch(self) -> bool:
        """Whether this thread decodes the job's batch: a preview does not, nor does what repaints a part of it."""
        return self._batch is not None and self._batch[0] == threading.get_ident() and not self._finishing

    def _pictures(self, count: int) -> list[int]:
        """Which pictures the next `count` rows are. Previews, in their own thread, are shown as the first."""
        first, last = self.view.first, self.view.first + self.view.batch_size - 1
        if self._batch is None or not self._in_batch():
            return [self._current()] * count
        done = self._batch[1]
        self._batch = (self._batch[0], done + count)
        return [min(first + done + row, last) for row in range(count)]

    def _current(self) -> int:
        """The picture that is encoded, or decoded outside its batch."""
        return self.view.at if self._finishing else self.view.first

    def _decode(self, inner: Callable[..., Any], z: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around the host's `first_stage.decode`: every picture with its own VAE."""
        with self._lock:
            if self._module is None:
                return inner(z, *args, **kwargs)
            try:
                self._keep(z)
                z = self._scaled_right(z)
                pictures = self._pictures(z.shape[0])
                choices = [self._choice("decode", picture) for picture in pictures]
            except Exception as error:
                self._leave_it_to_the_host(error)
                return inner(z, *args, **kwargs)

            def decode(choice: Decision | Part, rows: slice) -> Any:
                return self._decode_with(choice, pictures[rows], lambda z: inner(z, *args, **kwargs), z[rows])

            if len({(choice.kind, choice.vae) for choice in choices}) == 1:
                found = decode(choices[0], slice(None))
            else:
                found = torch.cat([decode(choice, slice(i, i + 1)) for i, choice in enumerate(choices)])
            self._note(pictures, choices, found)
            return found

    def _decode_with(self, choice: Decision | Part, pictures: list[int], inner: Any, z: Tensor) -> Any:
        """Decode pictures that have one choice in common."""
        try:
            self._put(choice)
            if (tiny := self._shelf.tinies.of(choice.vae, self._stage.module)) is not None:
                return decode_tiny(tiny, z, self._space(z, scaled=True))
            if self._is_causal:
                inner = self._single(True, choice, inner)
        except Exception as error:
            self._leave_it_to_the_host(error, choice)
            if self._in_batch():
                self.job.failed.update(pictures)
                self._write_again()
        streamed = len(self.job.watch.streamed)
        found = inner(z)
        self._note_exactness(pictures, len(self.job.watch.streamed) > streamed)
        return found

    def _encode(self, inner: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around the host's `first_stage.encode`."""
        with self._lock:
            choice = None
            try:
                if self._module is not None:
                    choice = self._choice("encode", self._current())
                    self._put(choice)
                    if self._is_causal and not (args or kwargs):
                        inner = self._single(False, choice, inner)
            except Exception as error:
                self._leave_it_to_the_host(error, choice)
            return inner(x, *args, **kwargs)

    def _single(self, decodes: bool, choice: Decision | Part, inner: Callable[[Tensor], Tensor]) -> Any:
        """The way of a picture with a causal 3-D VAE: the host's own, or beside it through a network of ours."""
        module, job, file = self._stage.module, self.job, self._file_of(choice)
        assert module is not None
        file = file if self._shelf.tinies.of(file, module) is None else None  # beside a tiny one the host's own encodes
        if file is None and job.mode != "exact":
            return inner
        weights = file.version if file else self._own_weights()
        return beside(self._shelf.frames.of(file, module), decodes, inner, job.mode, weights, job.watch)

    def _own_weights(self) -> str:
        """What the host's own VAE is called where overflows are remembered."""
        return str(self._host.checkpoint(self._host.current_model()))

    def _forward(self, decodes: bool, inner: Callable[..., Any], x: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Around the `forward` of the decoder or encoder: in one piece or streamed."""
        with self._lock:
            module, job = self._stage.module, self.job
            if self._module is None or module is None or args or kwargs or x.ndim != 4 or job.mode == "host":
                return inner(x, *args, **kwargs)
            part = module.get_submodule("decoder" if decodes else "encoder")
            return coder.run(inner, part, x, decodes, job.mode, self._stage.version or self._own_weights(), job.watch)

    def _leave_it_to_the_host(self, error: Exception, choice: Decision | Part | None = None) -> None:
        """Something of ours failed inside the host's decode or encode: its own VAE does it, and that is told."""
        if isinstance(error, VaeFileError):
            message = error.sentence(name_of(choice or self.job.decision))
        else:
            log.error("VAE Manager failed", exc_info=error)
            message = f"VAE Manager failed ({error})."
        self.job.watch.warn(f"{message} The WebUI's own VAE was used.")
        quietly(self._stage.put_back)

    def _note_exactness(self, pictures: list[int], streamed: bool) -> None:
        """Of a batch's pictures, whether they were decoded exactly where that was asked for."""
        if (job := self.job).mode != "exact" or not self._in_batch():
            return
        before = set(job.inexact)
        job.inexact = before.difference(pictures) if streamed else before.union(pictures)
        if job.inexact != before:
            self._write_again()

    def _write_again(self) -> None:
        """What the infotext claims of some pictures is not what was done."""
        path = self._host.checkpoint(self._host.current_model())
        decisions = {name: found for (of, name), found in self.job.decisions.items() if of == path}
        write_down(self._shelf, self.view, self.job, decisions, again=True)

    # --- what is kept of a picture

    def _keep(self, z: Tensor) -> None:
        """Keep a latent for calibrating."""
        if not self.view.is_detail and not self._finishing and not is_video(z):
            kept = one_picture(z)[:1].detach().to("cpu", torch.float32, copy=True)
            self._shelf.latents.append((self._host.checkpoint(self._host.current_model()), kept))

    def _note(self, pictures: list[int], choices: list[Decision | Part], found: Any) -> None:
        """Remember what decoded the pictures of this batch, and the first pass of hires fix, for their colours."""
        job = self.job
        if not self._in_batch() or not job.looks_at_colors(self.view):
            return  # a preview; or nobody will ask
        try:
            for row, (picture, choice) in enumerate(zip(pictures, choices, strict=True)):
                made = job.made[picture] = self._shelf.made_by(job, choice)
                # another tiler hands over tiles, and a video is not one picture
                if job.color.mode == "auto" and not (job.watch.tiler or is_video(found)):
                    pixels = one_picture(found)[row].detach().float() / 2 + 0.5
                    job.keep(picture, made, pixels, self.view.in_first_pass)
        except Exception:
            log.exception("VAE Manager could not note what decoded a picture; its colours are judged without that")

    def _scaled_right(self, z: Tensor) -> Tensor:
        """Unscaled latents as the family's models mean them, where the host divides by another family's number."""
        model, module = self._host.current_model(), self._stage.module
        if self.job.color.mode == "off" or module is None:
            return z
        found = rescaled(self._host.scale_factor(model, module), self._space(z, scaled=False))
        if found is None:
            return z
        factor, fault = found
        self.job.watch.warn(f"{fault.sentence}; it was decoded at the right one instead.")
        return z * factor

    def _space(self, z: Tensor, scaled: bool) -> LatentSpace | None:
        found = self._shelf.checkpoint(self._host.current_model())
        return found.space_for(z.shape[1], scaled) if found else None
