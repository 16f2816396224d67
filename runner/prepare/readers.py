"""The files that a source reads, in packages, folders and hub datasets, and the refusals of what has no text."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from types import MappingProxyType
from typing import Any

from curriculum.data.listing import TEXT_FILES, SourceFile, kind_of, list_files, name_filter, sort_files
from curriculum.data.progress import describe_unread
from curriculum.data.requests import PrepareRequest
from curriculum.errors import DataError
from runner.prepare import remote
from runner.prepare.dataset_shards import DatasetShards
from runner.prepare.formats import detect_format, open_file
from runner.prepare.remote import storage_of
from runner.prepare.tally import BINARY, EMPTY, NO_TEXT, NOT_JSON, NOT_TEXT, NOT_UTF8, TOO_LONG, LeftOut

# Columns that other corpora keep their text in.
USUAL_COLUMNS = ("text", "content", "raw_content", "body", "document", "article", "markdown", "code")

_WAYS_OUT = {
    NOT_UTF8: "convert them, as in `iconv -f latin1 -t utf-8`, or leave them out with `exclude`",
    NOT_JSON: "write one JSON object a line, or one array of them; `format: text` reads a file as one document",
    TOO_LONG: "cut them into documents where they divide, as in JSON lines with a document a row",
    BINARY: "they are no text: leave them out with `files` and `exclude`, or unpack and convert them",
}


@contextlib.contextmanager
def at_source(dataset: str) -> Iterator[None]:
    """Name the dataset, and the place of its `read` in sources.yaml, in a DataError that names no place there."""
    try:
        yield
    except DataError as error:
        if error.entry[:1] == ("sources",):
            raise
        what = error.what if f"`{dataset}`" in error.what else f"`{dataset}`: {error.what}"
        entry = ("sources", dataset, "read", *error.entry)
        raise DataError(what, place=error.place, hint=error.hint, entry=entry) from None


def is_remote(read: Mapping[str, Any]) -> bool:
    """Whether the files of `read` are remote: a hub dataset, or a folder with a scheme (`s3://…`)."""
    return kind_of(read) == "hub" or "://" in str(read.get("folder", ""))


def dataset_shards(
    read: Mapping[str, Any], root: str, details: Mapping[str, Any] = MappingProxyType({})
) -> DatasetShards | None:
    """What `datasets` loads for a `dataset:`, at the commit in `details`; None for another kind of source."""
    return DatasetShards(read, root, details.get("revision")) if kind_of(read) == "dataset" else None


def list_sources(read: Mapping[str, Any], root: str = ".") -> tuple[list[SourceFile], dict[str, Any]]:
    """The files of a `read:` entry in order of name, and further details (the commit of a hub dataset).

    The shards of a `dataset` are listed by `DatasetShards`.
    """
    if not is_remote(read):
        return list_files(read, root), {}
    details: dict[str, Any] = {}
    where = str(read.get("folder") or f"hf://datasets/{read['hub']}")
    try:
        if kind_of(read) == "hub":
            from huggingface_hub import HfApi

            details["revision"] = HfApi().dataset_info(str(read["hub"]), revision=read.get("revision")).sha
            where = f"{where}@{details['revision']}"
        system, base = storage_of(where.rstrip("/"))
        entries = system.find(base, detail=True)
        if not entries:
            raise FileNotFoundError(where)
    except Exception as reason:  # every storage has its own errors
        raise remote.explain(where, reason) or DataError(
            f"`{where}` cannot be listed: {type(reason).__name__}: {reason}",
            hint="check its name, the network and your login; prepared text needs neither",
        ) from None
    is_chosen = name_filter(read, default=TEXT_FILES)
    files = []
    for path, entry in entries.items():
        name = path[len(base) :].lstrip("/")
        if is_chosen(name):
            files.append(SourceFile(name, system.unstrip_protocol(path), entry.get("size")))
    return sort_files(files, read), details


def of_split(files: Sequence[SourceFile], split: str) -> tuple[list[SourceFile], list[SourceFile]]:
    """`(train, held out)`: the files with `split` as a word of their path (`validation/0.jsonl`) are held out."""
    word = re.compile(rf"(?:^|[^A-Za-z0-9]){re.escape(split)}(?:[^A-Za-z0-9]|$)")
    held_out = [file for file in files if word.search(file.name)]
    train = [file for file in files if not word.search(file.name)]
    if not train or not held_out:
        raise DataError(
            f"of {len(files)} files, {len(held_out)} have `{split}` as a word of their path: "
            f"nothing is left for {'training' if held_out else 'the held-out split'}",
            hint=f"the first is `{files[0].name}`; widen `files`, or hold out a share (`held_out: 5%`)",
        )
    return train, held_out


def without_text(dataset: str, column: str, columns: Set[str], unread: LeftOut) -> DataError:
    """The error for a dataset without text: its columns, or why its documents are not text."""
    what = f"`{dataset}` has no text to read: {describe_unread(unread) or 'its files are empty'}"
    if NO_TEXT in unread:
        what = f"`{dataset}` has no text in the column `{column}`, from `{unread[NO_TEXT][1]}` on; " + columns_shown(
            columns
        )
    return DataError(what, hint=way_out(unread, column, columns), entry=("sources", dataset, "read"))


def check_columns(request: PrepareRequest, files: Iterable[SourceFile]) -> None:
    """DataError where a key names a column, and all files are plain text; files are opened up to one that is not."""
    keys = {"text": request.text, "id": request.id, "drop": request.drop, "keep": request.keep}
    stated = [f"`{key}`" for key, value in keys.items() if value]
    if not stated or request.read.get("format"):
        return
    for file in files:
        try:
            with open_file(file) as stream:
                head = stream.peek()
        except Exception:  # a task explains it
            return
        if detect_format(head, file.name) != "text" or head.lstrip().startswith((b"{", b"[")):
            return
    raise DataError(
        f"all files of `{request.dataset}` are plain text, which has no columns; {' and '.join(stated)} "
        f"{'name' if len(stated) > 1 else 'names'} one",
        hint="leave that out: each file is read whole, as one document; or state another `format`",
        entry=("sources", request.dataset, *(("read", "text") if request.text else ())),
    )


def columns_shown(columns: Set[str]) -> str:
    names = sorted(columns)
    shown = ", ".join(f"`{name}`" for name in names[:12]) + (" and more" if len(names) > 12 else "")
    return f"its columns are {shown or 'none at all'}"


def way_out(unread: LeftOut, column: str, columns: Set[str]) -> str:
    """What helps against the most frequent reason for which documents are no text."""
    reason = max(unread, key=lambda reason: unread[reason][0], default=EMPTY)
    if reason == f"with a list of numbers {NOT_TEXT}":
        return "tokens that are made already are read from files of their own: `read: {tokenised: FOLDER}`"
    if reason != NO_TEXT and not reason.endswith(NOT_TEXT):
        return _WAYS_OUT.get(reason, "see `files` and `exclude`")
    names = [name for name in sorted(columns) if name != column]
    usual = next((name for name in USUAL_COLUMNS if name in names), None)
    other = usual or (names[0] if len(names) == 1 else "COLUMN")
    if reason == NO_TEXT and column in columns:
        return f"files whose rows have another column are a source of their own, with `files` and `text: {other}`"
    alternative = "" if usual else "; `format: text` reads each file whole, as one document"
    return f"name the one that holds the text under `read:`, as in `text: {other}`{alternative}"
