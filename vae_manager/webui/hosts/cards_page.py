"""The page *VAE* among the WebUI's extra networks: a card for each file, as LoRAs have them.

The five hosts share this part of A1111's. Its templates put a path, a search term and the tree's labels into HTML as
they are, so all of those are escaped here.
"""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Sequence
from typing import Any

from vae_manager.library.files import Folder
from vae_manager.selection.prompt_tags import vae_tag
from vae_manager.webui.offers import Offer, preview_stem

log = logging.getLogger("vae_manager")

TITLE = "VAE"


def register_cards(offers: Callable[[bool], Sequence[Offer]], folders: Callable[[], Sequence[Folder]]) -> None:
    """Add the page; to be called before the WebUI builds its own, each time that it does.

    Args:
        offers: the files, read anew when called with True. Never raises.
        folders: where VAEs are kept; those where checkpoints lie have a page of their own.
    """
    from modules import shared, ui_extra_networks
    from modules.ui_extra_networks import ExtraNetworksPage, quote_js

    class VaePage(ExtraNetworksPage):  # pyright: ignore[reportUntypedBaseClass]
        """A page of the WebUI's: its methods are called by the WebUI."""

        def __init__(self) -> None:
            super().__init__(TITLE)

        def refresh(self) -> None:
            offers(True)

        def list_items(self) -> list[dict[str, Any]]:
            found = [self._item(offer, index) for index, offer in enumerate(offers(False))]
            return [item for item in found if item is not None]

        def create_item(self, name: str, index: int | None = None, enable_filter: bool = True) -> Any:
            return next((self._item(offer, index) for offer in offers(False) if offer.name == name), None)

        def allowed_directories_for_previews(self) -> list[str]:
            return list(dict.fromkeys(str(folder.path) for folder in folders() if not folder.marked_only))

        def create_item_html(self, tabname: str, item: Any, template: str | None = None) -> Any:
            escaped = {**item, "filename": html.escape(item["filename"])}
            return super().create_item_html(tabname, escaped, template)

        def create_tree_file_item_html(self, tabname: str, file_path: str, item: Any) -> str:
            return super().create_tree_file_item_html(
                tabname, html.escape(file_path), {**item, "name": html.escape(item["name"])}
            )

        def create_tree_dir_item_html(self, tabname: str, dir_path: str, content: str | None = None) -> Any:
            return super().create_tree_dir_item_html(tabname, html.escape(dir_path), content)

        def _item(self, offer: Offer, index: int | None) -> dict[str, Any] | None:
            """What the WebUI wants to know of one file; None where no prompt could name it, or it has no text for a
            name."""
            try:
                tag, stem = vae_tag(offer.name), preview_stem(offer.file)
                offer.name.encode()
                if tag is None:
                    return None
                path = str(offer.file.path)
                words = [self.search_terms_from_path(path), offer.words, offer.sha256 or ""]
                item = {
                    "name": offer.name,
                    "filename": path,
                    "shorthash": (offer.sha256 or "")[:10],
                    "preview": self.find_preview(stem),
                    "description": self.find_description(stem) or offer.told,
                    "search_terms": [html.escape(word) for word in words if word],
                    "local_preview": f"{stem}.{shared.opts.samples_format}",
                    "prompt": quote_js(tag),
                    "sort_keys": {"default": index or 0, **self.get_sort_keys(path)},
                }
                self.read_user_metadata(item)
            except Exception:  # one strange file must not take the WebUI's page down
                log.exception("VAE Manager could not make a card of %r", offer.name)
                return None
            return item

    ui_extra_networks.register_page(VaePage())
