"""`encode`, `decode` and `color` on folders: which files, what is done again, what one bad file does, and where."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.codec.streaming_vaes import scaled_weights
from vae_manager.cli import main
from vae_manager.codec.kinds.tiny.network import TinyAutoencoder, TinyConfig
from vae_manager.codec.latents import Latent, save_latent
from vae_manager.commands import codec, color, many, workers
from vae_manager.commands.many import RECORD

SMALL = TinyConfig(4, (8, 8, 8, 8), (1, 1, 1, 1))
COUNT = 200


@pytest.fixture
def vae(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "taesd.safetensors", 1)


def write_tiny(path: Path, seed: int) -> Path:
    network = TinyAutoencoder(SMALL, SMALL)
    scaled_weights(network, seed)
    save_file(network.state_dict(), str(path))
    return path


def write_pictures(folder: Path, count: int, side: int = 16) -> Path:
    """Noise, each another; every third in a folder of its own."""
    for number in range(count):
        path = folder / ("sub" if number % 3 == 0 else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (side, side + 8 * (number % 2), 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def made(folder: Path) -> dict[str, bytes]:
    """What is in a folder, but for the record."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != RECORD)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def run(capsys, *arguments: object, code: int = 0) -> tuple[list[dict], str]:
    """The documents, and what was said on stderr."""
    assert main([*map(str, arguments), "--json"]) == code
    out, err = capsys.readouterr()
    return json.loads(out), err


