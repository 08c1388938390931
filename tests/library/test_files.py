"""Finding files and remembering their hashes."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from vae_manager.errors import VaeFileError
from vae_manager.library.files import Folder, find_vaes, vae_file
from vae_manager.library.hashing import HashCache, sha256_of
from vae_manager.store import Store, open_store


def touch(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def names(*folders: Folder) -> list[str]:
    return [file.name for file in find_vaes(folders)]


def test_sub_folders_and_every_suffix(tmp_path: Path):
    for name in ("a.safetensors", "sub/b.pt", "sub/deep/C.CKPT", "d.pth", "e.bin", "readme.txt", "sub/.hidden.pt"):
        touch(tmp_path / name)
    touch(tmp_path / ".git" / "x.pt")
    assert names(Folder(tmp_path)) == ["a.safetensors", "d.pth", "e.bin", "sub/b.pt", "sub/deep/C.CKPT"]


def test_beside_checkpoints_only_marked_files_are_vaes(tmp_path: Path):
    for name in ("model.safetensors", "model.vae.pt", "other.vae.safetensors"):
        touch(tmp_path / name)
    assert names(Folder(tmp_path, marked_only=True)) == ["model.vae.pt", "other.vae.safetensors"]


def test_same_name_in_two_folders_is_two_entries(tmp_path: Path):
    first, second = tmp_path / "VAE", tmp_path / "more"
    for folder in (first, second):
        touch(folder / "v.pt")
        touch(folder / "x" / "v.pt")
    assert names(Folder(first), Folder(second)) == ["more/v.pt", "more/x/v.pt", "VAE/v.pt", "VAE/x/v.pt"]


def test_folders_of_one_name_are_told_apart_by_path(tmp_path: Path):
    for folder in ("a/VAE", "b/VAE"):
        touch(tmp_path / folder / "v.pt")
    found = names(Folder(tmp_path / "a/VAE"), Folder(tmp_path / "b/VAE"))
    assert found == [(tmp_path / "a/VAE/v.pt").as_posix(), (tmp_path / "b/VAE/v.pt").as_posix()]


def test_the_same_file_reached_twice_is_one_entry(tmp_path: Path):
    touch(tmp_path / "VAE" / "v.pt")
    (tmp_path / "link").symlink_to(tmp_path / "VAE")
    assert names(Folder(tmp_path / "VAE"), Folder(tmp_path / "link"), Folder(tmp_path / "VAE")) == ["v.pt"]


def test_a_file_is_known_by_its_resolved_path(tmp_path: Path):
    (tmp_path / "real" / "sub").mkdir(parents=True)
    for name in ("a.safetensors", "sub/b.pt"):
        (tmp_path / "real" / name).touch()
    (tmp_path / "elsewhere.safetensors").touch()
    (tmp_path / "real" / "c.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    found = find_vaes([Folder(tmp_path / "link")])
    assert {file.name for file in found} == {"a.safetensors", "c.safetensors", "sub/b.pt"}
    for file in found:
        assert file.key == os.path.realpath(file.path) != str(file.path)
        assert vae_file(file.path).key == file.key


def test_loops_dangling_links_and_missing_folders(tmp_path: Path):
    touch(tmp_path / "VAE" / "sub" / "v.pt")
    (tmp_path / "VAE" / "sub" / "up").symlink_to(tmp_path / "VAE")
    (tmp_path / "VAE" / "gone.pt").symlink_to(tmp_path / "nowhere.pt")
    assert names(Folder(tmp_path / "VAE"), Folder(tmp_path / "missing")) == ["sub/v.pt"]


@pytest.mark.parametrize(
    "name,stem", [("a.vae.pt", "a"), ("a.b.safetensors", "a.b"), ("x/Y.VAE.safetensors", "Y"), ("plain", "plain")]
)
def test_stem(tmp_path: Path, name: str, stem: str):
    assert vae_file(touch(tmp_path / name)).stem == stem


def test_sha256_with_progress(tmp_path: Path):
    content = os.urandom(9 << 20)
    seen: list[tuple[int, int]] = []
    assert sha256_of(touch(tmp_path / "f", content), lambda *at: seen.append(at)) == hashlib.sha256(content).hexdigest()
    assert seen[-1] == (len(content), len(content)) and len(seen) == 3


def test_hashes_are_remembered_until_the_file_changes(tmp_path: Path):
    path, store = touch(tmp_path / "v.pt", b"one"), open_store(tmp_path)
    first = HashCache(store).sha256(vae_file(path))
    assert HashCache(store).peek(vae_file(path)) == first
    os.utime(path, ns=(1, 1))  # older than before: a cache that asks "is it newer?" would keep the old hash
    assert HashCache(store).peek(vae_file(path)) is None
    path.write_bytes(b"two")
    assert HashCache(store).sha256(vae_file(path)) == hashlib.sha256(b"two").hexdigest()


def test_two_files_do_not_share_a_hash(tmp_path: Path):
    store = HashCache(open_store(tmp_path))
    newer = store.sha256(vae_file(touch(tmp_path / "new.pt", b"new")))
    older = touch(tmp_path / "old.pt", b"old")
    os.utime(older, ns=(1, 1))
    assert store.sha256(vae_file(older)) == hashlib.sha256(b"old").hexdigest() != newer


def test_two_files_of_one_name_size_and_time_do_not_share_a_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hashes = HashCache(open_store(tmp_path))
    for folder, content in (("a", b"one"), ("b", b"two")):
        os.utime(touch(tmp_path / folder / "v.pt", content), ns=(5, 5))
        monkeypatch.chdir(tmp_path / folder)
        assert hashes.sha256(vae_file(Path("v.pt"))) == hashlib.sha256(content).hexdigest()
    assert hashes.peek(vae_file(tmp_path / "a" / "v.pt")) == hashlib.sha256(b"one").hexdigest()


@pytest.mark.parametrize("content", ["[]", '{"x": 3}', '{"PATH": [SIZE, TIME, "short"]}', "{", "[" * 100_000])
def test_a_nonsense_file_of_hashes_is_not_taken_over(tmp_path: Path, content: str):
    file = vae_file(touch(tmp_path / "v.pt", b"one"))
    content = (
        content.replace("PATH", str(file.path)).replace("SIZE", str(file.size)).replace("TIME", str(file.mtime_ns))
    )
    (tmp_path / "hashes.json").write_text(content)
    assert HashCache(open_store(tmp_path)).sha256(file) == hashlib.sha256(b"one").hexdigest()


def test_the_hashes_of_an_older_version_are_taken_over_once(tmp_path: Path):
    file, sha256 = vae_file(touch(tmp_path / "v.pt", b"one")), "ab" * 32
    old = tmp_path / "hashes.json"
    old.write_text(json.dumps({str(file.path): [file.size, file.mtime_ns, sha256], "v.pt": [1, 2, sha256]}))
    assert HashCache(open_store(tmp_path)).peek(file) == sha256 and not old.exists()
    assert HashCache(Store(tmp_path / "store.sqlite")).peek(file) == sha256


def test_a_download_that_goes_on_while_it_is_hashed(tmp_path: Path):
    path = touch(tmp_path / "v.pt", b"x" * 100)

    def grow(done: int, size: int) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(VaeFileError, match="download is finished"):
        HashCache(None).sha256(vae_file(path), progress=lambda d, s: grow(d, s) if d < 105 else None)


def test_a_cache_that_is_alone_knows_what_it_has_computed_since(tmp_path: Path):
    path = tmp_path / "v.safetensors"
    path.write_bytes(b"a file")
    hashes, file = HashCache(None, alone=True), vae_file(path)
    assert hashes.peek(file) is None
    assert hashes.sha256(file) == hashes.peek(file)
