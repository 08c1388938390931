"""What selection knows of a checkpoint, and of the family of a VAE file, by their headers alone.

Reading a header costs milliseconds; for hundreds of checkpoints that adds up, so what was read is remembered until
the file changes. What costs seconds (hashes, digests) is computed only when a rule or preset asks for it and only
where the caller allows it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from vae_manager.codec.kinds.registry import OWN_FAMILIES
from vae_manager.errors import VaeFileError
from vae_manager.latents.architectures import BY_ID
from vae_manager.latents.claims import LoadedFormat, of_file_name, of_latent, of_loaded
from vae_manager.latents.evidence import Claim, Evidence, Known, conflict, settle
from vae_manager.latents.spaces import SPACES, LatentSpace
from vae_manager.library.files import VaeFile, file_stem, vae_file
from vae_manager.library.hashing import HashCache
from vae_manager.library.known import by_sha256
from vae_manager.selection.facts import CheckpointFacts, FactsCache, VaeFacts, claim_of, said_of

FEW = 2
"""Latent spaces that a sentence names one by one."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that wants a VAE. Make it with `open_checkpoint`."""

    file: VaeFile
    facts: CheckpointFacts
    hashes: HashCache
    cache: FactsCache
    thorough: bool = False
    """May hash and digest files: seconds each. Otherwise only what is known already counts."""
    problems: tuple[str, ...] = ()
    """What `library.health` found wrong with the baked VAE, as far as it was looked at: "it …"."""
    loaded: LoadedFormat | None = None
    """What the model says of its own latents, where a WebUI has loaded it."""

    @property
    def name(self) -> str:
        """Path below the checkpoint folder, with forward slashes."""
        return self.file.name

    @property
    def stem(self) -> str:
        """File name without folder and suffix."""
        return file_stem(self.file.path.name)

    @cached_property
    def latents(self) -> Known:
        """Which latent space it paints in, and how that is known."""
        return settle(self._claims(self.loaded))

    def _claims(self, loaded: LoadedFormat | None) -> list[Claim]:
        claims = [of_file_name(self.stem), *(claim_of(said) for said in self.facts.claims)]
        return [of_loaded(loaded), *claims] if loaded else claims

    @property
    def space(self) -> LatentSpace | None:
        """The latent space, where it is known; a guess by the file's name does not count."""
        return SPACES[next(iter(self.latents.firm))] if self.latents.certain else None

    @property
    def family(self) -> str:
        """The space's family, or 'unknown'."""
        return self.space.family if self.space else "unknown"

    @property
    def title(self) -> str:
        """What it is, for people: its architecture where shapes tell it, or its latent space's name."""
        if self.space is None:
            return "unknown"
        architecture = BY_ID.get(self.facts.architecture)
        by_shape = any(claim_of(said).evidence is Evidence.SHAPES for said in self.facts.claims)
        agrees = architecture is not None and architecture.space == self.space.id
        return architecture.title if architecture and agrees and by_shape else self.space.title

    @property
    def left_alone(self) -> bool:
        """Whether it paints in a space whose VAEs are not of any kind known here: they stay the WebUI's own."""
        return self.space is not None and not self.space.decoded_here

    @property
    def hosts_own(self) -> str | None:
        """What its VAE is, in words, where no WebUI's model can be given one by us; None: it can, or nobody knows."""
        if self.space is None or self.space.decoded_here:
            return None
        if self.space.topology == "pixels":
            return self.space.title
        return "a video VAE" if self.space.video else "a VAE of another build"

    def space_for(self, channels: int, scaled: bool) -> LatentSpace | None:
        """The space of a latent of so many channels that arrives from its model, where it is known.

        `scaled`: also by the scale that the model was loaded with, which may be wrong.
        """
        loaded = self.loaded if scaled or self.loaded is None else replace(self.loaded, scale=None, shift=None)
        known = settle([of_latent(channels), *self._claims(loaded)])
        return SPACES[next(iter(known.firm))] if known.certain else None

    @property
    def leaves(self) -> str:
        """What becomes of its VAE, for the end of a sentence, where it is left alone."""
        pixels = self.space is not None and self.space.topology == "pixels"
        return "it paints pixels and needs no VAE" if pixels else "its VAE is left to the WebUI that runs it"

    def sha256(self, compute: bool | None = None) -> str | None:
        """The file's sha256; None where it is not known and must not be computed (default: as `thorough` says)."""
        if not (self.thorough if compute is None else compute):
            return self.hashes.peek(self.file)
        return _hashed(self.hashes, self.file)

    def baked_digest(self) -> str | None:
        """The fp16 digest of the baked VAE; None where there is none, or it is not known."""
        if not self.facts.has_vae:
            return None
        try:
            return self.cache.digest(self.file, self.thorough)
        except (VaeFileError, OSError):
            return None

    def vae_facts(self, vae: VaeFile) -> VaeFacts:
        """What is known of a VAE file's family: by its hash, or else by its header.

        Raises:
            VaeFileError: it is no VAE, or cannot be read.
        """
        facts = self.cache.vae(vae)
        may_hash = self.thorough and not facts.latents.certain
        sha256 = _hashed(self.hashes, vae) if may_hash else self.hashes.peek(vae)
        known = by_sha256(sha256) if sha256 else None
        if known is None or known.family in OWN_FAMILIES:
            return facts
        by_hash = Claim(frozenset({known.space} if known.space else ()), Evidence.HOST)
        said = (said_of(by_hash),) if known.space else ()
        return replace(facts, claims=said, evidence=f"its sha256 is that of {known.name}")

    def damage(self, vae: VaeFile) -> str | None:
        """What the numbers in a VAE file say against it, "its …": loading would refuse it. Without `thorough` only what
        is known already counts."""
        return next(iter(self.cache.health(vae, look="weights" if self.thorough else "")), None)

    def misfit(self, vae: VaeFile, allow_other: bool = False) -> str | None:
        """Why a VAE is not for this checkpoint, as a sentence; None where it is, or where nothing is known against it.

        `allow_other`: the user wants a VAE of another family all the same, which can work where the channels agree.

        Raises:
            VaeFileError: it is no VAE, or cannot be read.
        """
        facts = self.vae_facts(vae)
        if facts.has_own_space:
            own = (
                f"{vae.name} is a LiteVAE, which has a latent space of its own: it cannot decode what "
                f"{self.file.path.name} makes. Use it with encode and decode only."
            )
            return None if allow_other else own
        firm = self._is_firmly_apart(facts)
        if not firm and (allow_other or not conflict(self.latents, facts.latents)):
            return None
        made_for = SPACES[facts.latents.space].title if facts.latents.certain else f"{facts.channels}-channel latents"
        made_for += f" ({facts.evidence})" if facts.evidence else ""
        mine = sorted((SPACES[space] for space in self.latents.firm), key=lambda space: space.title)
        several = f"one with {mine[0].channels}-channel latents" if len(mine) > FEW else ""
        what = several or " or ".join(space.title for space in mine)
        advice = f"{self.leaves}" if self.left_alone else "choose a VAE of that family"
        advice += "" if firm or self.left_alone else ", or allow another family's in the settings"
        return f"{vae.name} is made for {made_for}, but the checkpoint {self.file.path.name} is {what}; {advice}."

    def _is_firmly_apart(self, facts: VaeFacts) -> bool:
        """Whether a VAE cannot be used whatever the user wants: other channels, or a network of another kind."""
        mine = [SPACES[space] for space in self.latents.firm]
        theirs = {SPACES[space].topology for space in facts.latents.firm}
        if mine and facts.channels is not None and facts.channels not in {space.channels for space in mine}:
            return True
        return bool(mine and theirs) and not theirs & {space.topology for space in mine}


def open_checkpoint(
    path: Path,
    name: str | None = None,
    hashes: HashCache | None = None,
    cache: FactsCache | None = None,
    thorough: bool = False,
    look: str = "",
    loaded: LoadedFormat | None = None,
) -> Checkpoint:
    """Describe a checkpoint by its header.

    Args:
        look: how closely to look at the baked VAE's health, see `FactsCache.health`.
        loaded: what the model says of its own latents, where a WebUI has loaded it.

    Raises:
        OSError: there is no such file.
    """
    file, cache = vae_file(path, name), cache or FactsCache()
    facts = cache.checkpoint(file)
    found = Checkpoint(file, facts, hashes or HashCache(None), cache, thorough, loaded=loaded)
    problems = cache.health(file, found.family, look) if facts.has_vae and facts.readable else ()
    return replace(found, problems=problems)


def _hashed(hashes: HashCache, file: VaeFile) -> str | None:
    """The sha256, or None where the file, or the cache's own, cannot be used just now."""
    try:
        return hashes.sha256(file)
    except (VaeFileError, OSError):
        return None