def refused(capsys, *arguments: object) -> str:
    assert main([*map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.fixture
def computed(monkeypatch) -> list[str]:
    """The names of what is computed in this process."""
    names: list[str] = []
    for module, name in ((codec, "_encode_file"), (codec, "_decode_file"), (color, "_corrected")):
        real = getattr(module, name)

        def noted(item, *args, real=real):
            names.append(item.name)
            return real(item, *args)

        monkeypatch.setattr(module, name, noted)
    return names


def test_a_folder_goes_there_and_back_below_its_own_names(vae: Path, tmp_path: Path, capsys):
    pictures, latents, back = write_pictures(tmp_path / "in", 5), tmp_path / "z", tmp_path / "back"
    documents, _ = run(capsys, "encode", pictures, "-o", latents, "--vae", vae)
    assert sorted(made(latents)) == [f"{name}.safetensors" for name in ("1", "2", "4", "sub/0", "sub/3")]
    assert [document["output"] for document in documents] == [
        str(latents / Path(document["path"]).relative_to(pictures).with_suffix(".safetensors"))
        for document in documents
    ]
    run(capsys, "encode", pictures / "1.png", "-o", tmp_path / "one.safetensors", "--vae", vae)
    assert (tmp_path / "one.safetensors").read_bytes() == (latents / "1.safetensors").read_bytes()
    run(capsys, "decode", latents, "-o", back, "--vae", vae, "--format", "npy")
    assert sorted(made(back)) == sorted(name.replace("safetensors", "npy") for name in made(latents))
    run(capsys, "decode", latents / "1.safetensors", "-o", tmp_path / "one.npy", "--vae", vae)
    assert (tmp_path / "one.npy").read_bytes() == (back / "1.npy").read_bytes()
    run(capsys, "color", pictures, "-o", tmp_path / "mended")
    assert sorted(made(tmp_path / "mended")) == sorted(made(pictures))


@pytest.mark.parametrize("command", ["encode", "decode", "color"])
def test_a_rerun_computes_nothing_and_says_the_same(command: str, vae: Path, tmp_path: Path, capsys, computed):
    pictures, latents, out = write_pictures(tmp_path / "in", 4), tmp_path / "z", tmp_path / "out"
    run(capsys, "encode", pictures, "-o", latents, "--vae", vae)
    call = [command, latents if command == "decode" else pictures, "-o", out]
    call += ["--session"] if command == "color" else ["--vae", vae]
    computed.clear()
    first, _ = run(capsys, *call)
    assert len(computed) == 4
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.*")}
    second, _ = run(capsys, *call)
    assert second == first and len(computed) == 4
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.*")} == before
    assert main([*map(str, call)]) == 0 and "4 of 4 had been done before." in capsys.readouterr().out


def test_only_what_changed_is_done_again(vae: Path, tmp_path: Path, capsys, computed):
    pictures, out = write_pictures(tmp_path / "in", 4), tmp_path / "z"
    call = ["encode", pictures, "-o", out, "--vae", vae]

    def done(*more: object) -> list[str]:
        computed.clear()
        run(capsys, *call, *more)
        return sorted(computed)

    everything = ["1.png", "2.png", "sub/0.png", "sub/3.png"]
    assert done() == everything and done() == []
    os.utime(pictures / "1.png", ns=(1, 1))  # a source that was changed
    (out / "2.safetensors").unlink()  # an output that is gone
    (out / "sub" / "0.safetensors").write_bytes(b"half")  # and one that somebody wrote
    assert done() == ["1.png", "2.png", "sub/0.png"] and done() == []
    Image.new("RGB", (16, 16)).save(pictures / "new.png")
    assert done() == ["new.png"]
    assert done("--dtype", "bf16") == [*everything[:2], "new.png", *everything[2:]]  # another job
    assert done("--dtype", "bf16") == [] and done("--memory-limit", "1GB", "--dtype", "bf16") == []
    write_tiny(vae, 2)  # another VAE of the same name
    assert len(done("--dtype", "bf16")) == 5
    shutil.copytree(out, tmp_path / "elsewhere", copy_function=shutil.copy2)  # the record goes with its folder
    call[3] = tmp_path / "elsewhere"
    assert done("--dtype", "bf16") == []


def test_what_a_killed_run_left_of_the_record_is_done_again(vae: Path, tmp_path: Path, capsys, computed):
    pictures, out = write_pictures(tmp_path / "in", 3), tmp_path / "z"
    call = ["encode", pictures, "-o", out, "--vae", vae]
    run(capsys, *call)
    record = out / RECORD
    record.write_bytes(record.read_bytes()[:-20])
    computed.clear()
    run(capsys, *call)
    assert len(computed) == 1
    run(capsys, *call)
    assert len(computed) == 1
    record.write_bytes(b"\xff\n[]\n" + b"[" * 100_000 + b'\n{"output": 3}\n')
    run(capsys, *call)
    assert len(computed) == 4


def test_one_bad_file_does_not_stop_the_others(vae: Path, tmp_path: Path, capsys):
    pictures, out = write_pictures(tmp_path / "in", 3), tmp_path / "z"
    (pictures / "broken.png").write_bytes((pictures / "1.png").read_bytes()[:60])
    documents, err = run(capsys, "encode", pictures, "-o", out, "--vae", vae, code=2)
    assert sum("problem" in document for document in documents) == 1 and len(made(out)) == 3
    assert "1 of 4 pictures was left out" in err and "broken.png" in err
    for number in range(5):
        save_latent(out / f"wrong{number}.safetensors", Latent(torch.zeros(1, 7, 2, 2), "taesd"))
    assert main(["decode", str(out), "-o", str(tmp_path / "back"), "--vae", str(vae)]) == 2
    printed, err = capsys.readouterr()
    assert "5 of 8 latents were left out" in err and err.count("another family") == many.SHOWN
    assert printed.count("another family") == 5 and len(made(tmp_path / "back")) == 3


def test_a_fault_in_one_of_them_is_told_and_goes_on(vae: Path, tmp_path: Path, capsys, monkeypatch):
    """A rerun must be able to come to an end, too."""
    pictures, real = write_pictures(tmp_path / "in", 3), codec.latent_of
    monkeypatch.setattr(codec, "latent_of", lambda moments, g: 1 / 0 if moments.shape[3] > 2 else real(moments, g))
    _, err = run(capsys, "encode", pictures, "-o", tmp_path / "z", "--vae", vae, code=2)
    assert "1 of 3 pictures was left out" in err and "ZeroDivisionError" in err


def test_a_full_disk_stops_them_all(vae: Path, tmp_path: Path, capsys, monkeypatch, computed):
    def full(path: Path, latent: Latent) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(codec, "save_latent", full)
    pictures = write_pictures(tmp_path / "in", 3)
    assert "No space left" in refused(capsys, "encode", pictures, "-o", tmp_path / "z", "--vae", vae)
    assert len(computed) == 1


def test_a_sample_is_the_pictures_own(vae: Path, tmp_path: Path, capsys):
    """With one seed for all, every picture of a training set would have the same noise."""
    kl = tmp_path / "kl.safetensors"
    from tests.conftest import make_state

    save_file(make_state(), str(kl))
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (16, 16), "red").save(folder / f"{name}.png")
    call = ["encode", "--vae", kl, "--sample"]
    run(capsys, *call, folder, "-o", tmp_path / "z", "--seed", 1)
    z = {name: load_file(str(tmp_path / "z" / f"{name}.safetensors"))["latent"] for name in "abc"}
    assert not torch.equal(z["a"], z["b"]) and not torch.equal(z["b"], z["c"])
    run(capsys, *call, folder / "c.png", folder / "a.png", "-o", tmp_path / "y", "--seed", 1)
    assert torch.equal(load_file(str(tmp_path / "y" / "c.safetensors"))["latent"], z["c"])
    run(capsys, *call, folder, "-o", tmp_path / "z", "--seed", 2)
    assert not torch.equal(load_file(str(tmp_path / "z" / "c.safetensors"))["latent"], z["c"])


def test_an_output_is_never_an_input(vae: Path, tmp_path: Path, capsys):
    pictures = write_pictures(tmp_path / "in", 3)
    vae_, before = ["--vae", vae], made(pictures)
    assert "taken for it the next time" in refused(capsys, "color", pictures, "-o", pictures)
    assert "taken for it the next time" in refused(capsys, "color", pictures / "sub", "-o", pictures)
    link = tmp_path / "link"
    link.symlink_to(pictures)
    assert "taken for it the next time" in refused(capsys, "color", pictures, "-o", link)
    assert made(pictures) == before
    for _ in range(2):  # in the folder itself, and not searched the second time
        documents, _ = run(capsys, "color", pictures, "-o", pictures / "mended")
        assert len(documents) == 3
    run(capsys, "encode", pictures / "1.png", pictures / "sub", "-o", pictures, *vae_)  # beside their pictures
    assert sorted(made(pictures / "mended")) == sorted(before)
    shutil.rmtree(pictures / "mended")
    assert sorted(set(made(pictures)) - set(before)) == ["0.safetensors", "1.safetensors"]
    assert "taken for it" in refused(capsys, "decode", pictures, "-o", pictures, "--format", "npy", *vae_)
    other = tmp_path / "other"
    other.mkdir()
    os.link(pictures / "1.png", other / "2.png")  # the same file by another name
    assert "over itself" in refused(capsys, "color", pictures / "1.png", pictures / "2.png", "-o", other)
    os.link(vae, other / "1.safetensors")
    assert "over itself" in refused(capsys, "encode", pictures / "1.png", pictures / "2.png", "-o", other, *vae_)
    assert {name: data for name, data in made(pictures).items() if name in before} == before


def test_refusals_are_one_sentence_before_any_work(vae: Path, tmp_path: Path, capsys, computed):
    pictures, out = write_pictures(tmp_path / "in", 3), tmp_path / "out"
    shutil.copy(pictures / "1.png", pictures / "1.bmp")
    (tmp_path / "empty").mkdir()
    with_vae = ["--vae", vae]
    for sentence, *arguments in (
        ("would both be called '1.safetensors'", "encode", pictures, "-o", out, *with_vae),
        ("There is no picture in the folder", "encode", tmp_path / "empty", "-o", out, *with_vae),
        ("There is no latent in the folder", "decode", pictures, "-o", out, *with_vae),
        ("There is no picture", "encode", pictures, tmp_path / "none", "-o", out, *with_vae),
        ("name a folder", "encode", pictures / "sub", "-o", tmp_path / "z.safetensors", *with_vae),
        ("is a file", "encode", pictures / "sub", "-o", vae, *with_vae),
        ("There is no file", "encode", pictures / "sub", "-o", out, "--vae", tmp_path / "none"),
        ("cannot be used", "encode", pictures / "sub", "-o", out, "--vae", pictures / "1.png"),
        ("There is no device", "encode", pictures / "sub", "-o", out, *with_vae, "--device", "meta"),
        ("1 or more", "encode", pictures / "sub", "-o", out, *with_vae, "--jobs", 0),
        ("16-bit picture", "decode", pictures / "sub", "-o", out, *with_vae, "--bits", 16, "--format", "jpg"),
        ("is for folders", "decode", pictures / "1.png", "-o", out, *with_vae, "--format", "jpg"),
        ("for several files", "encode", pictures / "1.png", "-o", tmp_path / "z.safetensors", *with_vae, "--jobs", 2),
        ("--jobs is for this computer", "color", pictures, "-o", out, "--jobs", 2, "--scheduler", "tcp://x:1"),
        ("no Dask scheduler", "color", pictures, "-o", out, "--scheduler", "nothing://there"),
        ("no Dask scheduler", "color", pictures, "-o", out, "--scheduler", "tcp://127.0.0.1:1"),
    ):
        if sentence == "no Dask scheduler":
            pytest.importorskip("distributed")
        assert sentence in refused(capsys, *arguments)
    assert computed == [] and made(out) == {}


def test_without_dask_the_sentence_says_what_to_install(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    pictures = write_pictures(tmp_path / "in", 2)
    assert "extra 'dask'" in refused(capsys, "color", pictures, "-o", tmp_path / "out", "--scheduler", "tcp://x:1")


def test_several_processes_give_what_one_gives(vae: Path, tmp_path: Path, capsys):
    pictures = write_pictures(tmp_path / "in", 6)
    for name, *how in (("one",), ("two", "--jobs", 2)):
        run(capsys, "encode", pictures, "-o", tmp_path / name, "--vae", vae, *how)
    assert made(tmp_path / "one") == made(tmp_path / "two") and len(made(tmp_path / "one")) == 6


def test_processes_share_the_memory_that_is_free(monkeypatch):
    monkeypatch.setattr(workers, "free_bytes", lambda device: 1000)
    assert workers.share() is None
    monkeypatch.setattr(workers, "_beside", 4)
    assert workers.share() == 250


# --- on a Dask cluster


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch) -> Iterator:
    distributed = pytest.importorskip("distributed", reason="Dask is not installed")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    )
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "memory_limit": "2GiB"}
    with distributed.LocalCluster(**options, local_directory=str(tmp_path / "dask")) as running:
        yield running


