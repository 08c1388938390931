"""What may be taken of a device's memory, and how running out of it is told."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest
import torch

from tests.conftest import make_vae
from vae_manager.codec import memory
from vae_manager.codec.kinds.kl.config import KLConfig
from vae_manager.codec.memory import UNKNOWN, free_bytes, is_out_of_memory
from vae_manager.codec.streaming import api, plan_decode, stream_decode

CPU = torch.device("cpu")


def group(folder, limit, taken, dropped, version=2):
    names = memory._CGROUPS[0 if version == 2 else 1]
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in zip(names[:2], (limit, taken)):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {dropped}\n")


def rooms(tmp_path, text):
    own = tmp_path / "cgroup"
    own.write_text(text)
    return list(memory._cgroup_rooms(own, tmp_path / "mount"))


def test_groups_of_version_2_count_with_those_above(tmp_path):
    mount = tmp_path / "mount"
    group(mount / "a/b", "max", 10, 0)
    group(mount / "a", 700, 300, 50)
    assert rooms(tmp_path, "0::/a/b\n") == [450]
    group(mount / "a/b", 500, 400, 0)
    assert rooms(tmp_path, "0::/a/b\n") == [100, 450]


def test_in_a_container_the_group_is_the_mount_itself(tmp_path):
    group(tmp_path / "mount", 700, 300, 0)
    assert rooms(tmp_path, "0::/\n") == rooms(tmp_path, "0::/../../unseen\n") == [400]


def test_groups_of_version_1(tmp_path):
    mount = tmp_path / "mount/memory"
    group(mount, 1 << 62, 900, 0, 1)
    group(mount / "small", 700, 300, 20, 1)
    found = rooms(tmp_path, "9:cpu,cpuacct:/other\n4:memory:/small\n0::/\n")
    assert min(found) == 420 and len(found) == 2


def test_damaged_groups_and_none_at_all(tmp_path):
    group(tmp_path / "mount", "lots", 300, 0)
    assert rooms(tmp_path, "0::/\nnonsense\n") == []
    assert list(memory._cgroup_rooms(tmp_path / "absent", tmp_path)) == []


def test_main_memory_is_the_least_of_all_bounds(monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 50))
    monkeypatch.setattr(memory, "_cgroup_rooms", lambda own, mount: [123_456, 1 << 40])
    assert free_bytes(CPU) == 123_456
    monkeypatch.setattr(memory, "_cgroup_rooms", lambda own, mount: [-5])
    assert free_bytes(CPU) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space are kept on Linux")
@pytest.mark.parametrize("limit", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_counts(limit):
    code = f"""
import resource, psutil, torch
from vae_manager.codec.memory import free_bytes
used = psutil.Process().memory_info()
taken = used.vms if "{limit}" == "RLIMIT_AS" else used.data
resource.setrlimit(resource.{limit}, (taken + (200 << 20),) * 2)
print(free_bytes(torch.device("cpu")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    assert 100 << 20 < int(done.stdout) <= 200 << 20


@pytest.mark.parametrize("kind", ["xpu", "privateuseone", "meta", "mps"])
def test_a_device_that_does_not_tell_never_has_main_memory(kind, monkeypatch):
    monkeypatch.setattr(memory, "_main_memory", lambda: pytest.fail("main memory was asked"))
    assert free_bytes(torch.device(kind)) == UNKNOWN


def test_xpu_is_asked_by_its_own_interface(monkeypatch):
    fake = SimpleNamespace(
        mem_get_info=lambda device: (1000, 5000), memory_reserved=lambda d: 300, memory_allocated=lambda d: 100
    )
    monkeypatch.setattr(torch, "xpu", fake)
    assert free_bytes(torch.device("xpu")) == 1200
    del fake.mem_get_info
    fake.get_device_properties = lambda device: SimpleNamespace(total_memory=4100)
    assert free_bytes(torch.device("xpu")) == 2000


@pytest.mark.parametrize(
    "said",
    [
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "MPS backend out of memory (MPS allocated: 5 GB)",
        "Invalid buffer size: 12.00 GB",
        "XPU out of memory. Tried to allocate 64.00 MiB",
        "Native API failed. Native API returns: 39 (UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY)",
        "Native API returns: -5 (PI_ERROR_OUT_OF_RESOURCES)",
        "Could not allocate tensor with 268435456 bytes. There is not enough GPU video memory available!",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory: you tried",
        "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
        "could not create a primitive",
        "std::bad_alloc",
        "bad allocation",
    ],
)
def test_every_way_to_say_out_of_memory_is_known(said):
    assert is_out_of_memory(RuntimeError(said))
    assert not is_out_of_memory(ValueError(said))


def test_other_errors_are_not_out_of_memory():
    assert is_out_of_memory(MemoryError()) and is_out_of_memory(torch.cuda.OutOfMemoryError("x"))
    assert not is_out_of_memory(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))


def test_each_retry_after_out_of_memory_plans_smaller(monkeypatch):
    vae = make_vae(KLConfig(encoder_stem=32, encoder_channels=(32, 32, 64, 64), decoder_channels=(32, 32, 64, 64)))
    z = torch.randn(1, 4, 24, 20)
    peak = plan_decode(vae, tuple(z.shape), memory_limit=1 << 40, mode="A").peak_bytes
    tried, stream = [], api.stream

    def failing(chain, picture, plan, *rest):
        tried.append(plan.peak_bytes)
        if len(tried) < 3:
            raise RuntimeError("CUDA out of memory")
        stream(chain, picture, plan, *rest)

    monkeypatch.setattr(api, "stream", failing)
    found = stream_decode(vae, z, memory_limit=peak)
    assert tried == sorted(set(tried), reverse=True) and len(tried) == 3
    assert found.report.peak_bytes == tried[-1]
