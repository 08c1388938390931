"""The KL autoencoder's decoder or encoder as something that can be planned and streamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_manager.codec.streaming import plan as plans
from vae_manager.codec.streaming.heap import Heap
from vae_manager.codec.streaming.kernels import live_weight
from vae_manager.codec.streaming.passes import passes
from vae_manager.codec.streaming.plan import Plan, Request
from vae_manager.codec.streaming.run import Point, Run, run_stage
from vae_manager.codec.streaming.strips import Map
from vae_manager.codec.streaming.structure import Chain, decoder_chain, encoder_chain


@dataclass(frozen=True, eq=False)
class KLCoder:
    """One half of a KL autoencoder. See `api.Coder` for what its methods promise."""

    chain: Chain

    @staticmethod
    def of(vae: nn.Module, decodes: bool) -> KLCoder:
        """Read the modules.

        Raises:
            VaeFileError: their structure is not understood.
        """
        return KLCoder(decoder_chain(vae) if decodes else encoder_chain(vae))

    @property
    def decodes(self) -> bool:
        return self.chain.decodes

    @property
    def weight(self) -> Tensor:
        return self.chain.stages[-1].tail.weight  # type: ignore[union-attr, return-value]

    def result_shape(self, height: int, width: int) -> tuple[int, int, int]:
        last = plans.stage_grids(self.chain, height, width)[-1]
        return plans.channels_out(self.chain), last.height, last.width

    def best_plan(self, request: Request) -> Plan:
        return plans.best_plan(self.chain, request)

    def pass_work(self, plan: Plan) -> list[float]:
        return plans.pass_work(self.chain, plan)

    def stream(
        self,
        picture: Tensor,
        plan: Plan,
        emit: Callable[[Tensor], None],
        begin: Callable[[], None],
        tick: Callable[[float], None],
    ) -> None:
        chain = self.chain
        heap = Heap(plan.peak_bytes, plan.device)
        run = Run(plan.device, plan.dtype, plan.storage, chain.wraps, plan.attention_bytes, plan.sides[0], tick, heap)
        x = picture.to(plan.device, plan.dtype).permute(1, 2, 0).contiguous()
        if chain.pre is not None:
            x = _pointwise(x, chain.pre)
        point = Point(None, x.abs().amax(dim=(0, 1)).to("cpu").double())
        source = Map(x.shape[0], plan.device)
        source.append(x)
        del x

        def finish(strip: Tensor) -> None:
            if chain.post is not None:
                strip = _pointwise(strip, chain.post)
            emit(torch.tanh(strip) if chain.tanh else strip)

        policies = zip(plan.keeps, plan.rows, plan.sides)
        for stage, steps, (keep, rows, side) in zip(chain.stages, plans.stage_steps(chain), policies):
            todo, run = passes(plans.kinds(steps), keep), replace(run, side=side)
            source, point = run_stage(stage, steps, todo, rows, source, point, run, finish, begin)


def _pointwise(x: Tensor, conv: nn.Module) -> Tensor:
    """A 1×1 convolution of a channels-last strip."""
    weight, bias = live_weight(conv, x)
    return F.linear(x, weight.flatten(1), bias)
