"""What the page "VAE Manager" and the panel cost with a library of a thousand files.

    python -m benchmarks.page [--files 1000] [--rounds 5] [--json]

The VAEs and as many checkpoints are those of `benchmarks.library`: true headers, the true size, no content. The page is
served by `vae-manager ui` in the newest Gradio (`.venv-ui`, of `make test`) and opened in Chromium. `new`: nothing is
known of the files yet; `known`: another process has read their headers before; `again`: the page is loaded once more
from the same process. Times begin as the script asks for the list, which is when the tab comes into view, and end when
the browser has painted it; how long Gradio takes before that is told apart. Search is typed, key by key, and each key
counts until its rows are painted. What a WebUI waits for is measured without one, in the two Gradios that they ship:
importing our entries after torch and Gradio, and building both panels and the tab.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from benchmarks.library import write_files
from tests.servers import wait_for
from vae_manager.commands.bench import page_arguments
from vae_manager.errors import BadInputError

ROOT = Path(__file__).resolve().parents[1]

UI = ROOT / ".venv-ui" / "bin" / "python"

GRADIOS = {name: ROOT / f".venv-gradio{name[0]}" / "bin" / "python" for name in ("3.41.2", "4.40.0")}
"""The hosts'; the environments are those of the tests."""

WORDS = ("vae-99", "0 sdxl", "safetensors 7")
"""What is typed into the search: little of it, half of it, most of it stays."""

IDLE = 10.0
"""Seconds in which no request may come."""

WATCH = """
window.told = {keys: []};
const painted = (then) => requestAnimationFrame(() => {
    const {port1, port2} = new MessageChannel();
    port1.onmessage = () => then(performance.now());
    port2.postMessage(0);  // after the frame
});
document.addEventListener("click", (event) => {
    if (event.target.closest && event.target.closest("#vae_manager_page_open")) { told.asked ??= performance.now(); }
}, true);
document.addEventListener("input", (event) => {
    if (event.target.closest("#vae_manager_page_search")) {
        const begun = event.timeStamp;
        painted((now) => told.keys.push(now - begun));
    }
}, true);
const look = () => {
    const first = document.querySelector("#vae_manager_page_library tbody tr");
    if (first && !told.names) { told.names = Infinity; painted((now) => { told.names = now; }); }
    if (first && !told.facts && first.children[2].textContent) {
        told.facts = Infinity;
        painted((now) => { told.facts = now; });
    }
};
new MutationObserver(look).observe(document, {childList: true, subtree: true});
"""
"""Notes on the page's own clock, milliseconds since the navigation began."""


def measure(options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """What the options ask for: the JSON document, and a text for people.

    Raises:
        BadInputError: an environment or Chromium is not there.
    """
    missing = [str(python) for python in (UI, *GRADIOS.values()) if not python.exists()]
    if missing:
        raise BadInputError(f"There is no {missing[0]}; make test makes it.")
    found = times(options.files, options.rounds)
    return found, report(found)


def times(files: int, rounds: int) -> dict[str, Any]:
    """All of it; seconds, but for search, which is milliseconds."""
    found: dict[str, Any] = {"files": files, "load": [os.getloadavg()[0]], "page": {}, "search": {}, "idle": []}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root, files)
        for number in range(rounds):
            home = root / f"home-{number}"
            for kind in ("new", "known"):
                with served(root, home) as url:
                    visit(url, kind, found)
                    if kind == "known":
                        visit(url, "again", found, searches=True)
        found["hosts"] = {name: [building(python, root, rounds)] for name, python in GRADIOS.items()}
    found["load"].append(os.getloadavg()[0])
    return found


