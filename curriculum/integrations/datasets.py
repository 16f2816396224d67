"""Prepared text as a dataset of Hugging Face's `datasets`, for a look, a filter or a map.

tokens = curriculum.open(".").dataset("prose")        # columns id, tokens
long = tokens.filter(lambda row: len(row["tokens"]) > 1000)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from curriculum import fs
from curriculum.data.dataset import Dataset
from curriculum.data.shard import MappedShard


def prepared_dataset(folder: Path, split: str, *, verify: bool = True) -> Any:
    """One split of a data folder as a `datasets.Dataset`: a row a document, with its `id` and its `tokens`.

    The tokens, marks included, are those of the mapped files and are not copied; before, all are read once and compared
    with their digests, unless `verify` is false. DataError for a folder or a split that is not there, or damaged.
    """
    import datasets

    opened = Dataset.open(folder, split=split, sequence_length=1)
    dtype = np.dtype(opened.manifest.dtype)
    schema = pa.schema({"id": pa.string(), "tokens": pa.large_list(pa.from_numpy_dtype(dtype))})
    batches = [_rows(shard, schema, verify) for shard in opened.mapped]
    return datasets.Dataset(datasets.table.InMemoryTable(pa.Table.from_batches(batches, schema)))


def _rows(shard: MappedShard, schema: pa.Schema, verify: bool) -> pa.RecordBatch:
    ends = np.concatenate(([0], shard.ends)).astype(np.int64)
    read = shard.tokens_between(0, shard.record.tokens, verify=verify)
    values = pa.Array.from_buffers(
        schema.field("tokens").type.value_type, shard.record.tokens, [None, pa.py_buffer(read)]
    )
    tokens = pa.LargeListArray.from_arrays(pa.array(ends), values, type=schema.field("tokens").type)
    lines = shard.id_lines.split(b"\n")[:-1]
    return pa.RecordBatch.from_arrays(
        [pa.array([fs.parse_json(line) for line in lines], pa.string()), tokens], schema=schema
    )
