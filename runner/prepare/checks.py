"""Refuses a prepared text with too little to train on, or too little held out, and says what would do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from curriculum.data.manifest import HELD_OUT, LEAST_HELD_OUT_WINDOWS, TRAIN, Split, windows_in
from curriculum.data.progress import describe_unread
from curriculum.data.requests import PrepareRequest
from curriculum.errors import DataError
from runner.prepare.readers import columns_shown, way_out, without_text
from runner.prepare.shard_writer import HASHES
from runner.prepare.tally import LeftOut

MAX_HELD_OUT = Fraction(1, 2)  # as in sources.yaml


def unread(records: Sequence[Mapping[str, Any]]) -> LeftOut:
    """The documents of all tasks that are no text, by reason; the first is the first task's."""
    reasons: dict[str, tuple[int, str]] = {}
    for record in records:
        for reason, (count, name) in record.get("unread", {}).items():
            earlier, first = reasons.get(reason, (0, name))
            reasons[reason] = (earlier + count, first)
    return dict(sorted(reasons.items()))


def check_train(request: PrepareRequest, splits: Mapping[str, Split], records: Sequence[Mapping[str, Any]]) -> None:
    """DataError when there is no document to train on; where all is held out, none is expected."""
    train = splits[TRAIN]
    if train.tokens or (request.held_out_share == 1 and splits[HELD_OUT].tokens):
        return
    held_out = splits[HELD_OUT].documents if HELD_OUT in splits else 0
    left_out = unread(records)
    if not held_out and 2 * sum(count for count, _ in left_out.values()) > sum(train.dropped.values()):
        raise without_text(request.dataset, request.text_column, columns(records), left_out)
    raise DataError(
        f"`{request.dataset}` has no document to train on; left out: {_dropped(train.dropped, left_out) or 'none'}",
        hint=f"all it has is held out ({held_out:,} documents, each held out as a whole or not at all): add text, "
        "or cut it into more files or rows"
        if held_out
        else "see `files`, `exclude`, `keep`, `drop` and `blocks`",
        entry=("sources", request.dataset, "read"),
    )


def columns(records: Sequence[Mapping[str, Any]]) -> set[str]:
    """The columns of all rows."""
    return {column for record in records for column in record.get("columns", ())}


def _dropped(dropped: Mapping[str, int], left_out: LeftOut) -> str:
    """What was left out: documents that are no text with the first of them, then those of filters."""
    filtered = [f"{count:,} for {reason}" for reason, count in sorted(dropped.items()) if reason not in left_out]
    return ", ".join(filter(None, (describe_unread(left_out), *filtered)))


def check_held_out(
    request: PrepareRequest,
    splits: Mapping[str, Split],
    records: Sequence[Mapping[str, Any]],
    task: Callable[[int], Path],
    in_place: bool,
) -> None:
    """DataError when the held-out split has too few windows; `task` gives the folder of a task."""
    if request.held_out is None:
        return
    split, length = splits[HELD_OUT], request.sequence_length
    windows = split.windows(length)
    if windows >= LEAST_HELD_OUT_WINDOWS:
        return
    least = LEAST_HELD_OUT_WINDOWS * length + 1
    documents, tokens = (sum(getattr(split, key) for split in splits.values()) for key in ("documents", "tokens"))
    left_out = unread(records)
    dropped = sum((Counter(each.dropped) for each in splits.values()), Counter[str]())
    rows = dropped.total()
    expected = max(split.tokens, int((request.held_out_share or 0) * tokens))
    if rows and expected * (documents + rows) >= least * documents:  # with those rows it would be enough
        unread_rows = sum(count for count, _ in left_out.values())
        hint = f"too many rows are left out by filters, {rows - unread_rows:,}: see `keep`, `drop` and `blocks`"
        if 2 * unread_rows > rows:
            hint = way_out(left_out, request.text_column, columns(records))
    elif request.held_out_share == 1:
        hint = "all of it is held out: add text, or take a shorter `sequence_length`"
    elif in_place:
        hint = "hold out more, or take a shorter `sequence_length`; only whole windows count"
    elif request.held_out_share is None:
        hint = "hold out a share of the documents instead (`held_out: 5%`)"
    elif (share := _sufficient_share(request, records, task)) is not None:
        hint = f"`held_out: {float(share * 100):g}%` would do"
    elif (needed := ceil(least / request.held_out_share)) <= tokens:
        hint = (
            f"a document is held out as a whole or not at all, and {documents:,} are too few to choose from: cut them "
            "into more files or rows"
        )
    else:
        hint = (
            f"add text: at `held_out: {request.held_out['share']}` about {needed:,} tokens are needed, and at 50%, "
            f"the most, {least * 2:,}; or take a shorter `sequence_length`"
        )
    raise DataError(
        f"the held-out split of `{request.dataset}` has {windows} windows of {length} tokens; "
        f"{LEAST_HELD_OUT_WINDOWS} are the least\nit has {split.documents:,} of {documents:,} documents with "
        f"{split.tokens:,} of {tokens:,} tokens, and needs {least:,} tokens"
        + (f"\nleft out: {_dropped(dropped, left_out)}; {columns_shown(columns(records))}" if rows else ""),
        hint=hint,
        entry=("sources", request.dataset, "held_out"),
    )


def _sufficient_share(
    request: PrepareRequest, records: Sequence[Mapping[str, Any]], task: Callable[[int], Path]
) -> Fraction | None:
    """The smallest share, in tenths of a percent, that holds out enough windows and leaves documents to train on."""
    length = request.sequence_length
    held_out = [record["splits"][HELD_OUT]["tokens"] for record in records]
    candidates: list[tuple[int, int, int]] = []
    for rank, record in enumerate(records):
        hashes = np.fromfile(task(rank) / HASHES, np.uint64)
        for shard in record["splits"][TRAIN]["shards"]:
            ends = np.fromfile(task(rank) / f"{shard['file']}.index", "<u8").astype(np.int64)
            lengths = np.diff(ends, prepend=0)
            candidates += zip(hashes.tolist(), lengths.tolist(), [rank] * len(lengths), strict=True)
    windows = sum(windows_in(count, length) for count in held_out)
    largest = max(candidates, default=(0, 0, 0))[0]
    for number, tokens, rank in sorted(candidates):
        windows -= windows_in(held_out[rank], length)
        held_out[rank] += tokens
        windows += windows_in(held_out[rank], length)
        share = Fraction(-(-(number + 1) * 1000 // 2**64), 1000)
        if windows >= LEAST_HELD_OUT_WINDOWS:
            return share if share <= MAX_HELD_OUT and share * 2**64 <= largest else None
    return None
