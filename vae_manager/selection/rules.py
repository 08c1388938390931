"""The user's rules and the built-in ones: which checkpoint gets which VAE. The format is told in docs/rules.md.

A rule has conditions, which must all hold, and an outcome. The first rule that matches and whose VAE can be had
decides. A rules file is read whole: what is right in it is used, and every mistake is told with the rule and the
field it is in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from vae_manager.errors import BadInputError, os_reason
from vae_manager.json_text import parse_json
from vae_manager.latents.architectures import BY_ID
from vae_manager.latents.spaces import SPACES
from vae_manager.selection.checkpoint import Checkpoint
from vae_manager.selection.name_words import SAYS, says_of_vae
from vae_manager.selection.patterns import Pattern, glob, regex
from vae_manager.selection.settings import RULED, Said, Setting, Value

VERSION = 1
BUILT_IN = Path(__file__).resolve().parent.parent / "data" / "builtin_rules.json"
SCHEMA = BUILT_IN.with_name("rules.schema.json")

MAX_BYTES = 4 << 20
MAX_RULES = 1000
MAX_TEXT = 500

FIELDS = ("name", "when", "vae", *(setting.key for setting in RULED), "enabled", "note")
"""What a rule may hold."""

FAMILIES = tuple(
    dict.fromkeys(name for space in SPACES.values() if space.decoded_here for name in (space.family, space.id))
)
"""What a rule may call a checkpoint's family: a latent space, or several of them by their older name."""

FAMILY_DEFAULT = "default"
"""As a rule's VAE: the family's default among the files that are there."""


@dataclass(frozen=True)
class Condition:
    """One thing that a checkpoint must be."""

    shown: str
    """For people, such as "name 'realistic*'"."""
    holds: Callable[[Checkpoint], bool | None]
    """None: what it needs is not known of this checkpoint yet, such as a hash that takes minutes."""


@dataclass(frozen=True)
class Rule:
    """One rule."""

    number: int
    """Its place in the file, from 1."""
    name: str
    vaes: tuple[str, ...]
    """What to use, best first: a VAE's name, known id or hash, 'baked', or 'default'."""
    conditions: tuple[Condition, ...] = ()
    said: Said = field(default_factory=dict)
    """What it says of the settings beside the VAE, by their names in the table."""

    @property
    def title(self) -> str:
        """For sentences: rule 2 'realistic*'."""
        return f"rule {self.number} {self.name!r}" if self.name else f"rule {self.number}"

    def matches(self, checkpoint: Checkpoint) -> bool | None:
        """Whether every condition holds; None where none is false, but one is not known."""
        answer: bool | None = True
        for condition in self.conditions:
            held = condition.holds(checkpoint)
            if held is False:
                return False
            answer = answer if held else None
        return answer

    def why(self) -> str:
        """Which conditions it has, for the trace."""
        return ", ".join(condition.shown for condition in self.conditions) or "every checkpoint"


@dataclass(frozen=True)
class RuleSet:
    """The rules of one file."""

    rules: tuple[Rule, ...] = ()
    problems: tuple[str, ...] = ()
    """One sentence for each rule that was left out, or for the file."""
    defaults: tuple[Rule, ...] = ()
    """Of the built-in rules only: the families' defaults."""
    readable: bool = True
    """False where the file holds no list of rules at all: then `problems` says why."""


