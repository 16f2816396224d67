"""Where a dataset's documents come from: which files, of which version, under which licence.

Nothing here opens a document: lists come from packages' own records and from folder listings.
"""

from __future__ import annotations

import base64
import contextlib
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from curriculum.data.packages import distributions
from curriculum.errors import DataError, did_you_mean

KINDS = ("installed", "stdlib", "folder", "hub", "tokenised")

# What a folder of tokens is searched for when `files` is not given.
TOKEN_FILES = ("**/*.ds", "**/*.bin", "**/*.npy")

# What a folder is searched for when `files` is not given.
TEXT_FILES = tuple(
    f"**/*.{kind}{packed}"
    for kind in ("txt", "md", "jsonl", "ndjson", "parquet")
    for packed in (("", ".gz", ".zst") if kind != "parquet" else ("",))
)

# How many files a glance at a folder looks at: within a second, also on a file system that others use.
QUICK_SCAN = 10_000

# Folders of the standard library that hold tests, or packages that are not the library's own.
_NOT_LIBRARY = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of documents: its `name` within the dataset, the `path` to open, and what is known beforehand.

    `sha256` (hexadecimal) is the digest that the package's own record gives; the reader compares it.
    """

    name: str
    path: str
    bytes: int | None = None
    sha256: str | None = None


def kind_of(read: Mapping[str, Any]) -> str:
    """Which of `installed`, `stdlib`, `folder`, `hub`, `tokenised` a `read` is; DataError unless one."""
    kinds = [kind for kind in KINDS if read.get(kind)]
    if len(kinds) != 1:
        raise DataError(
            f"`read` names {' and '.join(kinds) if kinds else 'no place to read from'}: {dict(read)}",
            hint=f"name exactly one of: {', '.join(KINDS)}",
        )
    return kinds[0]


def list_files(read: Mapping[str, Any], root: str = ".") -> list[SourceFile]:
    """The files of any read but a remote one, in order of name; DataError when there are none."""
    kind = kind_of(read)
    if kind == "installed":
        found = _installed_files(read)
    elif kind == "stdlib":
        found = _stdlib_files(read)
    elif kind == "folder":
        found = _folder_files(read, root)
    elif kind == "tokenised":
        found = _token_files(read, root)
    else:
        raise ValueError(f"the files of a {kind} are not listed locally")
    return sort_files(found, read)


def sort_files(found: Iterable[SourceFile], read: Mapping[str, Any]) -> list[SourceFile]:
    """`found` sorted by name; DataError, naming the patterns, when it is empty."""
    files = sorted(found, key=lambda file: file.name)
    if not files:
        raise _no_match(read)
    return files


def check_local(read: Mapping[str, Any], root: str) -> None:
    """DataError when the local folder of `read` is not there, or none of its files matches.

    It looks no further than the first that does, nor at more than `GLANCE` files: in a folder so large, whoever
    reads it finds out.
    """
    kind = kind_of(read)
    if kind not in ("folder", "tokenised") or "://" in str(read[kind]):
        return
    if kind == "tokenised" and Path(root, str(read[kind])).expanduser().is_file():
        return
    wanted, left_out = name_patterns(read, default=TEXT_FILES if kind == "folder" else TOKEN_FILES)
    for seen, (name, _) in enumerate(_walk(_existing(root, str(read[kind])), skip=frozenset())):
        if seen == QUICK_SCAN or (wanted.fullmatch(name) and not left_out.fullmatch(name)):
            return
    raise _no_match(read)


def _no_match(read: Mapping[str, Any]) -> DataError:
    kind = kind_of(read)
    where = read[kind] if isinstance(read[kind], str) else ", ".join(read[kind])
    if "files" in read or kind == "stdlib":
        patterns = [read["files"]] if isinstance(read.get("files"), str) else read.get("files", ())
        shown = " or ".join(f"`{pattern}`" for pattern in patterns) or "`exclude`"
        return DataError(
            f"no file matches {shown} in `{where}`",
            hint="`**/` stands for any folders, `*` for any part of one name; see also `exclude` and `subsets`",
            entry=("files",),
        )
    endings = ".txt, .md, .jsonl and .ndjson (also packed, .gz or .zst) and .parquet"
    if kind == "tokenised":
        endings = ".ds, .bin and .npy"
    return DataError(
        f"no file in `{where}` has a usual ending",
        hint=f'these are {endings}; name others, as in `files: "*.text"`',
        entry=(kind,),
    )


def matcher(patterns: str | Iterable[str]) -> re.Pattern[str]:
    """A pattern for relative paths: `*` and `?` stay inside one name, `**/` is any number of folders."""
    parts = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        text = ""
        for piece in re.split(r"(\*\*/|\*\*|\*|\?)", pattern):
            text += {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(piece, re.escape(piece))
        parts.append(text)
    return re.compile("|".join(f"(?:{part})" for part in parts) if parts else r"(?!)", re.DOTALL)


def name_patterns(
    read: Mapping[str, Any], *, default: Iterable[str]
) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The patterns of names that `read` takes in and of those it leaves out."""
    patterns = read.get("files", list(default))
    subsets = read.get("subsets")
    if subsets:
        inside = [patterns] if isinstance(patterns, str) else patterns
        patterns = [f"{subset}/{pattern}" for subset in subsets for pattern in inside]
    return matcher(patterns), matcher(read.get("exclude", []))


