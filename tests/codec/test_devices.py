"""Right on every device, shown without one: nothing mixes devices, waits more than it must, or needs float64."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.codec.pretended import DEVICE, NAME, Watch, moved, pretended, tensors
from tests.codec.streaming_vaes import small_vae
from vae_manager.codec import coder
from vae_manager.codec.kinds.registry import chain_of
from vae_manager.codec.memory import UNKNOWN, free_bytes
from vae_manager.codec.streaming import MODES, plan_decode, plan_encode, steps, stream_decode, stream_encode, strips
from vae_manager.codec.streaming.strips import Map
from vae_manager.codec.swap import in_place, install, remove

STRIP = 512
"""Pixels of a strip: the largest maps below are cut in two, so that what is done for each strip is done too often."""

ROW = 256
"""Numbers in a row of any map but the input and the result; statistics are fewer."""

Z, X = (1, 4, 16, 16), (1, 3, 32, 32)
"""Small: what does not compute is slow for all that."""


def kl() -> nn.Module:
    return small_vae((8, 16))


def causal() -> nn.Module:
    from vae_manager.codec.kinds.causal3d.config import CausalConfig, Half
    from vae_manager.codec.kinds.causal3d.network import CausalAutoencoder

    encoder = Half(3, 8, (8, 16), (), 1, 8)
    decoder = Half(4, 3, (8, 16), (8,), 1, 16)
    return CausalAutoencoder(CausalConfig(encoder, decoder, 4, True, True)).eval()


def tiny() -> nn.Module:
    from vae_manager.codec.kinds.tiny.network import TinyAutoencoder, TinyConfig

    return TinyAutoencoder(TinyConfig(), TinyConfig()).eval()


def streamed(vae: nn.Module, decodes: bool, dtype: torch.dtype, mode: str | None, **options) -> Watch:
    """Stream one picture on the pretended device and say what it took."""
    shape = Z if decodes else X
    make, stream = (plan_decode, stream_decode) if decodes else (plan_encode, stream_encode)
    source = torch.empty(shape, device=DEVICE, dtype=dtype)
    plan = make(vae, shape, device=DEVICE, memory_limit=1 << 40, mode=mode, strip_pixels=STRIP, **options)
    with Watch() as watch:
        found = stream(vae, source, plan=plan).tensor
    assert found is not None and str(found.device) == DEVICE and found.dtype == dtype
    return watch


def waits(vae: nn.Module, decodes: bool, dtype: torch.dtype) -> int:
    """Copies to main memory that a run needs: one for each map that is measured, and one for all norms' weights. In
    half precision every map is measured, each convolution is looked at once, and the input and the result too."""
    chain = chain_of(vae, decodes)
    norms = sum(step.norm is not None for step in chain.steps)
    if not norms:
        return int(dtype != torch.float32)
    if dtype == torch.float32:
        return norms + 1
    convs = sum(1 + (getattr(step, "skip", None) is not None) for step in chain.steps)
    return len(chain.steps) + 1 + (convs + 1 if dtype == torch.float16 else 0)


def check(watch: Watch, most: int) -> None:
    assert len(watch.to_cpu) + watch.asked <= most + 1, (len(watch.to_cpu), watch.asked, most)
    assert not watch.wide


@pytest.mark.parametrize("decodes", [True, False], ids=["decode", "encode"])
@pytest.mark.parametrize(
    ("mode", "dtype"),
    [*product(MODES, [torch.float32]), *product("AD", (torch.float16, torch.bfloat16))],
    ids=str,
)
def test_every_mode(mode: str, dtype: torch.dtype, decodes: bool):
    vae = kl()
    with pretended():
        moved(vae, dtype)
        check(streamed(vae, decodes, dtype, mode), waits(vae, decodes, dtype))


@pytest.mark.parametrize("decodes", [True, False], ids=["decode", "encode"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("make", [causal, tiny])
def test_kinds_without_a_norm_over_the_picture(make, dtype: torch.dtype, decodes: bool):
    vae = make()
    with pretended():
        moved(vae, dtype)
        check(streamed(vae, decodes, dtype, None), waits(vae, decodes, dtype))


@pytest.mark.parametrize("padding", ["circular", "reflect"])
def test_seamless_and_mirrored(padding: str):
    vae = kl()
    with pretended():
        moved(vae, torch.float32)
        for module in vae.modules():
            if isinstance(module, nn.Conv2d) and module.padding == (1, 1):
                module.padding_mode = padding
        for mode in ("A", "D"):
            check(streamed(vae, True, torch.float32, mode), waits(vae, True, torch.float32))


@pytest.mark.parametrize("mode", ["A", "D"])
def test_maps_in_main_memory_are_all_that_goes_there(mode: str):
    """What waits between passes goes to main memory and comes back; nothing else does, and nothing is mixed."""
    vae = kl()
    with pretended():
        moved(vae, torch.float32)
        stays = streamed(vae, True, torch.float32, mode)
        waits_there = streamed(vae, True, torch.float32, mode, storage="cpu")
        small = [count for count in waits_there.to_cpu if count < ROW]
        assert len(waits_there.to_cpu) > len(stays.to_cpu) and len(small) <= len(stays.to_cpu)
        assert not waits_there.wide


class Copies(TorchDispatchMode):
    """Notes every operation on strips, (rows, W, C), that lie in main memory, and whether copies of strips wait."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.waited: list[bool] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out, name = func(*args, **kwargs), func.overloadpacket.__name__
        given, made = (
            {tensor.device.type for tensor in tensors(tree) if tensor.ndim == 3} for tree in ((args, kwargs), out)
        )
        if "cpu" in given and not func.is_view:
            self.names.add(name)
        if len(given | made) > 1:
            self.waited.append(
                not (args[2] if name == "copy_" and len(args) > 2 else kwargs.get("non_blocking", False))
            )
        return out


