"""Flags in shell scripts and argument files, read without running them.

Assignments, arrays, `${NAME:-default}` and `$((…))` are followed. What depends on the environment, on a condition or
on another program stays as it is written, `$NAME`, and is refused where its value is needed.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from curriculum.config.recipes.recipe import Statement
from curriculum.errors import Place, shortened

_OPENS: Final = frozenset({"if", "for", "while", "until", "case", "{"})
_CLOSES: Final = frozenset({"fi", "done", "esac", "}"})
_BEFORE_ASSIGNMENT: Final = frozenset({"export", "readonly", "local", "declare", "then", "else", "do"})
_FLAG: Final = re.compile(r"--[A-Za-z][\w-]*")
_ASSIGNMENT: Final = re.compile(r"(?P<name>[A-Za-z_]\w*)(?P<more>\+?)=(?P<value>.*)", re.DOTALL)
_REFERENCE: Final = re.compile(
    r"\$(?P<plain>[A-Za-z_]\w*)|\$\{(?P<name>\w+)(?:\[[@*]\])?(?::?[-=](?P<default>[^{}$]*))?\}|\$\(\((?P<sum>[^()$]*"
    r"(?:\([^()$]*\)[^()$]*)*)\)\)"
)
_CONTINUED: Final = re.compile(r"\\[ \t]*\r?\n")
_SKIPPED: Final = re.compile(rf"{_CONTINUED.pattern}|[ \t\r]+|#[^\n]*")
_BLANKS: Final = re.compile(r"(?:\$\{[^}]*\}|\$\(\([^)]*\)\)|\S)+")
"""What blanks divide; those inside a reference do not."""
_REDIRECTED: Final = re.compile(r"\d(?=[<>])")
_DEEPEST: Final = 20
_OPERATIONS: Final[Mapping[type[ast.operator], Callable[[int, int], int]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True, slots=True)
class Word:
    """A word without its quotes; `line` and `column` count from 1."""

    text: str
    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Flags:
    """The flags of one file in order, each as often as it is given: name to values, with its place."""

    file: str
    given: tuple[Statement, ...]

    def first(self, *names: str) -> Statement | None:
        """The first flag of one of these names."""
        return next((stated for stated in self.given if stated.key in names), None)

    def get(self, *names: str) -> Statement | None:
        """The flag of one of these names; ConfigError where the file gives it twice with different values."""
        uses = [stated for stated in self.given if stated.key in names]
        for stated in uses[1:]:
            if (stated.key, stated.value) != (uses[0].key, uses[0].value):
                line = uses[0].place.line if uses[0].place else 1
                raise stated.refused(
                    f"is given a second time, after `{uses[0].key} {shortened(uses[0].value)}` in line {line}",
                    "which of the two holds is not known: leave one of them in a copy of the file",
                )
        return uses[0] if uses else None


def is_reference(word: str) -> bool:
    """Whether a word is nothing but a variable that is not known."""
    return _REFERENCE.fullmatch(word) is not None


def read_flags(text: str, file: str, many: Callable[[str], bool] = lambda flag: False) -> Flags:
    """The flags of every command of a script, or of a file that holds nothing but flags.

    A variable that is not known and stands behind a flag's value may hold other flags, and is one entry of its own;
    not so for flags that take `many` values.
    """
    lines = text.splitlines()
    variables: dict[str, list[Word]] = {}
    statements: list[Statement] = []
    depth = 0
    for statement in _statements(text):
        depth += sum(word.text in _OPENS for word in statement) - sum(word.text in _CLOSES for word in statement)
        if depth > 0 and (variable := _assigned(statement)) is not None:
            first = statement[0]
            statements.append(
                Statement(f"{variable}=", "", Place(file, first.line, first.column, lines[first.line - 1]))
            )
            if statement[-1] is first or not first.text.endswith("("):
                variables.pop(
                    variable, None
                )  # what it is set to depends on a condition; of an array, only more words do
            continue
        if _assign(statement, variables):
            continue
        name: Word | None = None
        values: list[str] = []
        for word in [*_expanded(statement, variables), Word("--end", 0, 0)]:
            if _FLAG.match(word.text):
                if name is not None:
                    flag, _, value = name.text.partition("=")
                    argument = " ".join([*([value] if value else []), *values])
                    statements.append(
                        Statement(flag, argument, Place(file, name.line, name.column, lines[name.line - 1]))
                    )
                name, values = word, []
            elif name is not None and values and not many(name.text) and _REFERENCE.fullmatch(word.text):
                statements.append(Statement(word.text, "", Place(file, word.line, word.column, lines[word.line - 1])))
            elif name is not None:
                values.append(word.text)
    return Flags(file, tuple(statements))


def _assigned(statement: list[Word]) -> str | None:
    """The variable that a statement sets, if that is all it does."""
    match = next((_ASSIGNMENT.fullmatch(word.text) for word in statement if word.text not in _BEFORE_ASSIGNMENT), None)
    return match["name"] if match is not None else None


def _assign(statement: list[Word], variables: dict[str, list[Word]]) -> bool:
    """Take over `[export] NAME=value …`, `NAME=(…)` and `NAME+=(…)`; False for any other statement."""
    words = [word for word in statement if word.text not in _BEFORE_ASSIGNMENT]
    first = _ASSIGNMENT.fullmatch(words[0].text) if words else None
    array = first is not None and first["value"] == "("
    assigned = words[:1] if array else words
    matches = [match for word in assigned if (match := _ASSIGNMENT.fullmatch(word.text))]
    if not words or len(matches) < len(assigned):
        return False  # `NAME=value command --flag`
    for each, parts in zip(assigned, matches, strict=True):
        value = words[1:] if array else [Word(parts["value"], each.line, each.column + each.text.index("=") + 1)]
        before = variables.get(parts["name"], [])
        if parts["more"] and array:
            variables[parts["name"]] = [*before, *value]
        elif parts["more"]:
            variables[parts["name"]] = _joined(before, value[0])
        else:
            variables[parts["name"]] = [own for word in value for own in _itself(word, parts["name"], before)]
    return True


def _itself(word: Word, name: str, before: list[Word]) -> list[Word]:
    """A value whose reference to the variable itself is its former value, as in `DATA="${DATA} 0.3 /data/code"`."""
    reference = re.match(rf"\$\{{{name}\}}|\${name}\b", word.text)
    return [word] if reference is None else _joined(before, Word(word.text[reference.end() :], word.line, word.column))


def _joined(before: list[Word], word: Word) -> list[Word]:
    """`before` with `word` behind it; words stay apart where a blank is between them, so each keeps its line."""
    if not before or word.text[:1].isspace():
        return [*before, word]
    last = before[-1]
    return [*before[:-1], Word(last.text + word.text, last.line, last.column)]


def _expanded(words: list[Word], variables: Mapping[str, list[Word]], depth: int = 0) -> Iterator[Word]:
    """The words with known variables put in, split at blanks; a word that is one array becomes its words."""
    for word in words:
        reference = _REFERENCE.fullmatch(word.text)
        name = reference and (reference["plain"] or reference["name"])
        if name and name in variables and depth < _DEEPEST:
            yield from _expanded(variables[name], variables, depth + 1)
        else:
            for part in _BLANKS.finditer(word.text):
                line = word.line + word.text.count("\n", 0, part.start())
                column = word.column if line == word.line else part.start() - word.text.rindex("\n", 0, part.start())
                for filled in _filled(part.group(), variables).split():
                    yield Word(filled, line, column)


def _filled(text: str, variables: Mapping[str, list[Word]]) -> str:
    for _ in range(_DEEPEST):
        filled = _REFERENCE.sub(lambda match: _value(match, variables), text)
        if filled == text:
            break
        text = filled
    return text


def _value(match: re.Match[str], variables: Mapping[str, list[Word]]) -> str:
    if match["sum"] is not None:
        bare = re.sub(r"[A-Za-z_]\w*", lambda name: _plain(name.group(), variables), match["sum"])
        return _computed(bare) or match.group()
    name = match["plain"] or match["name"]
    if name in variables:
        return " ".join(word.text for word in variables[name])
    return match["default"] if match["default"] is not None else match.group()


def _plain(name: str, variables: Mapping[str, list[Word]]) -> str:
    """The value of a variable that arithmetic names without `$`."""
    return _filled(" ".join(word.text for word in variables[name]), variables) if name in variables else name


def _computed(expression: str) -> str | None:
    """The whole number that shell arithmetic gives; None for what is not known here."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        raise ValueError("not the arithmetic of whole numbers")

    try:
        return str(value(ast.parse(expression.strip(), mode="eval").body))
    except (ValueError, SyntaxError, ZeroDivisionError, RecursionError):
        return None


