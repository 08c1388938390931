"""The errors that a user may see. Every message is a sentence: what is wrong, with what, and what to do."""

from __future__ import annotations

import os


class VaeManagerError(Exception):
    """Base of every error whose text is meant for the user."""


class VaeFileError(VaeManagerError):
    """A file is not a VAE that can be used: broken, truncated, unsafe, or of another kind.

    The text says "it …" and has no full stop: whoever knows the file's name makes the sentence of it, with
    `sentence`.
    """

    def sentence(self, name: str) -> str:
        """The whole sentence for the user."""
        return f"{name if len(name) <= 80 else name[:80] + '…'} cannot be used: {self}."


class BadInputError(VaeManagerError):
    """A picture, latent or argument cannot be used."""


class MemoryLimitError(VaeManagerError):
    """A picture does not fit into the memory that it may take; the message names the least that would do."""


class Interrupted(VaeManagerError):
    """The user stopped a decode or an encode."""


def os_reason(error: OSError) -> str:
    """The operating system's own words for an error, without the path (the caller names the file)."""
    return error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)