@pytest.mark.parametrize("decodes", [True, False], ids=["decode", "encode"])
@pytest.mark.parametrize("padding", ["zeros", "circular"])
def test_on_a_gpu_nobody_waits_for_what_goes_to_main_memory_and_nobody_reads_it_there(
    padding: str, decodes: bool, monkeypatch
):
    """Copies are under way: whatever is computed from such a strip in main memory may be computed from nothing."""
    locked: list[int] = []

    def page_locked(strip: Tensor) -> Tensor:
        locked.append(strip.numel())
        return torch.empty(strip.shape, dtype=strip.dtype).copy_(strip, non_blocking=True)

    monkeypatch.setattr(strips, "pins", lambda compute, storage: compute.type == NAME and storage.type == "cpu")
    monkeypatch.setattr(strips, "page_locked", page_locked)
    vae = kl()
    with pretended():
        moved(vae, torch.float32)
        for module in vae.modules():
            if isinstance(module, nn.Conv2d) and module.padding == (1, 1):
                module.padding_mode = padding
        with Copies() as copies:
            streamed(vae, decodes, torch.float32, "A", storage="cpu")
    assert locked and copies.waited and not any(copies.waited)
    assert copies.names <= {"copy_", "_to_copy", "device"}  # the last one reads no numbers


@pytest.mark.parametrize("hip", [None, "6.2"])
def test_a_gpus_libraries_are_planned_to_take_memory_beside_a_convolution(hip: str | None, monkeypatch):
    def peak() -> int:
        return plan_decode(vae, Z, device="cuda", memory_limit=1 << 40, strip_pixels=STRIP).peak_bytes

    vae = tiny()  # has nothing larger than convolutions
    monkeypatch.setattr(torch.version, "hip", hip)
    with_it = peak()
    monkeypatch.setattr(steps, "beside_direct", lambda device, numbers: 0)
    assert (1.15 if hip else 1.03) * peak() < with_it < 2.73 * peak()


def test_weights_in_main_memory_are_brought():
    """A host's low-memory mode leaves them there while the latent is on the device."""
    vae = kl()
    with pretended():
        moved(vae, torch.float32, "cpu")
        source = torch.empty(Z, device=DEVICE)
        plan = plan_decode(vae, Z, device=DEVICE, memory_limit=1 << 40, strip_pixels=STRIP)
        with Watch() as watch:
            assert str(stream_decode(vae, source, plan=plan).tensor.device) == DEVICE
        check(watch, waits(vae, True, torch.float32))


def test_a_strip_that_goes_to_main_memory_on_its_way_is_seen(monkeypatch):
    """What these tests are for: they fail when one `.to("cpu")` is put into a strip's way."""
    real = Map.append
    monkeypatch.setattr(Map, "append", lambda self, strip: real(self, strip.to("cpu").to(DEVICE)))
    vae = kl()
    with pretended():
        moved(vae, torch.float32)
        with pytest.raises(AssertionError):
            check(streamed(vae, True, torch.float32, "A"), waits(vae, True, torch.float32))


def test_a_foreign_vae_takes_the_place_on_the_device():
    module = kl()
    with pretended():
        moved(module, torch.float16)
        own = dict(module.named_parameters())
        other = {name: torch.empty(tensor.shape) for name, tensor in own.items()}
        installed = install(module, other)
        assert in_place(installed, module)
        assert {(str(p.device), p.dtype) for p in module.parameters()} == {(DEVICE, torch.float16)}
        check(streamed(module, True, torch.float16, "C"), waits(module, True, torch.float16))
        remove(installed)
        assert all(parameter is own[name] for name, parameter in module.named_parameters())


@pytest.mark.parametrize("mode", ["exact", "auto"])
def test_the_hosts_way_around_a_decoder(mode: str):
    """With a device that has no autocast (DirectML, MPS before torch 2.5) and does not say what is free."""
    told: list[str] = []
    vae = kl()
    with pretended():
        assert free_bytes(torch.device(DEVICE)) == UNKNOWN
        moved(vae, torch.float32)
        limit = int(1.2 * plan_decode(coder._Only(True, vae.decoder), Z, device=DEVICE, mode="C").peak_bytes)
        watch = coder.Watch(lambda: False, lambda line: None, told.append, memory_limit=limit)
        with Watch() as seen:
            z = torch.empty(Z, device=DEVICE)
            found = coder.run(vae.decoder, vae.decoder, z, True, mode, "vae", watch)
        assert str(found.device) == DEVICE and not seen.wide
    assert told == [] and len(watch.streamed) == 1


@pytest.mark.parametrize("error", [RuntimeError, AssertionError])
def test_no_autocast_where_there_is_none(error: type[Exception], monkeypatch):
    def none(*args, **options):
        raise error("User specified an unsupported autocast device_type 'privateuseone'")

    monkeypatch.setattr(torch, "autocast", none)
    with coder._no_autocast(torch.device("cpu")):
        pass
