"""The `inspect` document: everything that is known of one VAE file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from vae_manager.errors import VaeFileError
from vae_manager.latents.spaces import SPACES, title_of
from vae_manager.library.files import VaeFile
from vae_manager.library.hashing import HashCache, Progress
from vae_manager.library.identify import Identity, identify
from vae_manager.library.known import KnownVae, by_sha256
from vae_manager.library.tensors import open_tensors


@dataclass(frozen=True)
class Report:
    """A VAE file with its identity; hashes are None where they were not asked for and are not known yet."""

    file: VaeFile
    identity: Identity
    sha256: str | None = None
    weights_digest: str | None = None
    known: KnownVae | None = None

    @property
    def family(self) -> str:
        """The family: by the hash of a known file, or else by what the file itself shows."""
        return self.known.family if self.known else self.identity.family

    @property
    def space(self) -> str:
        """The latent space, likewise; 'unknown' where there is none or nobody can tell."""
        return (self.known.space or "unknown") if self.known else self.identity.latents.space

    @property
    def title(self) -> str:
        """The latent space for people, or what else it is."""
        return title_of(self.space if self.space != "unknown" else self.family)

    @property
    def made_for(self) -> str:
        """The latent space for people, or all those whose VAEs have these shapes; empty where there is none."""
        if self.space != "unknown":
            return self.title
        spaces = self.identity.latents.spaces
        return " / ".join(SPACES[space].title for space in SPACES if space in spaces)

    @property
    def evidence(self) -> str:
        """How the family is known."""
        return f"its sha256 is that of {self.known.name}" if self.known else self.identity.family_evidence

    def document(self) -> dict[str, Any]:
        """The `inspect` command's JSON document."""
        known = self.known
        identity = asdict(self.identity)
        del identity["latents"]
        return {
            "path": str(self.file.path),
            **identity,
            "problems": list(self.identity.problems),
            "family": self.family,
            "latent_space": self.space,
            "family_evidence": self.evidence,
            "bytes": self.file.size,
            "sha256": self.sha256,
            "weights_digest": self.weights_digest,
            "known": {"id": known.id, "name": known.name, "purpose": known.purpose} if known else None,
        }


def report(
    file: VaeFile, hashes: HashCache, sha256: bool = True, digest: bool = True, progress: Progress | None = None
) -> Report:
    """Inspect one file by its header, and by its content as far as asked for.

    `sha256` False takes the hash only where it is known already; `digest` adds the digest of the weights.

    Raises:
        VaeFileError: it is no VAE, or cannot be read.
    """
    identity = identify(file)
    hash_ = hashes.sha256(file, progress) if sha256 else hashes.peek(file)
    weights = _digest(file) if digest and not identity.problems else None
    return Report(file, identity, hash_, weights, by_sha256(hash_) if hash_ else None)


def _digest(file: VaeFile) -> str:
    from vae_manager.library.digest import weights_digest  # with numpy, which lists do without

    return weights_digest(open_tensors(file.path)).fp16


def quick_report(file: VaeFile, hashes: HashCache) -> Report | VaeFileError:
    """The header's report, or why there is none: for lists, where one bad file must not hide the others."""
    try:
        return report(file, hashes, sha256=False, digest=False)
    except VaeFileError as error:
        return error