def load_rules(path: Path, missing_ok: bool = False) -> RuleSet:
    """Read a rules file. Mistakes in it are `problems`, never exceptions.

    Raises:
        BadInputError: there is no such file.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError as error:
        if missing_ok:
            return RuleSet()
        raise BadInputError(f"There is no rules file {str(path)!r}.") from error
    except OSError as error:
        return _none(f"The rules file {path.name} cannot be read: {os_reason(error)}.")
    if len(raw) > MAX_BYTES:
        return _none(f"The rules file {path.name} is larger than {MAX_BYTES >> 20} MB: no rules are.")
    try:
        document = parse_json(raw)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        return _none(f"The rules file {path.name} is not valid JSON{where}.")
    return parse_rules(document, path.name)


def parse_rules(document: Any, source: str = "the rules") -> RuleSet:
    """Make rules of a document. Every rule that is right is kept; every mistake is one of the `problems`."""
    try:
        entries = _entries(document)
    except _Wrong as wrong:
        return _none(f"In {source}: {wrong}.")
    rules, problems = [], []
    for number, entry in enumerate(entries, start=1):
        try:
            if (rule := _rule(number, entry)) is not None:
                rules.append(rule)
        except _Wrong as wrong:
            problems.append(f"In {source}, {_label(number, entry)}, {wrong}. This rule is left out.")
    return RuleSet(tuple(rules), tuple(problems))


def _none(problem: str) -> RuleSet:
    return RuleSet(problems=(problem,), readable=False)


@cache
def builtin_rules() -> RuleSet:
    """The rules that come with the program."""
    document = json.loads(BUILT_IN.read_text(encoding="utf-8"))
    rules = parse_rules({"version": VERSION, "rules": document["rules"]}, BUILT_IN.name)
    defaults = parse_rules({"version": VERSION, "rules": document["defaults"]}, BUILT_IN.name)
    return RuleSet(rules.rules, rules.problems + defaults.problems, defaults.rules)


# --- reading a document


class _Wrong(Exception):
    """What is wrong where, such as "field 'when.name' must be text"."""


def _entries(document: Any) -> list[Any]:
    if not isinstance(document, Mapping):
        raise _Wrong('the file must hold an object {"version": 1, "rules": [...]}')
    if document.get("version") is not VERSION:
        raise _Wrong(f"field 'version' must be {VERSION}; this program reads no other")
    if unknown := _unknown(document, ("version", "rules", "$schema", "note")):
        raise _Wrong(f"field {unknown} is not known")
    entries = document.get("rules")
    if not isinstance(entries, list) or len(entries) > MAX_RULES:
        raise _Wrong(f"field 'rules' must be a list of at most {MAX_RULES} rules")
    return entries


def _rule(number: int, entry: Any) -> Rule | None:
    if not isinstance(entry, Mapping):
        raise _Wrong("it must be an object")
    if unknown := _unknown(entry, FIELDS):
        raise _Wrong(f"field {unknown} is not known; the fields are {', '.join(FIELDS)}")
    rule = Rule(
        number,
        _text(entry, "name", default=""),
        tuple(_texts(entry, "vae")),
        tuple(_conditions(entry.get("when"))),
        _said(entry),
    )
    _text(entry, "note", default="")
    if not isinstance(entry.get("enabled", True), bool):
        raise _Wrong("field 'enabled' must be true or false")
    return rule if entry.get("enabled", True) else None


def _conditions(when: Any) -> Iterator[Condition]:
    if not isinstance(when, Mapping):
        raise _Wrong("field 'when' must be an object of conditions ({} matches every checkpoint)")
    if unknown := _unknown(when, _CONDITIONS):
        raise _Wrong(f"field {unknown} is not known in 'when'; the conditions are {', '.join(_CONDITIONS)}")
    for key, make in _CONDITIONS.items():  # in this order: what is cheap to know comes first
        if key in when:
            yield make(when, key)


def _label(number: int, entry: Any) -> str:
    name = entry.get("name") if isinstance(entry, Mapping) else None
    return f"rule {number} {name!r:.60}" if isinstance(name, str) and name else f"rule {number}"


def _unknown(entry: Mapping[Any, Any], known: Any) -> str | None:
    return next((f"{str(key)!r:.60}" for key in entry if key not in known), None)


def _text(entry: Mapping[str, Any], key: str, default: str | None = None, where: str = "") -> str:
    value = entry.get(key, default)
    if not isinstance(value, str) or len(value) > MAX_TEXT or (not value.strip() and default is None):
        raise _Wrong(f"field {where + key!r} must be text of 1 to {MAX_TEXT} characters")
    if not is_encodable(value):
        raise _Wrong(f"field {where + key!r} holds half a character (a lone surrogate)")
    return value


def is_encodable(text: str) -> bool:
    """JSON can spell text that no file and no terminal can take: half of a two-part character."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts(entry: Mapping[str, Any], key: str, where: str = "") -> list[str]:
    """One text, or a list of them."""
    value = entry.get(key)
    texts = value if isinstance(value, list) else [value]
    if not texts or len(texts) > 100:
        raise _Wrong(f"field {where + key!r} must be a text or a list of 1 to 100 texts")
    return [_text({key: text}, key, where=where) for text in texts]


def _said(entry: Mapping[str, Any]) -> Said:
    """The settings beside the VAE; null leaves one open, as leaving it out does."""
    return {
        setting.name: _value(setting, entry[setting.key]) for setting in RULED if entry.get(setting.key) is not None
    }


def _value(setting: Setting, value: Any) -> Value:
    if setting.kind == "number":
        number = setting.number(value)
        if number is None:
            raise _Wrong(f"field {setting.key!r} must be a number from {setting.least:g} to {setting.most:g}")
        return number
    if value not in setting.rule_choices:
        raise _Wrong(f"field {setting.key!r} must be one of {', '.join(setting.rule_choices)}")
    return value


# --- conditions


def _family(when: Mapping[str, Any], key: str) -> Condition:
    families = _texts(when, key, "when.")
    if wrong := [family for family in families if family not in FAMILIES]:
        raise _Wrong(f"field 'when.{key}' is {wrong[0]!r:.40}; the families are {', '.join(FAMILIES)}")

    def holds(checkpoint: Checkpoint) -> bool:
        space = checkpoint.space
        return space is not None and (space.id in families or space.family in families)

    return Condition(f"family {', '.join(families)}", holds)


