"""The merge of the tasks' records of ids into one index of documents for each split, and the ids that it repeats."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from curriculum.data import document_lookup
from curriculum.data.manifest import Manifest, Shard
from curriculum.data.shard import MappedShard


def merge_lookups(manifest: Manifest, data: Path) -> tuple[list[str], dict[str, tuple[int, str]]]:
    """Merge the records of the newest shards in `data`: the names of the indexes, and `repeated_ids` by split.

    Records that an interrupted call has merged are not there, and their ids are not compared again.
    """
    names, repeated_ids = [], {}
    for split, record in manifest.splits.items():
        earlier = sum(state.shards.get(split, 0) for state in manifest.earlier[-1:])
        shards = record.shards[earlier:]
        name = document_lookup.name_of(split, len(manifest.earlier))
        parts = [(data / shard.file).with_suffix(f".ids{document_lookup.SHARD_LOOKUP}") for shard in shards]
        if all(part.exists() for part in parts):
            repeated = document_lookup.merge(parts, [shard.documents for shard in shards], data / name)
            if repeats := _repeated_ids(repeated, manifest, data, shards):
                repeated_ids[split] = repeats
        for part in parts:
            part.unlink(missing_ok=True)
        if (data / name).exists():  # not of tasks that an earlier version finished
            names.append(name)
    return names, repeated_ids


def _repeated_ids(
    repeated: document_lookup.RepeatedIds, manifest: Manifest, data: Path, shards: Sequence[Shard]
) -> tuple[int, str] | None:
    """How many documents have an id that an earlier one has, and one of these ids; None for no document."""
    ends = np.cumsum([shard.documents for shard in shards])

    @functools.cache
    def opened(at: int) -> MappedShard:
        shard = shards[at]
        elsewhere = manifest.elsewhere.get(shard.file)
        return MappedShard(data, shard, np.dtype(manifest.dtype), manifest.block_bytes, 1, elsewhere)

    def id_of(number: int) -> str:
        at = int(np.searchsorted(ends, number, side="right"))
        return opened(at).id_of(number - int(ends[at]) + shards[at].documents)

    equal = [id_of(first) for first, second in repeated.pairs if id_of(first) == id_of(second)]
    return (repeated.count - len(repeated.pairs) + len(equal), min(equal)) if equal else None
