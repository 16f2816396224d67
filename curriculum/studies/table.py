"""Runs that others trained, as evidence: a CSV file of shares and one of losses, joined by a column."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from curriculum.errors import DataError, Place, did_you_mean, shortened
from curriculum.studies.evidence import ROLES, Evidence, Role, Row
from curriculum.units import counted

ROUNDING = 0.02
"""How far the shares of a row may be from 100%: those of a published table are rounded to three digits."""
RESERVED = ("seed", "replicate", "role")
"""Columns that say something of a run; none of them needs to be there."""
MOST_BYTES = 1 << 28
SEPARATORS = ",;\t"
"""What may separate the values of a table; of those that are as frequent in its header, the first."""
_SEPARATED = {",": "commas", ";": "semicolons", "\t": "tabs"}
LOSSES = (1e-6, 1e6)
"""The least and the largest loss that a law is fitted to, in nats a token: a uniform guess costs about 10 to 13."""
_LOSS_HINT = "leave out the runs that diverged or did not end, in both files"
_NO_LOSS_HINT = (
    "a loss is in nats a token, above 0, and no difference between two runs; other columns are left out by "
    "--loss-columns 'NAME_*'"
)
_SHARE_HINT = (
    "a share is a number from 0 to 1, or to 100, and 0 where a run does not read the source; other columns are "
    "left out by --share-columns 'NAME_*'"
)
_ONLY_ONE = {
    "before": "keep the row of the model that all runs start from; another one is a run of its own, without a role",
    "proposal": "a decision judges one: leave the other out, or take it for evidence, without a role",
}
"""What to do with a second row of a role that one mixture has."""


@dataclass(frozen=True)
class TableFiles:
    """Where the runs are. A pattern of columns has one `*`, a source's name; `join` names the run in both files."""

    shares: Path
    losses: Path
    join: str = "index"
    share_columns: str = "*"
    loss_columns: str = "*"


@dataclass(frozen=True)
class Runs:
    """Evidence of a table. `sources` are those that have shares, in the order of the columns; `files` the two files."""

    sources: tuple[str, ...]
    losses: tuple[str, ...]
    evidence: Evidence
    files: TableFiles


@dataclass(frozen=True)
class _Line:
    """A row of a file, with its place."""

    file: str
    number: int
    text: str
    cells: dict[str, str]
    columns: tuple[str, ...]
    separator: str

    def place(self, column: str | None = None) -> Place:
        return _place(self.file, self.number, self.text, self.columns.index(column) if column else 0, self.separator)


def read(files: TableFiles) -> Runs:
    """The runs of `files`: rows of equal shares are replicates of one arm, named by the first of them.

    Shares are divided by their sum, which may be 1 or 100 within `ROUNDING`. Raises DataError, with the place.
    """
    shares, losses = _rows(files.shares, files.join), _rows(files.losses, files.join)
    share_columns = _named(files.share_columns, files.shares, shares, files.join, "--share-columns")
    loss_columns = _named(files.loss_columns, files.losses, losses, files.join, "--loss-columns")
    for first, second, file in ((shares, losses, files.losses), (losses, shares, files.shares)):
        for name, line in first.items():
            if name not in second:
                raise DataError(
                    f"the run `{shortened(name)}` has no row in `{file}`",
                    place=line.place(files.join),
                    hint="both files need a row for each run: add it, or leave this one out; "
                    f"here: {counted(len(first), 'run')}, there: {counted(len(second), 'run')}",
                )
    rows: list[Row] = []
    arms: dict[tuple[Role, tuple[float, ...]], str] = {}
    counts: dict[tuple[str, int], int] = {}
    for name, line in shares.items():
        mixture = _mixture(line, share_columns)
        role = _role(line, losses[name])
        seed = _whole("seed", line, losses[name], 1)
        arm = arms.setdefault(
            (role, tuple(round(share, 9) for share in mixture)), f"run {name}" if name.isdigit() else name
        )
        earlier = next(other for (of, _), other in arms.items() if of == role)
        if role in _ONLY_ONE and earlier != arm:
            raise DataError(
                f"`{shortened(name)}` is a second `{role}`, with other shares than {shortened(earlier)}",
                place=(line if line.cells.get("role", "").strip() else losses[name]).place("role"),
                hint=_ONLY_ONE[role],
            )
        counts[arm, seed] = counts.get((arm, seed), 0) + 1
        replicate = _whole("replicate", line, losses[name], counts[arm, seed])
        settings = dict(zip(share_columns, mixture, strict=True))
        rows += [
            Row(arm, replicate, seed, role, settings, source, _loss(losses[name], column))
            for source, column in loss_columns.items()
        ]
    try:
        evidence = Evidence(tuple(rows))
    except ValueError as error:
        raise DataError(
            str(error), hint="number the runs of equal shares in a column `replicate`, or leave it out"
        ) from None
    return Runs(tuple(share_columns), tuple(loss_columns), evidence, files)


