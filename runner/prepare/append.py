"""Appending files to a prepared text: which files are new, the numbers of their shards, and splits merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from curriculum.data.changes import recorded_files
from curriculum.data.listing import SourceFile
from curriculum.data.manifest import Manifest, Split
from curriculum.data.requests import PrepareRequest
from curriculum.errors import DataError


def new_files(
    request: PrepareRequest, output: Path, existing: Manifest, files: Sequence[SourceFile]
) -> list[SourceFile]:
    """The files that are not in `output` yet; DataError when one of those in it is gone or changed."""
    recorded = recorded_files(output, existing)
    if recorded is None or request.extract is not None:
        raise DataError(
            f"nothing can be appended to `{request.dataset}`: which files it was read from is not recorded",
            hint="name the new files as a source of their own in sources.yaml",
        )
    now = {file.name: [file.bytes, file.sha256] for file in files}
    for name, record in recorded.items():
        if name not in now or now[name] != record[:2]:
            raise DataError(
                f"`{name}` of `{request.dataset}` is {'another file' if name in now else 'no longer there'} since "
                "it was prepared",
                hint="appending adds files and changes none: put it back, or name the text as another source",
            )
    return [file for file in files if file.name not in recorded]


def numbered(name: str, first: int) -> str:
    """A task's file with its number in the folder: `00000.ds.index` is `00004.ds.index` where `first` is 4."""
    number, dot, endings = name.partition(".")
    return f"{int(number) + first:05d}{dot}{endings}"


def renumbered(split: Split, first: int) -> Split:
    """A task's split with its shards numbered from `first`."""

    def file(path: str) -> str:
        folder, slash, name = path.rpartition("/")
        return f"{folder}{slash}{numbered(name, first)}"

    return replace(split, shards=tuple(replace(shard, file=file(shard.file)) for shard in split.shards))


def merged(splits: Iterable[Split]) -> Split:
    """Several splits as one, their shards in order."""
    splits = list(splits)
    dropped: Counter[str] = Counter()
    for split in splits:
        dropped.update(split.dropped)
    return Split(
        documents=sum(split.documents for split in splits),
        tokens=sum(split.tokens for split in splits),
        text_bytes=sum(split.text_bytes for split in splits),
        max_token=max(split.max_token for split in splits),
        filler=sum(split.filler for split in splits),
        dropped=dict(sorted(dropped.items())),
        shards=tuple(shard for split in splits for shard in split.shards),
    )
