"""What the headers of checkpoints and VAE files say, read once and kept until the file changes."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from vae_manager.codec.kinds.kind import Kind, KindName
from vae_manager.codec.kinds.registry import BY_NAME
from vae_manager.errors import VaeFileError
from vae_manager.latents.claims import of_vae_shape
from vae_manager.latents.evidence import Claim, Evidence, Known, settle
from vae_manager.latents.spaces import SPACES
from vae_manager.library.files import VaeFile
from vae_manager.library.gguf import is_gguf, is_gguf_name
from vae_manager.library.hashing import Progress, stamp_of
from vae_manager.library.headers import Header, TensorTable
from vae_manager.library.identify import (
    architecture_of_table,
    checkpoint_claims,
    identify,
    norm_groups_of,
    vae_shape,
)
from vae_manager.library.known import by_name
from vae_manager.library.layouts import CHECKPOINT_PREFIXES, detect_layout
from vae_manager.library.tensors import is_safetensors_name, open_tensors, read_header
from vae_manager.store import Store

if TYPE_CHECKING:
    from vae_manager.library.health import RoundTrip

MAX_METADATA = 64
"""Metadata entries that are kept for rules; a value's first `MAX_VALUE` characters count."""
MAX_VALUE = 512

MAX_OLD_PICKLE = 512 << 20
"""Bytes of a pickle from before torch 1.6 that are worth reading for the names of its tensors."""

REVISION = 9
"""Raise it whenever a header is read or a VAE is judged otherwise: what an older program found is found anew."""

_LOOKS = ("", "weights", "pictures")

Facts = TypeVar("Facts", "CheckpointFacts", "VaeFacts")


Said = tuple[Sequence[str], int, str]
"""A `Claim` as the store keeps it: spaces, evidence, detail."""


@dataclass(frozen=True)
class CheckpointFacts:
    """What a checkpoint's header says."""

    architecture: str = "unknown"
    """An id of `latents.architectures`."""
    claims: Sequence[Said] = ()
    """What it says of the latent space."""
    has_vae: bool | None = None
    """Whether a VAE is baked in (no, where the file is broken); None where it takes too long to find out."""
    readable: bool = True
    """Whether the VAE that is baked in is of a kind that is known here, so that its health can be looked at."""
    problem: str | None = None
    """What is wrong with the baked VAE, or why the file could not be read: "it …"."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def latents(self) -> Known:
        """The latent space that it paints in, by the header alone."""
        return _settled(self.claims)

    @property
    def family(self) -> str:
        """That space's family, or 'unknown'."""
        space = SPACES.get(self.latents.space)
        return space.family if space else "unknown"


@dataclass(frozen=True)
class VaeFacts:
    """What a VAE file's header says."""

    kind: KindName
    """A key of `codec.kinds.registry.BY_NAME`."""
    channels: int | None = None
    claims: Sequence[Said] = ()
    evidence: str = ""
    """For people: how its family is known, or why it is not."""

    @cached_property
    def latents(self) -> Known:
        """The latent spaces that it may decode."""
        return _settled(self.claims)

    @property
    def family(self) -> str:
        """The family whose latents it decodes, that of a kind with a latent space of its own, or 'unknown'."""
        space = SPACES.get(self.latents.space)
        own = BY_NAME[self.kind].family if self.has_own_space else None
        return space.family if space else own or "unknown"

    @property
    def has_own_space(self) -> bool:
        """Whether no checkpoint paints in its latent space."""
        return BY_NAME[self.kind].own_space


