"""A strict YAML loader: exact values with the line and column of each, or an error with a hint.

Values are dict, list, str, int, Decimal, bool and None; nothing else can come out of a file. YAML 1.2's rules
hold and not 1.1's: `no`, `on` and `yes` are text, only `true` and `false` are booleans; `010` is ten; `1:30`,
`1.5T` and dates are text; `3e-4` and `1.10` are exact. Tags, anchors, aliases and merge keys are refused: a
file must be readable on the spot, and without aliases no small file can unfold into a large one.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, NoReturn, TypeAlias

import yaml

from curriculum.errors import ConfigError, Place, shortened
from curriculum.units import without_commas

LARGEST_FILE: Final = 1 << 20
"""In bytes."""
DEEPEST_NESTING: Final = 32
MOST_VALUES: Final = 50_000
LARGEST_NUMBER: Final = 10**18
SMALLEST_EXPONENT: Final = -40

Key: TypeAlias = str | int
KeyPath: TypeAlias = tuple[Key, ...]
Spot: TypeAlias = tuple[int, int]  # line and column, both from 0

_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml, if PyYAML was built with it

_LINE_END = re.compile(r"\r\n|\r|\n")
# Characters that an editor does not show, or that other programs take for the end of a line.
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff\ufffe\uffff]")
_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_BASED = re.compile(r"0x[0-9a-fA-F]+|0o[0-7]+")
_DECIMAL = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE](?P<exponent>[-+]?[0-9]+))?")
_BEFORE_COMMA = re.compile(r"(?<![\w.])\d+,$", re.ASCII)
_TO_THE_NEXT_VALUE = re.compile(r"\d+(?:,\d+)+[^,}\]#]*", re.ASCII)
_LONGEST_GUESS: Final = 32
_LACKS_COLON = re.compile(r"(?P<key>[a-z_]+)(?P<between>:|\s+)(?P<value>\S.*)")
_WORDS: Final[Mapping[str, bool | None]] = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
}


@dataclass(frozen=True, slots=True)
class Document:
    """The value of a file, and the place of each part by path, as `("stages", 0, "until")`; `()` is the root."""

    file: str
    value: Any
    lines: tuple[str, ...] = field(repr=False)
    _values: Mapping[KeyPath, Spot] = field(repr=False)
    _keys: Mapping[KeyPath, Spot] = field(repr=False)

    def __contains__(self, path: KeyPath) -> bool:
        return path in self._values

    def place(self, path: KeyPath) -> Place:
        """The place of the value at `path`; KeyError when the file does not state it."""
        return self._place(self._values[path])

    def key_place(self, path: KeyPath) -> Place:
        """The place of the key at `path`; of the item itself in a list, which has no key."""
        return self._place(self._keys.get(path) or self._values[path])

    def _place(self, spot: Spot) -> Place:
        return _place(self.file, self.lines, spot)


def load_yaml(path: Path, *, root: Path) -> Document:
    """Read one YAML file; `root` is the project, from which its name is shown. Raises only ConfigError."""
    file = path.relative_to(root).as_posix() if path.is_relative_to(root) else str(path)
    return parse_yaml(_bytes(path, file), file)


def load_text(path: Path, file: str) -> str:
    """A text file that is no YAML, as large as those may be; `file` is the name that errors show."""
    data = _bytes(path, file)
    _check_size(data, file)
    return _text(data, file)


def parse_yaml(data: bytes, file: str) -> Document:
    """Read YAML from bytes; `file` is the name that errors show. Raises only ConfigError."""
    _check_size(data, file)
    text = _text(data, file)
    lines = tuple(_LINE_END.split(text))
    if hidden := _INVISIBLE.search(text):
        before = _LINE_END.split(text[: hidden.start()])
        code = ord(hidden.group())
        raise ConfigError(
            "a NUL character" if code == 0 else f"an invisible control character, U+{code:04X}",
            place=_place(file, lines, (len(before) - 1, len(before[-1]))),
            hint="remove it; a program that writes this file, or a copy from elsewhere, left it here",
        )
    builder = _Builder(file, lines)
    try:
        for event in yaml.parse(text, Loader=_Loader):
            builder.feed(event)
    except yaml.YAMLError as error:
        raise _not_yaml(error, file, lines) from None
    if builder.value is None:
        raise ConfigError(
            f"{file} is empty", place=Place(file, 1, 1, lines[0]), hint="an empty mapping is written `{}`"
        )
    return Document(file, builder.value, lines, builder.values, builder.keys)


class _Builder:
    """Builds the value from the parser's events, without recursion, however deep a file nests."""

    def __init__(self, file: str, lines: tuple[str, ...]) -> None:
        self.file = file
        self.lines = lines
        self.value: Any = None
        self.values: dict[KeyPath, Spot] = {}
        self.keys: dict[KeyPath, Spot] = {}
        self.stack: list[tuple[KeyPath, dict[str, Any] | list[Any]]] = []
        self.key: str | None = None
        self.documents = 0

    def feed(self, event: yaml.Event) -> None:
        mark = event.start_mark
        assert mark is not None
        spot = (mark.line, mark.column)
        if isinstance(event, yaml.DocumentStartEvent):
            self._document(event, spot)
        elif isinstance(event, yaml.AliasEvent):
            self._refuse(
                f"`*{shortened(event.anchor or '')}` is an alias, which is not read here",
                spot,
                "write out what it stands for; a text that begins with `*` needs quotes",
            )
        elif isinstance(event, yaml.ScalarEvent):
            self._refuse_tags_and_anchors(event, spot)
            if self._awaits_key():
                self._take_key(event, spot)
            else:
                plain = event.implicit[0]
                self._add(self._scalar(event.value, spot) if plain else self._quoted(event.value, spot), spot, plain)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._refuse_tags_and_anchors(event, spot)
            if self._awaits_key():
                self._refuse("a key that is itself a list or a mapping", spot, "a key is a word, as in `seed: 3407`")
            if len(self.stack) == DEEPEST_NESTING:
                self._refuse(f"nested deeper than {DEEPEST_NESTING} levels", spot, "nothing here needs more than six")
            container: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
            self.stack.append((self._add(container, spot), container))
        elif isinstance(event, yaml.CollectionEndEvent):
            self.stack.pop()

    def _document(self, event: yaml.DocumentStartEvent, spot: Spot) -> None:
        self.documents += 1
        if self.documents > 1:
            self._refuse("a second document begins", spot, "one file holds one; remove the `---`, or split the file")
        if event.version or event.tags:
            self._refuse("a YAML directive is not read here", spot, "remove the line that begins with `%`")

    def _refuse_tags_and_anchors(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, spot: Spot) -> None:
        if event.tag is not None:
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._refuse(
                f"`{shortened(tag)}` is a tag, which is not read here",
                spot,
                "remove it; a text that begins with `!` needs quotes",
            )
        if event.anchor is not None:
            self._refuse(
                f"`&{shortened(event.anchor)}` is an anchor, which is not read here",
                spot,
                "remove it and write the value out where it is meant; text that begins with `&` needs quotes",
            )

    def _awaits_key(self) -> bool:
        return bool(self.stack) and isinstance(self.stack[-1][1], dict) and self.key is None

    def _take_key(self, event: yaml.ScalarEvent, spot: Spot) -> None:
        path, mapping = self.stack[-1]
        key, plain = event.value, event.implicit[0]
        if plain and key == "<<":
            self._refuse("`<<` is a merge key, which is not read here", spot, "write out the keys it would bring")
        if plain:
            self._refuse_number_with_comma(event, spot)
        if plain and not isinstance(self._scalar(key, spot), str):
            kind = "empty" if key == "" else f"`{shortened(key)}`, not text"
            line = self.lines[spot[0]]
            before, behind = line[: spot[1]].rstrip(), line[spot[1] + len(event.value) :].lstrip()
            hint = f'put it in quotes: "{shortened(key)}"'
            if key[:1].isdigit() and before.endswith(",") and not behind.startswith(":"):
                hint = "a comma ends a value here: a number has none, as in `40000`, `40_000` or `40k`"
            self._refuse(f"a key is {kind}", spot, hint)
        self._quoted(key, spot)
        if key in mapping:
            first = self.keys[*path, key]
            line = shortened(self.lines[first[0]], 80)
            self._refuse(
                f"the key `{shortened(key)}` is here for the second time\nfirst in line {first[0] + 1}: {line}",
                spot,
                "keep one of the two",
            )
        self.keys[*path, key] = spot
        self.key = key

    def _refuse_number_with_comma(self, event: yaml.ScalarEvent, spot: Spot) -> None:
        """In braces `until: 40,000` is the number 40 and a key without a value, `000`."""
        if not event.value[:1].isdigit():
            return
        line, column = self.lines[spot[0]], spot[1]
        first = max(0, column - _LONGEST_GUESS)  # a line may be a MiB
        near = line[first : column + _LONGEST_GUESS]
        before = _BEFORE_COMMA.search(near[: column - first])
        match = _TO_THE_NEXT_VALUE.match(near, before.start()) if before else None
        hint = without_commas(match.group()) if match else None
        if match and hint:
            number = match.group().strip()
            spot = (spot[0], first + match.start())
            self._refuse(f"`{number}` is not a number here: a comma ends a value", spot, hint)

    def _add(self, value: Any, spot: Spot, plain: bool = False) -> KeyPath:
        if len(self.values) == MOST_VALUES:
            self._refuse(f"more than {MOST_VALUES:,} values", spot, "text and data are files of their own, named here")
        path: KeyPath = ()
        if not self.stack:
            self.value = value
        else:
            above, container = self.stack[-1]
            if isinstance(container, list):
                path = (*above, len(container))
                container.append(value)
            else:
                assert self.key is not None
                path = (*above, self.key)
                container[self.key] = value
                self.key = None
        # For a key without a value the parser marks the next token: the key is the better place.
        self.values[path] = self.keys.get(path, spot) if plain and value is None else spot
        return path

    def _quoted(self, text: str, spot: Spot) -> str:
        """The text, without invisible characters: the escapes of double quotes can spell them."""
        if hidden := _INVISIBLE.search(text):
            self._refuse(f"a text with the control character U+{ord(hidden.group()):04X}", spot, "remove the escape")
        return text

    def _scalar(self, text: str, spot: Spot) -> str | int | Decimal | bool | None:
        if text in _WORDS:
            return _WORDS[text]
        if _INT.fullmatch(text):
            value = int(text) if len(text) <= 60 else LARGEST_NUMBER + 1
        elif _BASED.fullmatch(text):
            value = int(text, 0) if len(text) <= 60 else LARGEST_NUMBER + 1
        elif match := _DECIMAL.fullmatch(text):
            return self._decimal(text, match["exponent"] or "0", spot)
        else:
            return self._quoted(text, spot)
        if abs(value) > LARGEST_NUMBER:
            self._refuse("this number is beyond 10^18", spot, "no number here needs to be larger; a text needs quotes")
        return value

    def _decimal(self, text: str, exponent: str, spot: Spot) -> Decimal:
        if len(text) <= 60 and len(exponent.lstrip("+-0")) <= 3:
            value = Decimal(text)
            if abs(value) <= LARGEST_NUMBER and (not value or value.adjusted() >= SMALLEST_EXPONENT):
                return value
        self._refuse(
            "this number is too large, too small or too long",
            spot,
            "numbers are between 1e-40 and 1e18; a text needs quotes",
        )

    def _refuse(self, what: str, spot: Spot, hint: str) -> NoReturn:
        raise ConfigError(what, place=_place(self.file, self.lines, spot), hint=hint)


