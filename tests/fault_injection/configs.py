"""R10: files that cannot be meant, each answered on one screen within a second. R11: what YAML says in disguise."""

from __future__ import annotations

import json
import random
import re
import resource
import sys
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

from curriculum.config.yaml import parse_yaml
from curriculum.errors import LINES_AT_MOST, ConfigError
from tests.fault_injection import world
from tests.fault_injection.figures import Case, Tally, figure
from tests.support.projects import write_small_project

FILES = ("stages/trunk.yaml", "stages/variant.yaml", "mixtures/mixed.yaml", "sources.yaml", "machines.yaml")
PLACE = re.compile(r"^  \S+:\d+:\d+$", re.MULTILINE)
SECONDS, WIDTH, MEMORY_MIB = 1.0, 100, 256
NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    "con",
    "prose-only/../mixed",
    "prоse-only",  # a Cyrillic letter
    "prose‑only",  # a hyphen that does not break
    "prose-only\u202eevil",
    "PROSE-ONLY",
    "a" * 5000,
    "prose only",
    "~root",
    "$(id)",
    "%2e%2e",
)


def _line(text: str, draw: random.Random) -> tuple[list[str], int]:
    """The lines of a file and one of them that bears a key."""
    lines = text.splitlines(keepends=True)
    return lines, draw.choice([number for number, line in enumerate(lines) if ":" in line])


def _misspelt(text: str, draw: random.Random) -> str:
    keys = re.findall(r"(?:^|[{ ,])([a-z_]{4,})(?=: )", text)
    keys = [key for key in keys if key not in ("local", "prose", "code", "small")]  # names, not keys
    key = draw.choice(keys)
    at = draw.randrange(1, len(key) - 1)
    return text.replace(f"{key}:", f"{key[:at]}{key[at + 1]}{key[at]}x{key[at + 2 :]}:", 1)


def _repeated(text: str, draw: random.Random) -> str:
    top = list(re.findall(r"^([a-z]\w*:)", text, re.MULTILINE))
    return f"{text}{draw.choice(top)} 1\n"


def _replaced(new: Callable[[random.Random], str]) -> Callable[[str, random.Random], str]:
    """What stands behind a key becomes something else."""

    def change(text: str, draw: random.Random) -> str:
        spots = [match.span(1) for match in re.finditer(r": ([\w./-]+)(?=[,}\n ])", text)]
        first, last = draw.choice(spots)
        return text[:first] + new(draw) + text[last:]

    return change


def _inserted(new: Callable[[random.Random], str]) -> Callable[[str, random.Random], str]:
    def change(text: str, draw: random.Random) -> str:
        lines, at = _line(text, draw)
        return "".join([*lines[:at], new(draw), "\n", *lines[at:]])

    return change


def _cut(text: str, draw: random.Random) -> str:
    """End inside a bracket or a quoted text."""
    opened = [match.end() for match in re.finditer(r"[\[{]", text)]
    return text[: draw.choice(opened)] + draw.choice(("", '"', "a: [")) if opened else text + '"'


def _bomb(draw: random.Random) -> str:
    levels = draw.randint(2, 12)
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines)


def _tag(draw: random.Random) -> str:
    return draw.choice(
        (
            "!!python/object/apply:os.system ['touch HOSTILE']",
            "!!python/object/new:subprocess.Popen [[touch, HOSTILE]]",
            "!!python/name:os.system ''",
            "!!python/module:os ''",
            "!!binary aGFsbG8=",
            "!!set {a, b}",
            "!own 3",
            "!!int '7'",
        )
    )


def _number(draw: random.Random) -> str:
    return draw.choice(
        ("9" * 5000, "1e999999999", "-1e-999999999", ".inf", "-.nan", "0x" + "f" * 4000, "1" + "0" * 30, "-3")
    )