class FactsCache:
    """Facts read from headers, until the file changes; in memory, and in the store if there is one.

    Safe to use from several threads.
    """

    def __init__(self, store: Store | None = None) -> None:
        self._store = store or Store(None)
        self._read: dict[tuple[str, str], tuple[str, Any]] = {}

    def checkpoint(self, file: VaeFile) -> CheckpointFacts:
        """The facts of a checkpoint; a file that cannot be read has a `problem`."""
        return self._get("checkpoint", file, CheckpointFacts, _read_checkpoint)

    def vae(self, file: VaeFile) -> VaeFacts:
        """The facts of a VAE file.

        Raises:
            VaeFileError: it is no VAE, or cannot be read.
        """
        return self._get("vae", file, VaeFacts, _read_vae)

    def digest(self, file: VaeFile, compute: bool, progress: Progress | None = None) -> str | None:
        """The fp16 digest of the VAE in a file; None where it is not known and must not be computed.

        `progress` is called after each tensor with (done, total); what it raises stops the work.

        Raises:
            VaeFileError: there is no VAE in the file, or it cannot be read.
        """
        known = self._store.get("digest", file.key, stamp_of(file))
        if isinstance(known, str):
            return known
        if not compute:
            return None
        from vae_manager.library.digest import weights_digest  # with numpy: what is known starts without it

        digest = weights_digest(open_tensors(file.path), progress=progress).fp16
        self._remember("digest", file, digest)
        return digest

    def health(
        self, file: VaeFile, family: str = "unknown", look: str = "", progress: Progress | None = None
    ) -> tuple[str, ...]:
        """What is wrong with the VAE in a file, as far as it was looked at.

        `look`: '' only what is known already; 'weights' a second; 'pictures' many seconds (a round trip).
        """
        known = self._store.get(f"health {REVISION}", file.key, stamp_of(file))
        done = str(known.get("look")) if isinstance(known, dict) else ""
        if _LOOKS.index(look) <= (_LOOKS.index(done) if done in _LOOKS else 0):
            problems = known.get("problems") if isinstance(known, dict) else None
            return tuple(map(str, problems)) if isinstance(problems, list) else ()
        from vae_manager.library.health import examine  # with torch: what is known starts without it

        try:
            problems = examine(file, family, thorough=look == "pictures", progress=progress)
        except VaeFileError as error:
            problems = (str(error),)
        self._remember(f"health {REVISION}", file, {"look": look, "problems": list(problems)})
        return problems

    def trip(self, file: VaeFile, compute: bool = False, progress: Progress | None = None) -> RoundTrip | None:
        """What a round trip does to pictures; None where it is not known, must not be found out, or cannot be."""
        known = self._store.get(f"trip {REVISION}", file.key, stamp_of(file))
        if not compute and not isinstance(known, dict):
            return None
        if isinstance(known, dict):
            return _trip_again(known)
        from vae_manager.library.health import trip_of  # with torch: what is known starts without it

        try:
            trip = trip_of(file, progress=progress)
        except VaeFileError:
            trip = None
        self._remember(f"trip {REVISION}", file, asdict(trip) if trip and math.isfinite(trip.contrast) else {})
        return trip

    def save(self) -> None:
        """Write what is new to the store, once for many files read. A folder that cannot be written is no error."""
        self._store.flush()

    def _get(self, kind: str, file: VaeFile, type_: type[Facts], read: Any) -> Facts:
        own, stamp = (kind, str(file.path)), stamp_of(file)
        if (held := self._read.get(own)) is not None and held[0] == stamp:
            return held[1]
        found = self._stored(f"{kind} {REVISION}", file, type_, read)
        self._read[own] = stamp, found
        return found

    def _stored(self, kind: str, file: VaeFile, type_: type[Facts], read: Any) -> Facts:
        known = self._store.get(kind, file.key, stamp_of(file))
        if isinstance(known, dict):
            try:
                return type_(**known)
            except TypeError:  # another version's entry
                pass
        found = asdict(read(file))
        self._remember(kind, file, found)
        return type_(**json.loads(json.dumps(found)))  # as the store will give it back

    def _remember(self, kind: str, file: VaeFile, value: Any) -> None:
        self._store.put(kind, file.key, stamp_of(file), value, later=True)


def _trip_again(known: Mapping[str, Any]) -> RoundTrip | None:
    """What was remembered of a round trip; None where there was none, or where it is not what this program wrote."""
    from vae_manager.library.health import RoundTrip

    try:
        numbers = {name: float(known[name]) for name in RoundTrip.__dataclass_fields__ if name != "curve"}
        constant, first, second, third = map(float, known["curve"])
    except (KeyError, TypeError, ValueError):
        return None
    return RoundTrip(**numbers, curve=(constant, first, second, third))