def _rows(file: Path, join: str) -> dict[str, _Line]:
    """The rows of a CSV file by the value of the column `join`."""
    lines = _lines(file)
    by_name: dict[str, _Line] = {}
    for line in lines:
        if join not in line.columns:
            raise DataError(
                f"`{file}` has no column `{join}`, which names the run",
                place=_place(str(file), 1, lines[0].text, 0),
                hint=f"--join names another column; {did_you_mean(join, line.columns)}",
            )
        if line.number == 1:
            continue
        name = line.cells[join].strip()
        if name in by_name:
            raise DataError(
                f"the run `{shortened(name)}` has two rows",
                place=line.place(join),
                hint=f"the first is line {by_name[name].number}: give each run a name of its own",
            )
        by_name[name] = line
    if not by_name:
        raise DataError(
            f"`{file}` has no run: no row follows its header",
            hint="a row for each run, its values separated as in the header",
        )
    return by_name


def _lines(file: Path) -> list[_Line]:
    """The header, as a line of its own names, and the rows; empty lines are skipped."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise DataError(f"`{file}` is too large for a table of runs", hint=f"{MOST_BYTES >> 20} MiB at most")
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(
            f"`{file}` cannot be read: {error.strerror}", hint="a CSV file with a header is needed"
        ) from None
    except UnicodeDecodeError:
        raise DataError(f"`{file}` is no text: it is not UTF-8", hint="a CSV file with a header is needed") from None
    texts = text.splitlines()
    separator = _separator(next((text for text in texts if text.strip()), ""))
    parsed: list[_Line] = []
    columns: tuple[str, ...] = ()
    for number, cells in _parsed(texts, file, separator):
        if not any(cell.strip() for cell in cells):
            continue
        line = texts[number - 1]
        if not columns:
            columns = tuple(cell.strip() for cell in cells)
            twice = next((name for at, name in enumerate(columns) if name in columns[:at]), None)
            if twice is not None:
                second = [at for at, name in enumerate(columns) if name == twice][1]
                raise DataError(
                    f"the column `{twice}` is there twice",
                    place=_place(str(file), number, line, second, separator),
                    hint="give each column a name of its own, or delete one of the two",
                )
            parsed.append(_Line(str(file), 1, line, dict.fromkeys(columns, ""), columns, separator))
            continue
        if len(cells) != len(columns):
            raise DataError(
                f"the row has {len(cells)} values, the header {len(columns)} names",
                place=_place(str(file), number, line, 0),
                hint=f"values are separated by {_SEPARATED[separator]}, as in the first line; a text with one in it "
                "is quoted",
            )
        parsed.append(_Line(str(file), number, line, dict(zip(columns, cells, strict=True)), columns, separator))
    if not parsed:
        raise DataError(f"`{file}` is empty", hint="a CSV file with a header is needed")
    return parsed


def _separator(header: str) -> str:
    """What separates the values of a table: the most frequent of comma, semicolon and tab in its first line."""
    return max(SEPARATORS, key=header.count)


def _parsed(texts: Sequence[str], file: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(texts, strict=True, delimiter=separator)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        number = max(reader.line_num, 1)
        raise DataError(
            f"`{file}` is no CSV file: {error}", place=_place(str(file), number, texts[number - 1], 0)
        ) from None


def _place(file: str, number: int, text: str, column: int, separator: str = ",") -> Place:
    """The place of the cell with the index `column`; of the line's begin where an earlier line begins the row."""
    starts, quoted = [1], False
    for at, character in enumerate(text):
        quoted ^= character == '"'  # a doubled quote ends the text and begins it again
        if character == separator and not quoted:
            starts.append(at + 2)
    return Place(file, number, starts[column] if column < len(starts) else 1, text)