KINDS: dict[str, Callable[[str, random.Random], str | bytes]] = {
    "a key misspelt": _misspelt,
    "a key twice": _repeated,
    "an alias bomb": lambda text, draw: f"{_bomb(draw)}\n{text}",
    "a merge key": _inserted(lambda draw: "<<: {seed: 3}"),
    "a tag": _replaced(_tag),
    "a number beyond counting": _replaced(_number),
    "brackets without end": _replaced(lambda draw: "[" * draw.choice((40, 500, 5000, 50_000))),
    "deep nesting": _replaced(lambda draw: "[" * (n := draw.choice((40, 200, 2000))) + "]" * n),
    "deep mappings": _inserted(lambda draw: "x: " + "{a: " * (n := draw.choice((40, 2000))) + "1" + "}" * n),
    "a list where a word is wanted": _replaced(lambda draw: "[1, [2], {a: b}]"),
    "a mapping where a word is wanted": _replaced(lambda draw: "{nested: {deeper: true}}"),
    "nothing where something is wanted": _replaced(lambda draw: "{}"),
    "a tab": _inserted(lambda draw: "\tseed: 3"),
    "a NUL": _replaced(lambda draw: "pro\0se"),
    "an invisible character": _replaced(lambda draw: "pro" + draw.choice("\u202e\u2066\ufeff\u0085\u2028") + "se"),
    "an escaped NUL": _replaced(lambda draw: r'"pro\0se"'),
    "a name that is a path": _replaced(lambda draw: json.dumps(draw.choice(NAMES))),
    "a key that is a path": _inserted(lambda draw: f"{json.dumps(draw.choice(NAMES))}: 1"),
    "the end within a bracket": _cut,
    "an open quote": _inserted(lambda draw: 'about: "never closed'),
    "bytes that are no text": lambda text, draw: text.encode() + bytes([draw.choice((0xFF, 0xC0, 0x80))]),
    "noise": lambda text, draw: draw.randbytes(draw.choice((1, 64, 4096))),
    "another encoding": lambda text, draw: text.encode("utf-16"),
    "too large a file": lambda text, draw: text + "# filler\n" * 200_000,
    "too many values": lambda text, draw: text + "more: [" + "1, " * 60_000 + "1]\n",
    "one endless line": _inserted(lambda draw: "about: " + "long " * 20_000 + ": x"),
    "a list instead of a mapping": lambda text, draw: "- one\n- two\n",
    "two documents": lambda text, draw: text + "---\nseed: 3\n",
    "nothing at all": lambda text, draw: draw.choice(("", "# only a comment\n", "---\n", "~\n")),
    "a key that is a list": _inserted(lambda draw: "? [a, b]\n: 1"),
}


MAY_BE_MEANT = (
    "a key misspelt",
    "a number beyond counting",
    "a name that is a path",
    "a list where a word is wanted",
    "a mapping where a word is wanted",
    "nothing where something is wanted",
)

NAMED = {"a tag": "is a tag"}
"""What an answer must say, where something else in the same file would be refused as well."""


def answered(root: Path, log: Path, words: list[str]) -> tuple[int, str, float, float]:
    """Exit code, what was said, seconds and MiB that `curriculum WORDS` took, in a child."""
    log.unlink(missing_ok=True)

    def work() -> int:
        import os

        from curriculum.__main__ import main

        os.chdir(root)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        sys.argv = ["curriculum", *words]
        code = 0
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        took, grown = time.process_time() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        sys.stderr.flush()
        Path(f"{log}.cost").write_text(json.dumps([took, grown / 1024]))
        return code

    code = world.fork(work, log).wait(60)
    took, grown = json.loads(Path(f"{log}.cost").read_text()) if Path(f"{log}.cost").exists() else (60.0, 0.0)
    Path(f"{log}.cost").unlink(missing_ok=True)
    return code, log.read_text(errors="replace"), took, grown


def judged(code: int, said: str, took: float, grown: float) -> str:
    """What is wrong with an answer to a file that cannot be meant."""
    lines = said.rstrip("\n").split("\n")
    if code != 2:
        return f"exit code {code}: {said[-300:]}"
    if "Traceback" in said:
        return f"a traceback: {said[-300:]}"
    if len(lines) > LINES_AT_MOST or max(map(len, lines)) > WIDTH:
        return f"{len(lines)} lines, the longest of {max(map(len, lines))}"
    if not PLACE.search(said):
        return f"no place is named: {said}"
    if "hint: " not in said:
        return f"no way out is named: {said}"
    if took > SECONDS:
        return f"it took {took:.2f} s"
    return f"it took {grown:.0f} MiB" if grown > MEMORY_MIB else ""


