"""What a user's name means: what stands in the list comes first, and what could mean several files is never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from vae_manager.errors import BadInputError
from vae_manager.library.files import VaeFile
from vae_manager.library.hashing import HashCache
from vae_manager.library.known import by_name, known_vaes
from vae_manager.selection.names import VaeIndex


class Told(HashCache):
    """Hashes by the files' names."""

    def __init__(self, hashes: dict[str, str]) -> None:
        super().__init__(None)
        self.hashes = hashes

    def peek(self, file: VaeFile) -> str | None:
        return self.hashes.get(file.name)


def index(*names: str, **hashes: str) -> VaeIndex:
    files = tuple(VaeFile(Path("/vae", name), name, 1000, 1) for name in names)
    return VaeIndex(files, Told({f"{stem}.safetensors": sha256 for stem, sha256 in hashes.items()}))


KNOWN = next(vae for vae in known_vaes() if vae.files and "unproven-identity" not in vae.quirks)
HASH = KNOWN.files[0].sha256


def test_a_file_of_a_known_vaes_name_is_that_file_and_the_known_vae_can_be_asked_for() -> None:
    """The user's list shows both: what is typed as it stands there is what is meant."""
    found = index("renamed.safetensors", f"{KNOWN.id}.safetensors", renamed=HASH)
    assert found.find(KNOWN.id).name == f"{KNOWN.id}.safetensors"
    assert found.find(f"{KNOWN.id}.safetensors").name == f"{KNOWN.id}.safetensors"
    assert found.find(f"known:{KNOWN.id}").name == "renamed.safetensors"
    assert found.find(HASH[:10].upper()).name == "renamed.safetensors"


def test_a_known_vae_is_found_under_another_name_where_no_file_has_it() -> None:
    assert index("renamed.safetensors", "b.safetensors", renamed=HASH).find(KNOWN.id).name == "renamed.safetensors"


def test_a_known_name_is_no_evidence_once_the_hash_says_otherwise():
    """What is called like a known VAE is not taken for it; the user's own word for it still finds it."""
    name = f"{KNOWN.id}.safetensors"
    stem = next(stem for stem in KNOWN.aliases if by_name(stem) == (KNOWN,) and stem.casefold() != KNOWN.id)
    assert index(name).holding(KNOWN) and index(name).find(f"known:{KNOWN.id}").name == name
    found = index(name, **{KNOWN.id: "0" * 64})
    assert found.holding(KNOWN) is None and found.called_like(KNOWN) is not None
    with pytest.raises(BadInputError, match=rf"'{name}' is called so, but its sha256 is another one\); get "):
        found.find(f"known:{KNOWN.id}")
    assert found.find(stem).name == found.find(KNOWN.id).name == name
    both = index(name, "renamed.safetensors", **{KNOWN.id: "0" * 64, "renamed": HASH})
    assert both.find(stem).name == "renamed.safetensors"


def test_where_no_hash_was_published_the_name_is_all_there_is():
    vae = next(vae for vae in known_vaes() if not vae.files)
    assert index(f"{vae.id}.safetensors", **{vae.id: "0" * 64}).holding(vae) is not None


def test_nine_digits_of_a_hash_mean_nothing_and_two_files_are_not_guessed() -> None:
    one, other = "0123456789" + "a" * 54, "0123456789" + "b" * 54
    found = index("x.safetensors", "y.safetensors", x=one, y=other)
    assert found.with_hash(one[:9]) == [] and len(found.with_hash(one[:10])) == 2
    assert found.find(one[:11]).name == "x.safetensors" and found.find(f"sha256:{other}").name == "y.safetensors"
    for name, said in ((one[:9], "There is no VAE"), (one[:10], "fits 2 files")):
        with pytest.raises(BadInputError, match=said):
            found.find(name)


def test_the_same_bytes_twice_are_one_answer() -> None:
    assert index("x.safetensors", "y.safetensors", x=HASH, y=HASH).find(HASH).name == "x.safetensors"


def test_one_stem_in_two_folders_is_refused_and_the_whole_names_are_offered() -> None:
    found = index("a/v.safetensors", "b/v.safetensors")
    with pytest.raises(BadInputError, match=r"fits 2 files.*'a/v.safetensors', 'b/v.safetensors'"):
        found.find("v")
    assert found.find("b/v").name == found.find("b\\v.safetensors").name == "b/v.safetensors"


def test_letters_as_they_stand_go_before_letters_of_another_case() -> None:
    found = index("Soft.safetensors", "soft.safetensors", "HARD.pt")
    assert found.find("soft").name == "soft.safetensors" and found.find("Soft").name == "Soft.safetensors"
    assert found.find("hard").name == "HARD.pt"
    with pytest.raises(BadInputError, match="fits 2 files"):
        found.find("SOFT")
