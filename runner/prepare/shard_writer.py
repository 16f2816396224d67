"""The last step of a preparation pipeline: documents become a shard of tokens with its ids and digests."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum import fs
from curriculum.data.manifest import BLOCK_BYTES, HELD_OUT, TRAIN, Shard, Split, dtype_for
from curriculum.data.requests import PrepareRequest
from curriculum.data.tokenizer import Tokenizer
from runner.prepare.document_files import DocumentFiles
from runner.prepare.encoder import Encoder
from runner.prepare.tally import NO_TOKENS, LeftOut, Tally
from runner.prepare.texts import Documents, Tokens

REPORT_SECONDS = 0.5

RECORD = "task.json"
HASHES = "hashes"


class Stopped(Exception):
    """This task was stopped because another one failed."""


class Meter:
    """Appends lines for `curriculum.data.progress.read_progress`, at most two a second for each task."""

    def __init__(self, path: Path, total_bytes: int | None) -> None:
        self.path = path
        self.total_bytes = total_bytes
        self._last: dict[int, float] = {}
        fs.make_directory(path.parent)

    def report(
        self, task: int | None, documents: int, tokens: int, count: int, *, done: bool = False, **more: LeftOut | str
    ) -> None:
        """One task's progress so far; task None is the dataset's, the last line, with what was `more` on the way."""
        now = time.monotonic()
        if task is not None:
            if not done and now - self._last.get(task, -REPORT_SECONDS) < REPORT_SECONDS:
                return
            self._last[task] = now
        line: dict[str, Any] = {"task": task, "documents": documents, "tokens": tokens, "bytes": count}
        line |= {"total_bytes": self.total_bytes, "done": done}
        line |= {key: value for key, value in more.items() if value}
        fs.append_json_line(self.path, line, sync=False)

    def task_done(self, task: int, record: Mapping[str, Any]) -> None:
        """A task's last line, from its record."""
        splits = record["splits"].values()
        documents, tokens = (sum(split[key] for split in splits) for key in ("documents", "tokens"))
        self.report(task, documents, tokens, record.get("stored", record["bytes"]), done=True)

    def finish(self, splits: Iterable[Split], count: int, **more: LeftOut | str) -> None:
        """The dataset's line; `more` are further keys of it, see `curriculum.data.progress.Progress`."""
        splits = list(splits)
        documents, tokens = sum(s.documents for s in splits), sum(s.tokens for s in splits)
        self.report(None, documents, tokens, count, done=True, **more)


class ShardWriter:
    """Tokenise documents in order into `folder/train/<rank>.ds` and `folder/held-out/<rank>.ds`.

    A document is held out when its text's hash is below the share, so its split depends on its text alone.
    `folder/task.json`, with the digest `inputs` of the files read, is written when all is on the disk. Files of
    an earlier attempt are removed first. EncoderDiffers where the fast encoder is wrong on the task's own text.
    """

    def __init__(
        self,
        request: PrepareRequest,
        tokenizer: Tokenizer,
        encoder: Encoder,
        folder: Path,
        inputs: str,
        *,
        tally: Tally,
        meter: Meter,
        stop: threading.Event,
    ) -> None:
        share = request.held_out_share
        self.request = request
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.folder = folder
        self.inputs = inputs
        self.tally = tally
        self.meter = meter
        self.stop = stop
        self.below = 0 if share is None else share.numerator * 2**64 // share.denominator

    def write(self, batches: Iterable[Documents], rank: int) -> None:
        """Write one task's shards, their indexes and its record; Stopped where another task failed."""
        shutil.rmtree(self.folder, ignore_errors=True)
        fs.make_directory(self.folder)
        self._parts = {split: _Part(self.folder, split, rank, self.tokenizer.vocab_size) for split in (TRAIN, HELD_OUT)}
        with (self.folder / HASHES).open("xb") as self._hashes:
            for batch in batches:
                if self.stop.is_set():
                    raise Stopped
                self._write(batch)
                documents = sum(part.documents for part in self._parts.values())
                tokens = sum(part.tokens for part in self._parts.values())
                self.meter.report(rank, documents, tokens, self.tally.stored)
        splits = {}
        for name, part in self._parts.items():
            dropped = {why: n for (split, why), n in sorted(self.tally.dropped.items()) if split == name}
            splits[name] = asdict(part.close(dropped))
        fs.sync_tree(self.folder)
        columns = sorted(self.tally.columns)
        record = {
            "inputs": self.inputs,
            "encoder": self.encoder.name,
            "splits": splits,
            "bytes": self.tally.bytes,
            "stored": self.tally.stored,
            "columns": columns,
            "unread": self.tally.unread,
            "sums": self.tally.sums,
        }
        fs.write_json(self.folder / RECORD, record)
        self.meter.task_done(rank, record)

    def _write(self, batch: Documents) -> None:
        tokens = self.encoder.encode(batch.texts)
        lengths = tokens.lengths
        for document in np.flatnonzero(lengths == 0).tolist():
            self.tally.drop(json.loads(batch.lines[document]), NO_TOKENS, batch.split)
        kept = np.flatnonzero(lengths)
        held_out = np.zeros(len(kept), bool)
        if self.request.held_out_split is not None:
            held_out[:] = batch.split == HELD_OUT
        elif self.below == 2**64:  # all of it: no integer of 64 bits is above every hash
            held_out[:] = True
        elif self.below:
            numbers = batch.texts.hashes(kept)
            held_out = numbers < np.uint64(self.below)
            self._hashes.write(numbers[~held_out].data)
        policy = self.request
        before = self.tokenizer.bos_id if policy.bos else None
        after = self.tokenizer.eos_id if policy.eos else None
        for split, chosen in ((TRAIN, kept[~held_out]), (HELD_OUT, kept[held_out])):
            if len(chosen):
                self._parts[split].add(batch, tokens, chosen, before, after)


