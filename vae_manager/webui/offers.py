"""What the page says of each VAE in its lists and cards: what it is, in a few words, and whether it fits.

Only what is known already counts, and headers: a list of a thousand files must not wait for a hash.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vae_manager.errors import VaeFileError, os_reason
from vae_manager.latents.spaces import title_of
from vae_manager.library.files import VaeFile
from vae_manager.library.hashing import HashCache
from vae_manager.library.known import by_sha256
from vae_manager.selection.checkpoint import Checkpoint
from vae_manager.selection.facts import FactsCache


@dataclass(frozen=True)
class Offer:
    """One VAE file, as it is offered to the checkpoint that the next picture is made with."""

    file: VaeFile
    friendly: str = ""
    """What a known file is called; empty for others."""
    space: str = ""
    """The latent space that it decodes, for people."""
    purpose: str = ""
    sha256: str | None = None
    """Where it is known already."""
    against: str = ""
    """Why it is not for that checkpoint, or for none, as a sentence; empty where nothing is known against it."""

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def words(self) -> str:
        """What it is, in a line."""
        parts = (self.friendly, self.space, f"{self.file.size / 1e6:.0f} MB", self.purpose)
        return " · ".join(part for part in parts if part)

    @property
    def told(self) -> str:
        """What it is, or why it is no VAE that can be used at all."""
        return self.words if self.space else self.against or self.words


def offers_of(
    files: Iterable[VaeFile], facts: FactsCache, hashes: HashCache, checkpoint: Checkpoint | None
) -> tuple[Offer, ...]:
    """The files in the order in which they are offered: those that fit first, else as they came."""
    offers = [_offer(file, facts, hashes, checkpoint) for file in files]
    return tuple(sorted(offers, key=lambda offer: bool(offer.against)))


def _against(file: VaeFile, checkpoint: Checkpoint | None) -> str:
    """Why a VAE is not for the checkpoint; empty where it is, or where nothing is known against it."""
    if checkpoint is None:
        return ""
    if (own := checkpoint.hosts_own) is not None:
        return f"{checkpoint.file.path.name} has {own}, which VAE Manager leaves to the WebUI."
    return checkpoint.misfit(file) or ""


def _offer(file: VaeFile, facts: FactsCache, hashes: HashCache, checkpoint: Checkpoint | None) -> Offer:
    try:
        found = checkpoint.vae_facts(file) if checkpoint else facts.vae(file)
        against = _against(file, checkpoint)
        damage = next(iter(facts.health(file)), None)
    except VaeFileError as error:
        return Offer(file, against=error.sentence(file.name))
    except OSError as error:
        return Offer(file, against=f"{file.name} cannot be used: it cannot be read ({os_reason(error)}).")
    sha256 = hashes.peek(file)
    known = by_sha256(sha256) if sha256 else None
    if damage:
        against = VaeFileError(damage).sentence(file.name)
    space = (known.space or known.family) if known else found.latents.space
    if space == "unknown":
        space = f"{found.channels} latent channels" if found.channels else ""
    title = title_of(space)
    return Offer(file, known.name if known else "", title, known.purpose if known else "", sha256, against)


def offers_html(offers: Sequence[Offer]) -> str:
    """The same for our scripts on the page, as data and never as markup: they complete `<vae:` with it, and mark what
    does not fit in lists and cards. A row is [name, what it is, what is against it]."""
    rows = [[offer.name, offer.words, offer.against] for offer in offers]
    return f'<div hidden data-vaes="{html.escape(json.dumps(rows))}"></div>'


def preview_stem(file: VaeFile) -> str:
    """The path that the WebUI's own pictures and notes of a file begin with."""
    return os.path.splitext(file.path)[0]