def test_a_cluster_gives_what_one_process_gives_and_a_killed_worker_loses_nothing(
    vae: Path, tmp_path: Path, capsys, cluster, monkeypatch
):
    from distributed import Client

    pictures, one, two = write_pictures(tmp_path / "in", COUNT), tmp_path / "one", tmp_path / "two"
    run(capsys, "encode", pictures, "-o", one, "--vae", vae)
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        pids = client.run(os.getpid)
        victim = next(iter(pids))
        client.run(die_after, 20, workers=[victim])
        call = ["encode", pictures, "-o", two, "--vae", vae, "--scheduler", cluster.scheduler_address]
        documents, _ = run(capsys, *call)
        assert pids[victim] not in client.run(os.getpid).values()
    assert made(two) == made(one) and len(made(one)) == COUNT
    assert [Path(document["output"]).is_file() for document in documents] == [True] * COUNT
    before = {path: path.stat().st_mtime_ns for path in two.rglob("*.*")}
    run(capsys, *call)  # on the cluster
    monkeypatch.setattr(codec, "_encode_file", lambda *a: pytest.fail("it was computed again"))
    run(capsys, *call[:-2])  # and without it: the record is the same
    assert {path: path.stat().st_mtime_ns for path in two.rglob("*.*")} == before


def die_after(count: int) -> None:
    """On a worker: it is killed as it writes its so manieth latent."""
    from vae_manager.commands import codec as there

    real, written = there.save_latent, []

    def save(path: Path, latent: Latent) -> None:
        written.append(path)
        if len(written) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        real(path, latent)

    there.save_latent = save


def test_colours_on_a_cluster(tmp_path: Path, capsys, cluster, monkeypatch):
    write_pictures(tmp_path / "in", 8, side=64)
    (tmp_path / "in" / "broken.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)  # where the workers are not
    call = ["color", "in", "--session", "--reference", "in/1.png"]
    one, _ = run(capsys, *call, "-o", "one", code=2)
    two, err = run(capsys, *call, "-o", "two", "--scheduler", cluster.scheduler_address, code=2)
    assert made(tmp_path / "one") == made(tmp_path / "two") and "broken.png" in err
    same = ("applied", "score", "matrix", "reason")
    assert [[row.get(name) for name in same] for row in one] == [[row.get(name) for name in same] for row in two]


def test_a_record_that_cannot_be_written_is_one_warning(tmp_path: Path, vae: Path, capsys):
    pictures, out = write_pictures(tmp_path / "in", 3), tmp_path / "out"
    (out / RECORD).mkdir(parents=True)
    documents, err = run(capsys, "encode", pictures, "-o", out, "--vae", vae)
    assert len(documents) == len(made(out)) == 3 and err.count("cannot be written") == 1
