"""The files of a source's documents, listed from packages' records and from folders; no document is opened."""

from __future__ import annotations

import base64
import codecs
import contextlib
import difflib
import os
import re
import sysconfig
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PurePath
from typing import Any

from curriculum.data.packages import distributions
from curriculum.errors import DataError, did_you_mean

KINDS = ("installed", "stdlib", "folder", "hub", "dataset", "tokenised")

WEBDATASET = "webdataset"
PACKAGED_BUILDERS = ("csv", "json", "parquet", "arrow", "text", WEBDATASET)
"""What `dataset:` may name besides a folder and a dataset of the hub: builders that the `datasets` package brings."""

# The default of `files` for a folder of tokens, and for one of text.
TOKEN_FILES = ("**/*.ds", "**/*.bin", "**/*.npy")
JSON_ENDINGS = ("jsonl", "ndjson", "jsonlines", "json")
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
TEXT_FILES = tuple(
    f"**/*.{kind}{packed}"
    for kind in ("txt", "md", *JSON_ENDINGS, "parquet")
    for packed in (("", *COMPRESSED) if kind != "parquet" else ("",))
)

# The first bytes of a file that tell text from other data.
TEXT_BYTES = 8000

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)?")
"""NAME or OWNER/NAME, as the hub allows it; no path with further parts."""

_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f]")

# Files that a quick scan of a folder visits: under a second, also on a shared file system.
QUICK_SCAN = 10_000

# Folders of the standard library that hold tests, or packages that are not the library's own.
_NOT_LIBRARY = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"})


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file of documents: its `name` within the dataset, the `path` to open, its size and digest if recorded.

    `sha256` (hexadecimal) is from the package's own record; the reader compares it.
    """

    name: str
    path: str
    bytes: int | None = None
    sha256: str | None = None


def kind_of(read: Mapping[str, Any]) -> str:
    """Which of `installed`, `stdlib`, `folder`, `hub`, `dataset`, `tokenised` a `read` is; DataError unless one."""
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
    if kind in ("hub", "dataset"):
        raise ValueError(f"the files of a {kind} are not listed locally")
    lists = {"installed": _installed_files, "stdlib": _stdlib_files, "folder": _folder_files, "tokenised": _token_files}
    return sort_files(lists[kind](read, root), read)


def sort_files(files: Iterable[SourceFile], read: Mapping[str, Any]) -> list[SourceFile]:
    """`files` sorted by name; DataError with the patterns of `read` when there are none."""
    in_order = sorted(files, key=lambda file: file.name)
    if not in_order:
        raise _no_match(read)
    return in_order


def check_local(read: Mapping[str, Any], root: str) -> None:
    """DataError when the local folder of `read` does not exist, or none of its first `QUICK_SCAN` files matches."""
    kind = kind_of(read)
    if kind == "dataset":
        _check_dataset(read, root)
    if kind not in ("folder", "tokenised") or "://" in str(read[kind]):
        return
    if kind == "tokenised" and Path(root, str(read[kind])).expanduser().is_file():
        return
    is_chosen = name_filter(read, default=TEXT_FILES if kind == "folder" else TOKEN_FILES)
    for number, (name, _) in enumerate(_walk(_existing_folder(root, str(read[kind])))):
        if number == QUICK_SCAN or is_chosen(name):
            return
    raise _no_match(read)


def _check_dataset(read: Mapping[str, Any], root: str) -> None:
    """DataError for a `dataset` that is written like a folder and is none.

    Such are names that the hub cannot have, and without a `revision` those next to, or in, a folder that is there.
    """
    name = str(read["dataset"])
    folder = Path(root, name).expanduser()
    if name in PACKAGED_BUILDERS or "://" in name or folder.exists():
        return
    siblings = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
    of_hub = _HUB_NAME.fullmatch(name) is not None
    if of_hub and (
        "revision" in read or not ("/" in name or difflib.get_close_matches(name, siblings, n=1, cutoff=0.8))
    ):
        return
    if of_hub and not folder.parent.is_dir():
        return
    hint = did_you_mean(folder.name, siblings) if siblings else "a path counts from the project's folder"
    if of_hub:
        hint += "; for a dataset of the hub of that name state its `revision`, as in `revision: main`"
    raise DataError(f"the folder `{name}` of a dataset does not exist", hint=hint, entry=("dataset",))


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
    endings = ".txt, .md, .jsonl, .ndjson, .jsonlines and .json (also compressed: .gz, .zst, .bz2, .xz) and .parquet"
    if kind == "tokenised":
        endings = ".ds, .bin and .npy"
    return DataError(
        f"no file in `{where}` has a usual ending",
        hint=f'these are {endings}; name others, as in `files: "*.text"`',
        entry=(kind,),
    )


def uncompressed(name: str) -> str:
    """A file's name without the ending of a compression."""
    return next((name.removesuffix(ending) for ending in COMPRESSED if name.endswith(ending)), name)


def matcher(patterns: str | Iterable[str]) -> re.Pattern[str]:
    """A pattern for relative paths: `*` and `?` stay inside one name, `**/` is any number of folders."""
    wildcards = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    expressions = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        tokens = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
        expressions.append("".join(wildcards.get(token, re.escape(token)) for token in tokens))
    return re.compile("|".join(f"(?:{each})" for each in expressions) if expressions else r"(?!)", re.DOTALL)