@figure("R10", "files that cannot be meant: one screen with file, line, column and way out, in a second")
def malformed(case: Case, tally: Tally) -> None:
    root = write_small_project(case.folder / "project")
    warm = answered(root, case.folder / "log", ["plan", "variant", "--size", "full"])
    tally.trial(f"the sound project is refused: {warm[1]}", warm[0] == 0)
    import curriculum.cli.app  # noqa: F401

    kinds = sorted(KINDS)
    wanted, still_meant, slowest, number = case.count(30, 300, 30_000), 0, 0.0, 0
    while tally.trials <= wanted:
        number += 1
        draw = case.draw("R10", number)
        kind, file = kinds[number % len(kinds)], draw.choice(FILES)
        before = (root / file).read_text()
        changed = KINDS[kind](before, draw)
        (root / file).write_bytes(changed if isinstance(changed, bytes) else changed.encode())
        code, said, took, grown = answered(root, case.folder / "log", ["plan", "variant", "--size", "full"])
        (root / file).write_text(before)
        slowest = max(slowest, took)
        if code == 0 and kind in MAY_BE_MEANT:  # what was changed can be meant all the same, as another word in `about`
            still_meant += 1
            assert still_meant < 2 * wanted
            continue
        wrong = judged(code, said, took, grown)
        if not wrong and NAMED.get(kind, "") not in said:
            wrong = f"it does not say `{NAMED[kind]}`: {said}"
        tally.trial(f"{number}: {kind} in {file}: {wrong}", not wrong)
    tally.trial("a tag was carried out", not (root / "HOSTILE").exists())
    tally.notes["kinds"] = len(kinds)
    tally.notes["changed but still meant"] = still_meant
    tally.notes["slowest, seconds"] = round(slowest, 2)


REFUSED = object()
# (what is written, what it must mean, whether that is the same value that PyYAML's safe_load reads)
TRAPS: tuple[tuple[str, Any], ...] = (
    ("v: 3e-4", Decimal("3e-4")),
    ("v: 1e3", Decimal("1e3")),
    ("v: 010", 10),
    ("v: 0o17", 15),
    ("v: 1:30", "1:30"),
    ("v: no", "no"),
    ("v: on", "on"),
    ("v: Yes", "Yes"),
    ("v: y", "y"),
    ("v: 1.10", Decimal("1.10")),
    ("v: 0.1", Decimal("0.1")),
    ("v: 2026-01-01", "2026-01-01"),
    ("v: 1_000", 1000),
    ("v: 12e03", Decimal("12000")),
    ("v: 0b11", "0b11"),
    ("v: 190:20:30", "190:20:30"),
    ("v: =", "="),
    ("no: 1", {"no": 1}),
    ("v: 1\nv: 2", REFUSED),
    ("v: &a 1\nw: *a", REFUSED),
    ("v: {a: 1}\n<<: {b: 2}", REFUSED),
    ("v: !!str 1", REFUSED),
    ("v: .inf", ".inf"),
    ("v: .nan", ".nan"),
)


@figure("R11", "YAML that means something else than it seems to: read as a person means it, or refused")
def traps(case: Case, tally: Tally) -> None:
    import yaml

    misread_by_pyyaml = 0
    for text, meant in TRAPS:
        wanted = meant if isinstance(meant, dict) or meant is REFUSED else {"v": meant}
        got: Any
        try:
            got = parse_yaml(text.encode(), "a.yaml").value
        except ConfigError:
            got = REFUSED
        same = got == wanted and (got is REFUSED or _types(got) == _types(wanted))
        tally.trial(f"{text!r} is read as {got!r}, meant is {wanted!r}", same)
        try:
            theirs: Any = yaml.safe_load(text)
        except yaml.YAMLError:
            theirs = REFUSED
        right = theirs == wanted or (_types(wanted) == ["Decimal"] and theirs == {"v": float(wanted["v"])})
        misread_by_pyyaml += not right
    tally.notes["of these PyYAML's safe_load misreads"] = misread_by_pyyaml


def _types(value: Any) -> list[str]:
    return [type(entry).__name__ for entry in value.values()] if isinstance(value, dict) else []