def _bytes(path: Path, file: str) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"`{file}` is not a file", hint="name a YAML file")
        with path.open("rb") as stream:
            return stream.read(LARGEST_FILE + 1)
    except OSError as error:
        if path.is_symlink() and not path.exists():
            raise ConfigError(
                f"`{file}` is a link to `{os.readlink(path)}`, which cannot be followed: {error.strerror}",
                hint="put the file there again, or remove the link",
            ) from None
        raise ConfigError(
            f"`{file}` cannot be read: {error.strerror}", hint="look at its name and at who may read it"
        ) from None


def _check_size(data: bytes, file: str) -> None:
    if len(data) > LARGEST_FILE:
        raise ConfigError(
            f"{file} is larger than {LARGEST_FILE >> 20} MiB",
            place=Place(file, 1),
            hint="these files are written by hand; text and data are files of their own, named here",
        )


def _text(data: bytes, file: str) -> str:
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        at = error.start
    before = _LINE_END.split(data[:at].decode("utf-8-sig"))
    after = _LINE_END.split(data[at : at + 200].decode("utf-8", "replace"))[0]
    raise ConfigError(
        f"byte {at:,} (0x{data[at]:02x}) is not UTF-8",
        place=Place(file, len(before), len(before[-1]) + 1, before[-1] + after),
        hint="save the file as UTF-8",
    )