def _statements(text: str) -> Iterator[list[Word]]:
    """The commands of a script, each as its words; an array is `NAME=(`, then its words."""
    words: list[Word] = []
    at, line, start = 0, 1, 0
    array = False
    while at < len(text):
        here = text[at]
        if skipped := _SKIPPED.match(text, at):
            line += skipped.group().count("\n")
            at = skipped.end()
            start = at if skipped.group().endswith("\n") else start
            continue
        if here == "\n" or (here in ";|&<>" and not array):
            if not array and words:
                yield words
                words = []
            line += here == "\n"
            at += 1
            start = at if here == "\n" else start
            continue
        if here == ")":
            if array:
                yield words
                words, array = [], False
            at += 1
            continue
        if redirected := _REDIRECTED.match(text, at):
            at = redirected.end()
            continue
        word, end = _word(text, at)
        column = at - start + 1
        words.append(Word(word, line, column))
        newlines = text.count("\n", at, end)
        line += newlines
        start = text.rindex("\n", at, end) + 1 if newlines else start
        at = end
        if end < len(text) and text[end] == "(" and _ASSIGNMENT.fullmatch(word):
            words = [Word(word + "(", line, column)]
            array = True
            at += 1
        elif text[end : end + 1] in ("(", ")") and not array:
            at += 1
    if words:
        yield words


def _word(text: str, at: int) -> tuple[str, int]:
    """The word that begins at `at`, without quotes, and where it ends; references keep their `$`."""
    parts: list[str] = []
    quote = ""
    while at < len(text):
        character = text[at]
        if character == "\\" and quote != "'":
            if broken := _CONTINUED.match(text, at):
                parts.append("\n" if quote else "")
                at = broken.end()
                if not quote:
                    break
            else:
                parts.append(text[at + 1 : at + 2])
                at += 2
        elif quote and character == quote:
            quote, at = "", at + 1
        elif not quote and character in "'\"":
            quote, at = character, at + 1
        elif character == "$" and quote != "'" and text[at + 1 : at + 2] in ("{", "("):
            end = _closed(text, at + 1)
            parts.append(text[at:end].replace('"', ""))
            at = end
        elif not quote and character in " \t\r\n;|&<>()":
            break
        else:
            parts.append(character)
            at += 1
    return "".join(parts), at


def _closed(text: str, at: int) -> int:
    """Where the bracket that opens at `at` is closed, or the text's end."""
    depth = 0
    for end in range(at, len(text)):
        depth += (text[end] in "({") - (text[end] in ")}")
        if depth == 0:
            return end + 1
    return len(text)