def _read_checkpoint(file: VaeFile) -> CheckpointFacts:
    if _is_old_pickle(file):
        return CheckpointFacts(problem="it is a pickle of the old kind, which tells nothing before it is read whole")
    try:
        _, header = read_header(file.path)
    except VaeFileError as error:
        return CheckpointFacts(has_vae=False, problem=str(error))
    found, has_vae = architecture_of_table(header.tensors), _has_vae(header.tensors)
    claims = [said_of(claim) for claim in checkpoint_claims(header)]
    readable = has_vae and (found is None or found.architecture.latent_space.decoded_here) and _is_known_kind(header)
    pairs = list(header.metadata.items())[:MAX_METADATA]
    return CheckpointFacts(
        found.architecture.id if found else "unknown",
        claims,
        has_vae,
        readable,
        _baked_problem(header) if readable else None,
        {key[:MAX_VALUE]: value[:MAX_VALUE] for key, value in pairs},
    )


def said_of(claim: Claim) -> Said:
    return sorted(claim.spaces), int(claim.evidence), claim.detail


def claim_of(said: Said) -> Claim:
    spaces, evidence, detail = said
    return Claim(frozenset(spaces) & set(SPACES), Evidence(evidence), detail)


def _settled(claims: Sequence[Said]) -> Known:
    return settle(map(claim_of, claims))


def _is_old_pickle(file: VaeFile) -> bool:
    if is_safetensors_name(file.path) or is_gguf_name(file.path) or file.size <= MAX_OLD_PICKLE:
        return False
    try:
        return not zipfile.is_zipfile(file.path) and not is_gguf(file.path)
    except VaeFileError:
        return False  # reading its header tells why


@lru_cache(maxsize=64)
def _has_vae(names: TensorTable) -> bool:
    starts = tuple(prefix + part for prefix in CHECKPOINT_PREFIXES for part in ("decoder.", "encoder."))
    return any(name.startswith(starts) for name in names)


def _is_known_kind(header: Header) -> bool:
    """Whether the VAE among a file's tensors is of a kind that is known here."""
    try:
        detect_layout(header)
    except VaeFileError:
        return False
    return True


def _baked_problem(header: Header) -> str | None:
    """What the shapes of a baked KL autoencoder say against it: merges lose or mix up tensors."""
    try:
        if detect_layout(header).kind.stands_in:
            problems = vae_shape(header.tensors, norm_groups_of(header.metadata)).problems
            return problems[0] if problems else None
    except VaeFileError as error:
        return str(error)
    return None


def _read_vae(file: VaeFile) -> VaeFacts:
    found = identify(file)
    kind = BY_NAME[found.kind]
    # what only its own WebUI runs still belongs to the checkpoints of its latent space
    belongs = found.latents.certain and not kind.stands_in
    if found.problems and not belongs:
        raise VaeFileError(found.problems[0])
    if kind.latents_scaled:
        return _read_tiny(kind, file)
    if not found.encodes:
        raise VaeFileError("it has a decoder only, which no WebUI can put in place of a whole VAE")
    said = (sorted(found.latents.firm), int(found.latents.evidence), found.family_evidence)
    return VaeFacts(kind.name, found.latent_channels, [said] if found.latents.firm else (), found.family_evidence)


def _read_tiny(kind: Kind, file: VaeFile) -> VaeFacts:
    """A tiny VAE: its shape tells the number of channels, and sometimes the family."""
    header = read_header(file.path)[1]
    found = vae_shape(header.tensors, norm_groups_of(header.metadata))
    known = by_name(found.variants[0]) if len(found.variants) == 1 else ()
    claim = Claim(frozenset({known[0].space}), Evidence.SHAPES) if known and known[0].space else None
    claim = claim or of_vae_shape(kind.stands_for or "kl", found.latent_channels or 0)
    return VaeFacts(kind.name, found.latent_channels, [said_of(claim)], "the shape of its tensors")
