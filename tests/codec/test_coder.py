"""One picture through a decoder: streamed where it should be, and never worse than the host's own way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.codec.streaming_vaes import peak_bytes
from tests.conftest import make_vae
from vae_manager.codec import coder
from vae_manager.codec.coder import Watch, run
from vae_manager.codec.streaming import plan_decode

Z = torch.linspace(-3, 3, 4 * 9 * 7).reshape(1, 4, 9, 7)
LEVEL = 2 / 255


class Told:
    """A host that remembers what it was told."""

    def __init__(self, **settings) -> None:
        self.stop, self.said, self.warned = False, [], []
        self.watch = Watch(lambda: self.stop, self.said.append, self.warned.append, **settings)


def decode(vae, mode: str, told: Told, z: Tensor = Z, inner=None) -> Tensor:
    with torch.no_grad():
        return run(inner or vae.decoder, vae.decoder, z, True, mode, "the vae", told.watch)


@pytest.fixture
def vae():
    return make_vae(seed=1)


def test_exact_is_streamed_with_the_whole_decodes_pixels(vae):
    told = Told()
    exact = decode(vae, "exact", told, inner=lambda z: pytest.fail("the host's own way was taken"))
    with torch.no_grad():
        assert (exact - vae.decoder(Z)).abs().max() < 0.005 * LEVEL
    assert len(told.watch.streamed) == 1 and told.watch.streamed[0].startswith("decode: exact, mode")
    assert told.said[-1] is None and any(line and line.startswith("VAE decode") for line in told.said)
    assert told.warned == []


def test_encoding_too(vae):
    picture, told = torch.rand(1, 3, 72, 56) * 2 - 1, Told()
    with torch.no_grad():
        whole = vae.encoder(picture)
        exact = run(vae.encoder, vae.encoder, picture, False, "exact", "the vae", told.watch)
    assert (exact - whole).abs().max() < 1e-4 * whole.abs().max()
    assert told.watch.streamed[0].startswith("encode: exact")


@pytest.mark.parametrize("mode", ["auto", "whole"])
def test_what_fits_comfortably_is_the_hosts_own_result_bit_for_bit(vae, mode: str):
    told = Told()
    assert torch.equal(decode(vae, mode, told), decode(vae, "whole", Told()))
    assert told.watch.streamed == told.warned == []


def test_auto_streams_where_the_whole_would_be_a_close_call(vae):
    told = Told()
    plan = coder._plan(vae.decoder, tuple(Z.shape), Z.device, True, "exact", None, told.watch)
    assert plan is not None
    told = Told(free_memory=lambda device: int(plan.peak_bytes * 1.5))
    decode(vae, "auto", told, inner=lambda z: pytest.fail("the host's own way was taken"))
    assert told.watch.streamed


@pytest.mark.parametrize(("room", "streamed"), [(2.2, True), (6.0, False)])
def test_auto_takes_the_hosts_own_way_only_where_twice_its_memory_is_free(vae, room: float, streamed: bool):
    """Twice, and more for hosts whose decoder holds more than ours: what else runs must not decide whether it fits."""
    z = torch.randn(1, 4, 24, 20, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        taken = peak_bytes(lambda: vae.decoder(z))
    told = Told(free_memory=lambda device: int(room * taken))
    decode(vae, "auto", told, z)
    assert bool(told.watch.streamed) == streamed and told.warned == []


def test_auto_leaves_another_tiler_at_work(vae):
    plan = plan_decode(vae, tuple(Z.shape), memory_limit=1 << 40)
    told = Told(free_memory=lambda device: int(plan.peak_bytes * 1.5), tiler="Tiled VAE")  # we could do it ourselves
    decode(vae, "auto", told)
    assert not told.watch.streamed and told.warned == []
    decode(vae, "exact", Told(tiler="Tiled VAE"), inner=lambda z: pytest.fail("the tiler was taken"))


def test_a_limit_that_nothing_fits_is_told_and_the_host_decodes(vae):
    told = Told(memory_limit=1000)
    with torch.no_grad():
        assert torch.equal(decode(vae, "exact", told), vae.decoder(Z))
    assert len(told.warned) == 1 and "at least" in told.warned[0] and "\n" not in told.warned[0]


def test_a_decoder_that_is_no_kl_autoencoders(vae):
    strange = nn.Conv2d(4, 3, 3, padding=1)
    told = Told()
    with torch.no_grad():
        result = run(strange, strange, Z, True, "exact", "strange", told.watch)
    assert result.shape[1] == 3 and "not possible here" in told.warned[0]
    told = Told()
    run(strange, strange, Z, True, "auto", "strange", told.watch)
    assert told.warned == []


def test_a_fault_while_streaming_leaves_the_hosts_result(vae, monkeypatch):
    monkeypatch.setattr(coder, "stream_decode", lambda *a, **k: 1 / 0)
    told = Told()
    with torch.no_grad():
        assert torch.equal(decode(vae, "exact", told), vae.decoder(Z))
    assert "failed (division by zero)" in told.warned[0] and told.said[-1] is None


def test_interrupted_between_strips_it_ends_in_a_picture_of_the_right_size(vae):
    told = Told()
    shapes = []

    def say(line):
        told.stop = True

    def inner(z):
        shapes.append(tuple(z.shape[2:]))
        return vae.decoder(z)

    told.watch.say = say
    z = torch.randn(1, 4, 80, 100, generator=torch.Generator().manual_seed(0))
    result = decode(vae, "exact", told, z, inner)
    assert result.shape == (1, 3, 640, 800) and shapes == [(51, 64)]
    assert "interrupted" in told.warned[0]


def test_stopped_while_sampling_the_picture_is_still_whole(vae):
    told = Told()
    told.stop = True
    with torch.no_grad():
        assert (decode(vae, "exact", told) - vae.decoder(Z)).abs().max() < 0.005 * LEVEL
    assert told.warned == []


def test_out_of_memory_in_the_hosts_own_way_is_streamed_instead(vae):
    def inner(z):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    told = Told()
    with torch.no_grad():
        assert (decode(vae, "auto", told, inner=inner) - vae.decoder(Z)).abs().max() < 0.005 * LEVEL
    assert told.watch.streamed


def test_another_error_of_the_hosts_is_not_swallowed(vae):
    def inner(z):
        raise ValueError("of the host's own")

    with pytest.raises(ValueError, match="of the host's own"):
        decode(vae, "auto", Told(), inner=inner)


def test_half_precision_that_overflows_is_computed_again_and_remembered():
    """Weights that make activations of 2¹⁷: the host's fp16 gives NaN."""
    vae = make_vae(seed=1)
    with torch.no_grad():
        vae.decoder.conv_in.weight *= 2.0**17
        vae.decoder.conv_in.bias.mul_(2.0**17)  # type: ignore[union-attr]
        wanted = vae.decoder(Z)
        vae = vae.bfloat16()
    told = Told()

    def inner(z):
        return torch.full((1, 3, 72, 56), torch.nan, dtype=torch.bfloat16)

    result = decode(vae, "auto", told, Z.bfloat16(), inner)
    assert torch.isfinite(result).all()
    assert (result.float() - wanted).abs().mean() < 0.05 * wanted.abs().mean()
    assert told.watch.wide == {"the vae"}
    decode(vae, "auto", told, Z.bfloat16(), inner=lambda z: pytest.fail("it was forgotten"))
    with torch.no_grad():  # another VAE has done nothing wrong
        other = run(lambda z: torch.ones(1), vae.decoder, Z.bfloat16(), True, "auto", "another", told.watch)
    assert other.shape == (1,)


def test_a_latent_that_is_broken_already_is_nobodys_fault():
    vae, told, broken = make_vae(seed=1).bfloat16(), Told(), Z.bfloat16().clone()
    broken[0, 0, 0, 0] = torch.nan
    for mode in ("auto", "exact"):
        assert decode(vae, mode, told, broken, lambda z: z * 2).isnan().any()
    assert told.watch.wide == set() and told.watch.streamed == told.warned == []


def test_a_hosts_autocast_does_not_round_inside_what_is_exact(vae):
    told = Told()
    with torch.no_grad():
        whole = vae.decoder(Z)
        with torch.autocast("cpu", torch.bfloat16):
            exact = decode(vae, "exact", told)
    assert told.watch.streamed and (exact - whole).abs().max() < 0.005 * LEVEL