def _not_yaml(error: yaml.YAMLError, file: str, lines: tuple[str, ...]) -> ConfigError:
    problem = str(getattr(error, "problem", None) or getattr(error, "reason", None) or "it breaks off")
    context = str(getattr(error, "context", None) or "")
    mark, opened = getattr(error, "problem_mark", None), getattr(error, "context_mark", None)
    spot = (mark.line, mark.column) if mark is not None else (0, 0)
    line = lines[spot[0]] if spot[0] < len(lines) else ""
    if "\t" in line[: len(line) - len(line.lstrip())]:
        hint = "this line begins with a tab; YAML is indented with spaces"
    elif "simple key" in context and opened is not None and "flow" not in context:
        spot = (opened.line, opened.column)
        hint = _with_colon(lines[opened.line][opened.column :])
    elif "alias" in context or "anchor" in context:
        hint = 'a text that begins with `*` or `&` needs quotes, as in "**/*.txt"'
    elif "escape" in problem:
        hint = "in double quotes a backslash begins an escape; single quotes take it as it is"
    elif "flow" in context and opened is not None:
        hint = f"a bracket is opened in line {opened.line + 1}: close it, and put commas between its items"
    elif "quoted" in context and opened is not None:
        spot = (opened.line, opened.column)
        hint = "the quote that is opened here is never closed, or something follows its end"
    elif "mapping values" in problem and (first := _only_line_before(lines, spot[0])) is not None:
        spot = (first, 0)
        hint = _with_colon(lines[first])
    elif "mapping values" in problem and re.match(r"[a-z_]+ +[{\[]", line):
        spot = (spot[0], 0)
        hint = _with_colon(line)
    elif "mapping values" in problem:
        hint = "a text that holds `: ` needs quotes; or this line and the one above are indented differently"
    elif "cannot start any token" in problem:
        hint = "a text that begins with `@`, `%` or a backquote needs quotes"
    else:
        hint = "keys of one mapping begin in the same column, as in `seed: 3407`; other texts may need quotes"
    return ConfigError(f"this is not YAML: {problem}", place=_place(file, lines, spot), hint=hint)


def _only_line_before(lines: tuple[str, ...], end: int) -> int | None:
    """The only line before `end` that is neither empty nor a comment, if it has no `: `; else None."""
    numbers = [n for n, line in enumerate(lines[:end]) if line.strip() and not line.lstrip().startswith("#")]
    return numbers[0] if len(numbers) == 1 and not re.search(r":(\s|$)", lines[numbers[0]]) else None


def _with_colon(text: str) -> str:
    """The hint for a line where a key is expected."""
    match = _LACKS_COLON.match(text.strip())
    if match is None:
        return "a key is expected here, followed by a colon and a space, as in `seed: 3407`"
    what = "a space after the colon" if match["between"] == ":" else "a colon and a space after the key"
    return f"put {what}: `{match['key']}: {shortened(match['value'])}`"


def _place(file: str, lines: tuple[str, ...], spot: Spot) -> Place:
    line, column = spot
    if line >= len(lines):  # the end of the file: the end of its last line
        line, column = len(lines) - 1, len(lines[-1])
    return Place(file, line + 1, column + 1, lines[line])