@contextmanager
def served(root: Path, home: Path) -> Iterator[str]:
    """The page's address, while a process of its own serves it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = root / "log.txt"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [UI, "-m", "vae_manager", "ui", "--vae-dir", root / "VAE", "--checkpoint-dir", root / "models",
             "--port", str(port), "--no-browser"],
            cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, env=_environment(home),
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}/"
        wait_for(url, server, log)
        yield url
    finally:
        server.terminate()
        server.wait(60)


def visit(url: str, kind: str, found: dict[str, Any], searches: bool = False) -> None:
    """Open the page as a new browser does, and note what it took."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=_chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900}, locale="en-GB")
        page.set_default_timeout(300_000)
        page.add_init_script(WATCH)
        page.goto(url)
        page.wait_for_function("() => told.facts && told.facts < Infinity")
        told = page.evaluate("() => told")
        noted = found["page"].setdefault(kind, {"gradio": [], "names": [], "facts": []})
        noted["gradio"].append(told["asked"] / 1000)
        for name in ("names", "facts"):
            noted[name].append((told[name] - told["asked"]) / 1000)
        if searches:
            search(page, found["search"])
            found["idle"].append(requests_while_idle(page))
        browser.close()


def search(page: Page, found: dict[str, list[float]]) -> None:
    """Type each of the words, wipe it out again, and note how long every key took."""
    box = page.locator("#vae_manager_page_search input")
    for words in WORDS:
        page.evaluate("() => { told.keys = []; }")
        box.press_sequentially(words, delay=250)
        for _ in words:
            box.press("Backspace")
            page.wait_for_timeout(250)
        keys = page.evaluate("() => told.keys")
        assert len(keys) == 2 * len(words), (words, keys)
        found.setdefault(words, []).extend(keys)


def requests_while_idle(page: Page) -> int:
    """How many requests the page makes by itself."""
    seen: list[str] = []
    page.wait_for_timeout(1000)
    page.on("request", lambda request: seen.append(request.url))
    page.wait_for_timeout(1000 * IDLE)
    return len(seen)


def building(python: Path, root: Path, rounds: int) -> dict[str, Any]:
    """What a WebUI waits for: imports, and page after page built in one process; seconds of a processor and of the
    clock of each."""
    done = subprocess.run(
        [python, "-m", "benchmarks.page_build", root, str(max(3, rounds))],
        cwd=ROOT, env=_environment(root / "host"), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def _environment(home: Path) -> dict[str, str]:
    ours = {"VAE_MANAGER_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return {**os.environ, **ours, "GRADIO_ANALYTICS_ENABLED": "False", "NO_PROXY": "127.0.0.1"}


def _chromium() -> str:
    if (found := shutil.which("chromium")) is None:
        raise BadInputError("There is no Chromium: apt-get install chromium.")
    return found


def report(found: dict[str, Any]) -> str:
    """The figures for people: the median of the rounds and the worst of them."""
    load = " and ".join(f"{one:.1f}" for one in found["load"])
    lines = [f"{found['files']} VAEs and as many checkpoints; load before and after: {load}"]
    for kind, noted in found["page"].items():
        said = {"gradio": "Gradio's own page", "names": "names", "facts": "with what headers say"}
        parts = (f"{words} {_spread(noted[name], ' s')}" for name, words in said.items())
        lines.append(f"page, {kind}: {', '.join(parts)}")
    for words, keys in found["search"].items():
        lines.append(f"search, {words!r} and back, each key: {_spread(keys, ' ms')}")
    lines.append(f"requests in {IDLE:.0f} s while idle: {max(found['idle'])}")
    for name, (one,) in found["hosts"].items():
        first, *later = (1000 * processor for processor, _ in one["build"])
        lines.append(
            f"Gradio {name}, of a processor: imports {1000 * one['imports'][0]:.0f} ms; panels and tab {first:.0f} ms "
            f"the first time, then {_spread(later, ' ms')}"
        )
    return "\n".join(lines)


def _spread(numbers: list[float], unit: str) -> str:
    return f"{statistics.median(numbers):.3g}{unit} (at most {max(numbers):.3g})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    page_arguments(parser)
    args = parser.parse_args()
    found, text = measure(args)
    print(json.dumps(found) if args.json else text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
