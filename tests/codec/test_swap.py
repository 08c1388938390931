"""Foreign weights in a module that stays, and the module's own back again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.conftest import FLUX, SD1, make_state, make_vae
from vae_manager.codec.cache import StateCache
from vae_manager.codec.kinds.kl.network import AutoencoderKL
from vae_manager.codec.swap import STATISTICS, in_place, install, remove, same_weights, was_written
from vae_manager.codec.whole import decode
from vae_manager.errors import VaeFileError
from vae_manager.library.files import vae_file
from vae_manager.library.state import load_statistics
from vae_manager.webui.first_stage import ready

Z = torch.linspace(-3, 3, 4 * 36).reshape(1, 4, 6, 6)


def test_the_module_decodes_with_the_other_vae_and_then_with_its_own_bit_for_bit():
    module, other = make_vae(seed=1), make_vae(seed=2)
    own, before = dict(module.named_parameters()), decode(module, Z)
    installed = install(module, other.state_dict())
    assert in_place(installed, module)
    assert torch.equal(decode(module, Z), decode(other, Z))
    remove(installed)
    assert not in_place(installed, module)
    assert torch.equal(decode(module, Z), before)
    assert all(dict(module.named_parameters())[name] is parameter for name, parameter in own.items())


def test_nothing_is_copied_in_the_same_precision():
    module, state = make_vae(seed=1), make_state(seed=2)
    install(module, state)
    assert module.decoder.conv_out.weight.data_ptr() == state["decoder.conv_out.weight"].data_ptr()


def test_precision_follows_the_module():
    module = make_vae(seed=1).half()
    install(module, make_state(seed=2))
    assert {p.dtype for p in module.parameters()} == {torch.float16}


def test_a_module_that_changed_precision_meanwhile_gets_its_own_weights_in_the_new_one():
    module, expected = make_vae(seed=1).half(), make_vae(seed=1).half().float()
    installed = install(module, make_state(seed=2))
    module.float()  # a host that met NaN
    remove(installed)
    assert torch.equal(decode(module, Z), decode(expected, Z))


def test_what_does_not_fit_leaves_the_module_alone():
    module = make_vae(seed=1)
    before = decode(module, Z)
    state = make_state(seed=2)
    state.pop("decoder.conv_out.bias")
    for bad, sentence in ((make_state(FLUX), "16 channels"), (state, "decoder.conv_out.bias")):
        with pytest.raises(VaeFileError, match=sentence):
            install(module, bad)
        assert torch.equal(decode(module, Z), before)


def test_a_module_of_another_build_is_refused():
    with pytest.raises(VaeFileError, match="another build"):
        install(torch.nn.Linear(2, 2), make_state())


def test_parameters_that_the_host_replaced_meanwhile_are_left_to_it():
    module = make_vae(seed=1)
    installed = install(module, make_state(seed=2))
    newer = torch.nn.Parameter(torch.zeros(3), requires_grad=False)
    module.decoder.conv_out.bias = newer
    remove(installed)
    assert module.decoder.conv_out.bias is newer


def test_writing_into_the_foreign_weights_is_noticed():
    module = make_vae(seed=1)
    installed = install(module, make_state(seed=2))
    assert not was_written(installed)
    module.load_state_dict(make_state(seed=3))
    assert was_written(installed)


def test_weights_made_in_inference_mode_can_be_displaced_and_come_back():
    with torch.inference_mode():
        module = make_vae(seed=1)
        before = decode(module, Z)
    installed = install(module, make_state(seed=2))
    module.double()
    remove(installed)
    with torch.inference_mode():
        assert torch.allclose(decode(module, Z), before, atol=1e-5)


def test_same_weights():
    module, state = make_vae(seed=1), make_state(seed=1)
    assert same_weights(module, state.get)
    state["decoder.conv_out.bias"] = state["decoder.conv_out.bias"] + 1e-3
    assert not same_weights(module, state.get)
    assert not same_weights(module, {}.get)


def test_cache_drops_the_longest_unused_beyond_its_limit():
    cache, loads = StateCache(limit=250), []

    def load(key: str):
        loads.append(key)
        return {"t": torch.zeros(25)}  # 100 bytes

    for key in ("a", "b", "a", "c", "a", "b"):
        cache.get(key, lambda key=key: load(key))
    assert loads == ["a", "b", "c", "b"]
    assert cache.bytes == 200


def test_cache_keeps_the_newest_even_when_it_is_too_large_and_forgets_failures():
    cache = StateCache(limit=0)
    state = cache.get("a", lambda: {"t": torch.zeros(25)})
    assert cache.get("a", dict) is state
    with pytest.raises(VaeFileError):
        cache.get("b", lambda: (_ for _ in ()).throw(VaeFileError("no")))
    cache.drop(state)
    assert cache.bytes == 0


def test_a_module_that_was_emptied_meanwhile_gets_its_own_weights_whole():
    """reForge moves a model that it unloads to the 'meta' device: following it there would lose the weights."""
    module = make_vae(seed=1)
    own = dict(module.named_parameters())
    installed = install(module, make_state(seed=2))
    for layer in module.modules():
        for name, parameter in list(layer._parameters.items()):
            if parameter is not None:
                layer._parameters[name] = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
    remove(replace(installed, foreign=dict(module.named_parameters())))
    assert all(dict(module.named_parameters())[name] is parameter for name, parameter in own.items())


class Normalised(AutoencoderKL):
    """FLUX.2's first stage: the statistics of its latents are buffers of it."""

    def __init__(self, mean: float) -> None:
        super().__init__(SD1)
        self.bn = torch.nn.BatchNorm2d(16, affine=False)
        self.bn.running_mean = torch.full((16,), mean)


def test_what_latents_are_normalised_by_goes_with_the_weights():
    module, other = Normalised(1.0), Normalised(2.0)
    own, state = module.bn.running_mean, other.state_dict()
    del state["bn.num_batches_tracked"]
    installed = install(module, state | {"bn.running_var": torch.full((4,), 9.0)})
    assert module.bn.running_mean is not None and torch.equal(module.bn.running_mean, torch.full((16,), 2.0))
    assert module.bn.running_var is not None and len(module.bn.running_var) == 16  # of another size: left alone
    remove(installed)
    assert module.bn.running_mean is own
    installed = install(module, state)
    module.half()
    remove(installed)
    assert torch.equal(module.bn.running_mean, torch.ones(16).half())
    remove(install(make_vae(), state))  # a module without any


@pytest.mark.parametrize("prefix", ["", "first_stage_model.", "vae."])
def test_a_files_statistics_are_found_beside_its_vae(tmp_path: Path, prefix: str):
    state = make_state(seed=2) | {"bn.running_mean": torch.ones(16), "bn.running_var": torch.full((16,), 2.0)}
    path = tmp_path / "vae.safetensors"
    save_file({prefix + name: tensor for name, tensor in state.items()}, str(path))
    found = load_statistics(vae_file(path), STATISTICS, torch.float16)
    assert found.keys() == set(STATISTICS)
    assert found["bn.running_var"].dtype == torch.float16 and float(found["bn.running_var"][0]) == 2
    module = Normalised(3.0)
    remove(installed := install(module, ready(StateCache(1 << 30), vae_file(path), module)))
    assert set(installed.statistics) == set(STATISTICS)