def _named(pattern: str, file: Path, rows: dict[str, _Line], join: str, option: str) -> dict[str, str]:
    """The columns that `pattern` names, by source."""
    before, star, after = pattern.partition("*")
    header = next(iter(rows.values())).columns
    if not star or "*" in after:
        raise DataError(f"`{pattern}` is no pattern of columns", hint=f"one `*` for the source: {option} 'train_*'")
    columns_of = {
        column[len(before) : len(column) - len(after)]: column
        for column in header
        if column.startswith(before)
        and column.endswith(after)
        and len(column) > len(before) + len(after)
        and column != join
        and column not in RESERVED
    }
    if not columns_of:
        names = ", ".join(f"`{shortened(name)}`" for name in header[:6])
        raise DataError(
            f"no column of `{file}` is `{pattern}`", hint=f"{option} has one `*` for the source; there are: {names}"
        )
    return columns_of


def _number(line: _Line, column: str, hint: str) -> float:
    text = line.cells[column].strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(
            f"`{column}` of the run is {f'`{shortened(text)}`' if text else 'empty'}, which is no finite number",
            place=line.place(column),
            hint=_other_notation(text) or hint,
        )
    return value


def _other_notation(text: str) -> str | None:
    """The hint for a number with a percent sign or a decimal comma."""
    plain = text.removesuffix("%").strip().replace(",", ".")
    if plain == text or not re.fullmatch(r"[+-]?[0-9]+(?:\.[0-9]+)?", plain):
        return None
    return f"write `{plain}`: a number has a decimal point and no percent sign; shares sum to 1 or to 100"


def _loss(line: _Line, column: str) -> float:
    value = _number(line, column, _LOSS_HINT)
    least, most = LOSSES
    if not least <= value <= most:
        words = f"above {most:g}" if value > most else f"below {least:g}" if value > 0 else "not above 0"
        raise DataError(
            f"the loss `{column}` of the run is {value:g}, {words}",
            place=line.place(column),
            hint=_LOSS_HINT if value > most else _NO_LOSS_HINT,
        )
    return value


def _mixture(line: _Line, columns: dict[str, str]) -> tuple[float, ...]:
    shares = []
    for column in columns.values():
        share = _number(line, column, _SHARE_HINT)
        if share < 0:
            raise DataError(f"the share `{column}` is {share:g}, below 0", place=line.place(column), hint=_SHARE_HINT)
        shares.append(share)
    total = sum(shares)
    unit = 100.0 if total > 10 else 1.0
    if abs(total - unit) > ROUNDING * unit:
        raise DataError(
            f"the shares of the run sum to {total:.4g}, not to 1 or 100",
            place=line.place(),
            hint="each row needs the share of every source; other columns are left out by --share-columns 'NAME_*'",
        )
    return tuple(share / total for share in shares)


def _role(*lines: _Line) -> Role:
    for line in lines:
        text = line.cells.get("role", "").strip()
        if text and text not in ROLES:
            raise DataError(
                f"`{shortened(text)}` is no role of a run",
                place=line.place("role"),
                hint="before, swarm, control or proposal; without one a run belongs to the swarm",
            )
        for role in ROLES:
            if text == role:
                return role
    return "swarm"


def _whole(column: str, first: _Line, second: _Line, default: int) -> int:
    hint = f"`{column}` is a number of the run, as in `{column}` 1, 2 and 3; names are written in another column"
    for line in (first, second):
        if column in line.cells:
            value = _number(line, column, hint)
            if value != int(value):
                raise DataError(
                    f"`{column}` of the run is {value:g}, no whole number", place=line.place(column), hint=hint
                )
            return int(value)
    return default