class _Part:
    """One split of a task; its files exist only when it has a document."""

    def __init__(self, folder: Path, split: str, rank: int, vocab_size: int) -> None:
        self.folder = folder / split
        self.path = self.folder / f"{rank:05d}.ds"
        self.dtype = np.dtype(dtype_for(vocab_size)).newbyteorder("<")
        self.documents = self.tokens = self.text_bytes = self.filler = 0
        self.max_token = -1
        self._out: _TokenFile | None = None

    def add(
        self, batch: Documents, tokens: Tokens, chosen: NDArray[np.int64], before: int | None, after: int | None
    ) -> None:
        """Write the documents `chosen` of a batch: the tokens of each text, between the marks `before` and `after`."""
        if self._out is None:
            self.folder.mkdir()
            self._out = _TokenFile(self.path)
            self._beside = DocumentFiles(self.path)
        marked, ends = _between_marks(tokens, chosen, before, after, self.dtype)
        self._out.write(marked)
        lines = batch.lines
        if len(chosen) < len(lines):
            lines = [lines[document] for document in chosen.tolist()]
        self._beside.add(lines, ends + self.tokens, tokens.hashes(chosen))
        self.documents += len(chosen)
        self.tokens += len(marked)
        self.text_bytes += int((batch.texts.bounds[chosen + 1] - batch.texts.bounds[chosen]).sum())
        self.filler += len(chosen) * ((before is not None) + (after is not None))
        self.max_token = max(self.max_token, int(marked.max()))

    def close(self, dropped: Mapping[str, int]) -> Split:
        """Write the indexes and digests; the split of this task, with one shard or none."""
        shards: tuple[Shard, ...] = ()
        if self._out is not None:
            sha256, blocks = self._out.close()
            self._beside.close()
            shards = (
                finished_shard(
                    self.path,
                    tokens=self.tokens,
                    documents=self.documents,
                    text_bytes=self.text_bytes,
                    sha256=sha256,
                    blocks=blocks,
                ),
            )
        return Split(
            documents=self.documents,
            tokens=self.tokens,
            text_bytes=self.text_bytes,
            max_token=self.max_token,
            filler=self.filler,
            dropped=dict(dropped),
            shards=shards,
        )


def _between_marks(
    tokens: Tokens, chosen: NDArray[np.int64], before: int | None, after: int | None, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The tokens of the chosen documents, each between its marks, as `dtype`; and where each ends, exclusive."""
    lengths = tokens.lengths[chosen]
    marks = (before is not None) + (after is not None)
    ends = np.cumsum(lengths + marks)
    ids = tokens.ids
    if int(lengths.sum()) != len(ids):
        is_chosen = np.zeros(len(tokens.lengths), bool)
        is_chosen[chosen] = True
        ids = ids[np.repeat(is_chosen, tokens.lengths)]
    if not marks:
        return ids.astype(dtype), ends
    marked = np.empty(int(ends[-1]), dtype)
    is_text = np.ones(len(marked), bool)
    for mark, places in ((before, ends - lengths - marks), (after, ends - 1)):
        if mark is not None:
            marked[places] = mark
            is_text[places] = False
    marked[is_text] = ids
    return marked, ends


class _TokenFile:
    """A new `.ds`, digested as it is written: as a whole, and in blocks of BLOCK_BYTES."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("xb")
        self._digest = hashlib.sha256()
        self._blocks: list[bytes] = []
        self._rest = bytearray()

    def write(self, tokens: NDArray[Any]) -> None:
        data = tokens.view(np.uint8).data
        self._file.write(data)
        self._digest.update(data)
        first = 0
        if self._rest:
            first = BLOCK_BYTES - len(self._rest)
            self._rest += data[:first]
            if len(self._rest) < BLOCK_BYTES:
                return
            self._blocks.append(hashlib.sha256(self._rest).digest())
            self._rest.clear()
        while first + BLOCK_BYTES <= len(data):
            self._blocks.append(hashlib.sha256(data[first : first + BLOCK_BYTES]).digest())
            first += BLOCK_BYTES
        self._rest += data[first:]

    def close(self) -> tuple[str, list[bytes]]:
        """The digest of the file, and those of its blocks."""
        if self._rest:
            self._blocks.append(hashlib.sha256(self._rest).digest())
        self._file.close()
        return self._digest.hexdigest(), self._blocks


def finished_shard(
    path: Path, *, tokens: int, documents: int, text_bytes: int, sha256: str, blocks: Sequence[bytes]
) -> Shard:
    """Write the digests of the blocks beside the other files of `<split>/<number>.ds`; its record."""
    ids = path.with_suffix(".ids")
    digests = b"".join(blocks)
    path.with_suffix(".ds.blocks").write_bytes(digests)
    return Shard(
        file=f"{path.parent.name}/{path.name}",
        tokens=tokens,
        documents=documents,
        text_bytes=text_bytes,
        sha256=sha256,
        blocks_sha256=hashlib.sha256(digests).hexdigest(),
        index_sha256=fs.sha256_file(path.with_suffix(".ds.index")),
        ids_sha256=fs.sha256_file(ids),
        ids_index_sha256=fs.sha256_file(ids.with_suffix(".ids.index")),
    )
