"""The `inspect` document: everything that is known of one VAE file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vae_manager.errors import VaeFileError
from vae_manager.library.digest import weights_digest
from vae_manager.library.files import VaeFile
from vae_manager.library.hashing import HashCache, Progress
from vae_manager.library.identify import Identity, identify
from vae_manager.library.known import KnownVae, by_sha256


@dataclass(frozen=True)
class Report:
    """A VAE file with its identity; hashes are None where they were not asked for."""

    file: VaeFile
    identity: Identity
    sha256: str | None = None
    weights_digest: str | None = None
    known: KnownVae | None = None

    @property
    def family(self) -> str:
        """The family: by the hash of a known file, or else by what the file itself shows."""
        return self.known.family if self.known else self.identity.family

    def document(self) -> dict[str, Any]:
        """The `inspect` command's JSON document."""
        entry = asdict(self.identity)
        entry["problems"] = list(self.identity.problems)
        if self.known:
            entry |= {"family": self.family, "family_evidence": f"its sha256 is that of {self.known.name}"}
        return {
            "path": str(self.file.path),
            **entry,
            "bytes": self.file.size,
            "sha256": self.sha256,
            "weights_digest": self.weights_digest,
            "known": {"id": self.known.id, "name": self.known.name, "purpose": self.known.purpose}
            if self.known
            else None,
        }


def report(file: VaeFile, hashes: HashCache, full: bool = True, progress: Progress | None = None) -> Report:
    """Inspect one file. `full` False reads only its header, and its hash where that is already known.

    Raises:
        VaeFileError: it is no VAE, or cannot be read.
    """
    identity = identify(file)
    sha256 = hashes.sha256(file, progress) if full else hashes.peek(file)
    digest = weights_digest(file) if full and not identity.problems else None
    return Report(file, identity, sha256, digest, by_sha256(sha256) if sha256 else None)


def quick_report(file: VaeFile, hashes: HashCache) -> Report | VaeFileError:
    """The header's report, or why there is none: for lists, where one bad file must not hide the others."""
    try:
        return report(file, hashes, full=False)
    except VaeFileError as error:
        return error