def name_filter(read: Mapping[str, Any], *, default: Iterable[str]) -> Callable[[str], bool]:
    """Whether a file's name is among `files` and `subsets` of `read`, and not among `exclude`."""
    patterns = read.get("files", list(default))
    subsets = read.get("subsets")
    if subsets:
        inside = [patterns] if isinstance(patterns, str) else patterns
        patterns = [f"{subset}/{pattern}" for subset in subsets for pattern in inside]
    files, exclude = matcher(patterns), matcher(read.get("exclude", []))
    return lambda name: files.fullmatch(name) is not None and exclude.fullmatch(name) is None


def _installed_files(read: Mapping[str, Any], root: str) -> Iterable[SourceFile]:
    is_chosen = name_filter(read, default=TEXT_FILES)
    for name, package in distributions(read):
        record = package.files
        if record is None:
            raise DataError(
                f"the package `{name}` is installed without a record of its files",
                hint=f"python -m pip install --force-reinstall --no-deps {name}",
            )
        for entry in record:
            path = entry.as_posix()
            if is_chosen(path):
                yield SourceFile(path, str(entry.locate()), entry.size, _record_sha256(entry))


def _record_sha256(entry: metadata.PackagePath) -> str | None:
    """A record spells digests in URL-safe base64 without padding."""
    if entry.hash is None or entry.hash.mode != "sha256":
        return None
    value = entry.hash.value
    return base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)).hex()


def _stdlib_files(read: Mapping[str, Any], root: str) -> Iterable[SourceFile]:
    exclude = matcher(read.get("exclude", []))
    library = Path(sysconfig.get_path("stdlib"))
    for name, path in _walk(library, skip=_NOT_LIBRARY):
        if not name.endswith(".py") or exclude.fullmatch(name):
            continue
        if name.startswith(("_sysconfigdata", "config-")):  # the build's flags and folders, not the library
            continue
        yield SourceFile(name, path, os.stat(path).st_size)


def _token_files(read: Mapping[str, Any], root: str) -> Iterable[SourceFile]:
    where = str(read["tokenised"])
    if "://" in where:
        raise DataError(
            f"tokens are read in place, through the memory map, so `{where}` must be a local folder",
            hint="fetch or mount it; text (`read: {folder: …}`) may be anywhere",
        )
    path = Path(root, where).expanduser()
    if path.is_file():
        yield SourceFile(path.name, str(path), path.stat().st_size)
    else:
        yield from _folder_files({**read, "folder": where}, root, TOKEN_FILES)


def _folder_files(read: Mapping[str, Any], root: str, default: Iterable[str] = TEXT_FILES) -> Iterable[SourceFile]:
    is_chosen = name_filter(read, default=default)
    for name, path in _walk(_existing_folder(root, str(read["folder"]))):
        if is_chosen(name):
            yield SourceFile(name, path, os.stat(path).st_size)


def other_endings(read: Mapping[str, Any], root: str = ".") -> dict[str, tuple[int, str]]:
    """Text in a local folder that is not read, since `files` is not stated and its ending is not a usual one.

    By ending the number of files and the first; an ending whose first file is not text is left out.
    """
    if "files" in read or "folder" not in read or "://" in str(read["folder"]):
        return {}
    is_usual = name_filter({key: value for key, value in read.items() if key != "exclude"}, default=TEXT_FILES)
    is_other = name_filter({**read, "files": "**"}, default=())
    folder = _existing_folder(root, str(read["folder"]))
    names: dict[str, list[str]] = {}
    for name, _ in _walk(folder):
        if is_other(name) and not is_usual(name):
            ending = PurePath(uncompressed(name)).suffix
            names.setdefault(f"ending in {ending}" if ending else "without an ending", []).append(name)
    return {
        ending: (len(group), min(group)) for ending, group in sorted(names.items()) if _is_text(folder / min(group))
    }


def _is_text(path: Path) -> bool:
    with contextlib.suppress(OSError), path.open("rb") as file:
        return is_text(file.read(TEXT_BYTES))
    return False


def is_text(head: bytes) -> bool:
    """Whether a file that begins with `head` holds text: UTF-8 without control characters."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return bool(text) and _CONTROL.search(text) is None


def _existing_folder(root: str, name: str) -> Path:
    folder = Path(root, name).expanduser()
    if not folder.is_dir():
        siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
        hint = did_you_mean(folder.name, [sibling.name for sibling in siblings if sibling.is_dir()])
        raise DataError(f"the folder `{name}` does not exist", hint=hint, entry=("folder",))
    return folder


def _walk(folder: Path, *, skip: frozenset[str] = frozenset()) -> Iterator[tuple[str, str]]:
    """`(name with slashes, path)` of every file below; nothing hidden, no folder named in `skip`.

    Lazy and unsorted, so that a quick scan does not list a folder of millions.
    """
    pending = [""]
    while pending:
        parent = pending.pop()
        with contextlib.suppress(PermissionError), os.scandir(folder / parent) as entries:
            for entry in entries:
                name = f"{parent}{entry.name}"
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    yield name, entry.path
                elif entry.name not in skip and not entry.is_symlink():
                    pending.append(f"{name}/")