def _installed_files(read: Mapping[str, Any]) -> Iterable[SourceFile]:
    wanted, left_out = name_patterns(read, default=TEXT_FILES)
    for name, package in distributions(read):
        record = package.files
        if record is None:
            raise DataError(
                f"the package `{name}` is installed without a record of its files",
                hint=f"python -m pip install --force-reinstall --no-deps {name}",
            )
        for entry in record:
            path = entry.as_posix()
            if wanted.fullmatch(path) and not left_out.fullmatch(path):
                yield SourceFile(path, str(entry.locate()), entry.size, _record_sha256(entry))


def _record_sha256(entry: metadata.PackagePath) -> str | None:
    """A record spells digests in URL-safe base64 without padding."""
    if entry.hash is None or entry.hash.mode != "sha256":
        return None
    value = entry.hash.value
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()


def _stdlib_files(read: Mapping[str, Any]) -> Iterable[SourceFile]:
    left_out = matcher(read.get("exclude", []))
    library = Path(sysconfig.get_path("stdlib"))
    for name, path in _walk(library, skip=_NOT_LIBRARY):
        if not name.endswith(".py") or left_out.fullmatch(name):
            continue
        if name.startswith(("_sysconfigdata", "config-")):  # the build's flags and folders, not the library
            continue
        yield SourceFile(name, path, os.stat(path).st_size)


def _token_files(read: Mapping[str, Any], root: str) -> Iterable[SourceFile]:
    where = str(read["tokenised"])
    if "://" in where:
        raise DataError(
            f"tokens are read in place, through the memory map, so `{where}` must lie in a local folder",
            hint="fetch or mount it; text (`read: {folder: …}`) may be anywhere",
        )
    path = Path(root, where).expanduser()
    if path.is_file():
        yield SourceFile(path.name, str(path), path.stat().st_size)
    else:
        yield from _folder_files({**read, "folder": where}, root, TOKEN_FILES)


def _folder_files(
    read: Mapping[str, Any], root: str, default: Iterable[str] = TEXT_FILES
) -> Iterable[SourceFile]:
    folder = _existing(root, str(read["folder"]))
    wanted, left_out = name_patterns(read, default=default)
    for name, path in _walk(folder, skip=frozenset()):
        if wanted.fullmatch(name) and not left_out.fullmatch(name):
            yield SourceFile(name, path, os.stat(path).st_size)


def _existing(root: str, named: str) -> Path:
    folder = Path(root, named).expanduser()
    if not folder.is_dir():
        beside = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        beside = [name for name in beside if (folder.parent / name).is_dir()]
        raise DataError(
            f"the folder `{named}` does not exist", hint=did_you_mean(folder.name, beside), entry=("folder",)
        )
    return folder


def _walk(folder: Path, *, skip: frozenset[str]) -> Iterator[tuple[str, str]]:
    """`(name with slashes, path)` of every file below; nothing hidden, no folder named in `skip`.

    One by one as the disk names them, so that a glance need not wait for a folder of millions.
    """
    below = [""]
    while below:
        inside = below.pop()
        with contextlib.suppress(PermissionError), os.scandir(folder / inside) as entries:
            for entry in entries:
                name = f"{inside}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    yield name, entry.path
                elif entry.name not in skip and not entry.is_symlink():
                    below.append(f"{name}/")
