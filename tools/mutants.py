"""Change one line of the program at a time, and see whether the tests that belong to it notice.

.venv/bin/python tools/mutants.py             all mutants; the status is 1 where one survives or fits no more
.venv/bin/python tools/mutants.py retry scale  only those with one of these words in their title
.venv/bin/python tools/mutants.py --list       what there is, without running anything
.venv/bin/python tools/mutants.py --plain      the tests alone, in the copy, without any change: they must pass

Each change is made in a copy of the working tree in a temporary folder. The mutants are data, in `mutant_list.py` and
`mutant_list_webui.py`.
"""

# pyright: basic
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import mutant_list
import mutant_list_webui
from mutant_list import Mutant

ROOT = Path(__file__).resolve().parent.parent

MUTANTS = (*mutant_list.MUTANTS, *mutant_list_webui.MUTANTS)

TIME_LIMIT = 900
"""Seconds for one mutant's tests, also on a busy machine: a mutant may hang."""

CAUGHT, SURVIVED, STALE, ERROR = "caught", "SURVIVED", "STALE", "ERROR"
MEANING = {
    CAUGHT: "a test failed, or what it stands on",
    SURVIVED: "no test noticed",
    STALE: "the old text is not there, or more than once: mend the list",
    ERROR: "pytest could not run the tests that are named, or they took too long",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants with one of these in their title or file")
    parser.add_argument("--list", action="store_true", help="list them, run nothing")
    parser.add_argument("--plain", action="store_true", help="run the tests without any change")
    options = parser.parse_args()
    words = [word.lower() for word in options.words]
    chosen = [m for m in MUTANTS if not words or any(w in f"{m.title} {m.file}".lower() for w in words)]
    if options.list:
        print(*(f"{m.file}: {m.title}" for m in chosen), sep="\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        tree = Path(folder)
        copy_tree(tree)
        if options.plain:
            return subprocess.call(
                command(dict.fromkeys(test for m in chosen for test in m.tests)), **surroundings(tree)
            )
        found = Counter(tried(mutant, tree) for mutant in chosen)
    print(*(f"{count} {status} ({MEANING[status]})" for status, count in found.items()), sep="\n")
    return int(set(found) != {CAUGHT})


def copy_tree(tree: Path) -> None:
    """The files that git knows, or would, as they are in the working tree."""
    listed = subprocess.check_output(["git", "ls-files", "-z", "-c", "-o", "--exclude-standard"], cwd=ROOT)
    for name in filter(None, os.fsdecode(listed).split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)


def tried(mutant: Mutant, tree: Path) -> str:
    """Apply one mutant, run its tests, take it back, and tell."""
    begun = time.monotonic()
    file = tree / mutant.file
    before = file.read_text(encoding="utf-8") if file.is_file() else ""
    if before.count(mutant.old) != 1:
        status, line = STALE, ""
    else:
        file.write_text(before.replace(mutant.old, mutant.new), encoding="utf-8")
        status, line = judged(mutant, tree)
        file.write_text(before, encoding="utf-8")
    print(f"{status:8} {time.monotonic() - begun:5.0f} s  {mutant.file}: {mutant.title}  {line}".rstrip(), flush=True)
    return status


def judged(mutant: Mutant, tree: Path) -> tuple[str, str]:
    """Whether the tests fail, and which one did."""
    try:
        done = subprocess.run(
            command(mutant.tests), capture_output=True, text=True, timeout=TIME_LIMIT, check=False, **surroundings(tree)
        )
    except subprocess.TimeoutExpired:
        return ERROR, f"not done after {TIME_LIMIT} s"
    lines = done.stdout.splitlines()
    failed = next((line.split(" - ")[0] for line in lines if line.startswith(("FAILED tests/", "ERROR tests/"))), "")
    if done.returncode == 1 and failed:
        return CAUGHT, f"[{failed.partition(' ')[2]}]"
    return (SURVIVED, "") if done.returncode == 0 else (ERROR, (lines or done.stderr.splitlines() or [""])[-1])


def command(tests) -> list[str]:
    return [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]


def surroundings(tree: Path) -> dict:
    # no bytecode: Python would take a file for unchanged that was changed within a second and kept its size
    return {"cwd": tree, "env": {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}}


if __name__ == "__main__":
    sys.exit(main())
