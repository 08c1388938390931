"""What the host answers a job with, `processed`: its parameters go into the API's answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class Processed:
    """One answer, as everybody else sees it."""

    def __init__(self, processed: Any) -> None:
        self._processed = processed

    @property
    def parameters(self) -> dict[str, Any]:
        """The infotext's parameters. A copy: the original belongs to pictures that are saved already."""
        return dict(getattr(self._processed, "extra_generation_params", None) or {})

    @property
    def prompts(self) -> Any:
        """The prompts of all pictures: the host's own list, or None."""
        return getattr(self._processed, "all_prompts", None)

    def write(self, parameters: Mapping[str, Any]) -> None:
        """Put other parameters in their place."""
        self._processed.extra_generation_params = dict(parameters)
