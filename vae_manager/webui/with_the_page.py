"""What a component shows once its page is opened, and not before: building a page must wait for no file."""

from __future__ import annotations

from collections.abc import Callable


class WithThePage:
    """A component's value. Gradio asks for it while the page is built, too, and gets what stands there meanwhile; when
    the page is opened, a model may have been loaded."""

    def __init__(self, read: Callable[[], str], meanwhile: str = "") -> None:
        self._read, self._meanwhile = read, meanwhile
        self._built = False

    def __call__(self) -> str:
        if self._built:
            return self._read()
        self._built = True
        return self._meanwhile
