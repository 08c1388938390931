"""One function of a host's module, wrapped where it stands, and given back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

Around = Callable[..., Any]
"""Called with the function it stands around, then that function's own arguments."""


class Hook:
    """One function of one module, wrapped on the instance."""

    def __init__(self, module: nn.Module, name: str, around: Around) -> None:
        self.module, self.name, self.around = module, name, around
        self.inner = getattr(module, name)
        self.own = vars(module).get(name)
        """What stood on the instance itself, such as medvram's wrapper or another tiler's; None: the class's own."""
        self.active = True
        vars(module)[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.around(self.inner, *args, **kwargs) if self.active else self.inner(*args, **kwargs)

    @property
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride]
        """To `isinstance`, what stood there before: another tiler looks so for its own function, to take it out."""
        return Hook if self.own is None else type(self.own)

    @property
    def is_outermost(self) -> bool:
        """Whether nobody has wrapped it since."""
        return vars(self.module).get(self.name) is self

    def remove(self) -> None:
        """Give the function back. Where somebody has wrapped it since, ours stays below as a mere passage."""
        self.active = False
        if not self.is_outermost:
            return
        if self.own is None:
            del vars(self.module)[self.name]
        else:
            vars(self.module)[self.name] = self.own
