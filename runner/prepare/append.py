"""Adding files to text that is already prepared: which files are new, and where their shards go."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curriculum.data.listing import SourceFile
from curriculum.data.manifest import Manifest, Split
from curriculum.data.requests import PrepareRequest
from curriculum.errors import DataError


def new_files(
    request: PrepareRequest, output: Path, before: Manifest, files: Sequence[SourceFile]
) -> list[SourceFile]:
    """The files that `output` was not read from; DataError when one that it was read from is gone or changed."""
    known: dict[str, Any] = {}
    for number in range(len(before.states)):
        path = output / f"files-{number}.json"
        if not path.exists() or request.extract is not None:
            raise DataError(
                f"nothing can be appended to `{request.dataset}`: which files it was read from is not recorded",
                hint="name the new files as a source of their own in sources.yaml",
            )
        known |= json.loads(path.read_bytes())
    now = {file.name: [file.bytes, file.sha256] for file in files}
    for name, record in known.items():
        if name not in now or now[name] != record:
            raise DataError(
                f"`{name}` of `{request.dataset}` is {'another file' if name in now else 'no longer there'} since "
                "it was prepared",
                hint="appending adds files and changes none: put it back, or name the text as another source",
            )
    return [file for file in files if file.name not in known]


def numbered(name: str, first: int) -> str:
    """A task's file under its number in the whole folder: `00000.ds.index` of task 0 is `00004.ds.index`."""
    number, dot, endings = name.partition(".")
    return f"{int(number) + first:05d}{dot}{endings}"


def renumbered(file: str, first: int) -> str:
    """`numbered` for a path."""
    folder, slash, name = file.rpartition("/")
    return f"{folder}{slash}{numbered(name, first)}"


def joined(before: Split, appended: Split) -> Split:
    """A split with the appended shards behind its own."""
    dropped = Counter(before.dropped)
    dropped.update(appended.dropped)
    return Split(
        documents=before.documents + appended.documents,
        tokens=before.tokens + appended.tokens,
        text_bytes=before.text_bytes + appended.text_bytes,
        max_token=max(before.max_token, appended.max_token),
        filler=before.filler + appended.filler,
        dropped=dict(sorted(dropped.items())),
        shards=(*before.shards, *appended.shards),
    )
