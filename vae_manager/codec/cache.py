"""VAEs that are ready to be swapped in, kept in memory up to a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping

from torch import Tensor

State = Mapping[str, Tensor]


class StateCache:
    """State dicts by key, the longest unused dropped first. The newest is kept even when it alone is too large."""

    def __init__(self, limit: int) -> None:
        """`limit`: bytes of tensors to keep."""
        self.limit = limit
        self._entries: OrderedDict[Hashable, State] = OrderedDict()

    @property
    def bytes(self) -> int:
        return sum(_bytes(state) for state in self._entries.values())

    def get(self, key: Hashable, load: Callable[[], State]) -> State:
        """The state of that key, loaded if it is not there; what `load` raises goes to the caller."""
        if key not in self._entries:
            self._entries[key] = load()
        self._entries.move_to_end(key)
        while len(self._entries) > 1 and self.bytes > self.limit:
            self._entries.popitem(last=False)
        return self._entries[key]

    def drop(self, state: State) -> None:
        """Forget this state, whatever its key."""
        for key in [key for key, entry in self._entries.items() if entry is state]:
            del self._entries[key]


def _bytes(state: State) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())