def _architecture(when: Mapping[str, Any], key: str) -> Condition:
    wanted = _texts(when, key, "when.")
    if wrong := [id_ for id_ in wanted if id_ not in BY_ID]:
        raise _Wrong(f"field 'when.{key}' is {wrong[0]!r:.40}; the architectures are {', '.join(BY_ID)}")
    return Condition(f"architecture {', '.join(wanted)}", lambda checkpoint: checkpoint.facts.architecture in wanted)


def _has_vae(when: Mapping[str, Any], key: str) -> Condition:
    value = when[key]
    if not isinstance(value, bool):
        raise _Wrong(f"field 'when.{key}' must be true or false")
    shown = "a VAE baked in" if value else "no VAE baked in"

    def holds(checkpoint: Checkpoint) -> bool | None:
        has_vae = checkpoint.facts.has_vae
        return None if has_vae is None else has_vae == value

    return Condition(shown, holds)


def _vae_in_name(when: Mapping[str, Any], key: str) -> Condition:
    wanted = _texts(when, key, "when.")
    if wrong := [text for text in wanted if text not in SAYS]:
        raise _Wrong(f"field 'when.{key}' is {wrong[0]!r:.40}; it is one of {', '.join(SAYS)}")
    shown = {"none": "its name says that no VAE is in it", "baked": "its name says that a VAE is in it"}
    return Condition(" or ".join(shown[text] for text in wanted), lambda c: says_of_vae(c.stem) in wanted)


def _pattern(make: Callable[[str], Pattern], subjects: Callable[[Checkpoint], list[str]]) -> Any:
    def condition(when: Mapping[str, Any], key: str) -> Condition:
        patterns = [_compiled(make, text, f"when.{key}") for text in _texts(when, key, "when.")]

        def holds(checkpoint: Checkpoint) -> bool:
            return any(pattern.matches(subject) for pattern in patterns for subject in subjects(checkpoint))

        return Condition(_shown(key.removesuffix("_regex"), patterns), holds)

    return condition


def _metadata(make: Callable[[str], Pattern]) -> Any:
    def condition(when: Mapping[str, Any], key: str) -> Condition:
        value = when[key]
        if not isinstance(value, Mapping) or not 1 <= len(value) <= 20:
            raise _Wrong(f"field 'when.{key}' must be an object of 1 to 20 keys with a pattern each")
        patterns = {
            str(name): _compiled(make, _text(value, name, where=f"when.{key}."), f"when.{key}.{name:.40}")
            for name in value
        }

        def holds(checkpoint: Checkpoint) -> bool:
            found = checkpoint.facts.metadata
            return all(name in found and pattern.matches(found[name]) for name, pattern in patterns.items())

        return Condition(f"metadata {', '.join(f'{name:.40}' for name in patterns)}", holds)

    return condition


def _hash(of: Callable[[Checkpoint], str | None], least: int) -> Any:
    def condition(when: Mapping[str, Any], key: str) -> Condition:
        wanted = tuple(text.strip().casefold() for text in _texts(when, key, "when."))
        if wrong := [text for text in wanted if not re.fullmatch(rf"[0-9a-f]{{{least},64}}", text)]:
            raise _Wrong(f"field 'when.{key}' is {wrong[0]!r:.70}, which is not {least} to 64 hexadecimal digits")

        def holds(checkpoint: Checkpoint) -> bool | None:
            known = of(checkpoint)
            return None if known is None else known.startswith(wanted)

        return Condition(f"{key} {wanted[0][:10]}…", holds)

    return condition


def _digest_of(checkpoint: Checkpoint) -> str | None:
    return "" if checkpoint.facts.has_vae is False else checkpoint.baked_digest()


def _compiled(make: Callable[[str], Pattern], text: str, field: str) -> Pattern:
    try:
        return make(text)
    except BadInputError as error:
        raise _Wrong(f"field {field!r} is a pattern that cannot be used: {error}") from error


def _shown(key: str, patterns: list[Pattern]) -> str:
    more = f" or {len(patterns) - 1} more" if len(patterns) > 1 else ""
    return f"{key} {patterns[0].text!r:.62}{more}"


def _names(checkpoint: Checkpoint) -> list[str]:
    return [checkpoint.stem, checkpoint.file.path.name]


def _folders(checkpoint: Checkpoint) -> list[str]:
    """The folder's own name, its path below the checkpoint folder, and its whole path."""
    folder = checkpoint.file.path.parent
    below = checkpoint.name.rpartition("/")[0]
    return list(dict.fromkeys((folder.name, below, folder.as_posix())))


_CONDITIONS: Mapping[str, Callable[[Mapping[str, Any], str], Condition]] = {
    "family": _family,
    "architecture": _architecture,
    "has_vae": _has_vae,
    "vae_in_name": _vae_in_name,
    "name": _pattern(glob, _names),
    "name_regex": _pattern(regex, _names),
    "folder": _pattern(glob, _folders),
    "folder_regex": _pattern(regex, _folders),
    "metadata": _metadata(glob),
    "metadata_regex": _metadata(regex),
    "sha256": _hash(lambda checkpoint: checkpoint.sha256(), 10),
    "baked_digest": _hash(_digest_of, 10),
}
