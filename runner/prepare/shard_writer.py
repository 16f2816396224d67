"""The last step of a preparation pipeline: documents become a shard of tokens with its ids and digests."""

from __future__ import annotations

import hashlib
import shutil
import threading
import time
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.tokens.tokenizer import TokenizedFile

from curriculum import fs
from curriculum.data.manifest import BLOCK_BYTES, HELD_OUT, TRAIN, Shard, Split, dtype_for, text_hash
from curriculum.data.overlap import HASHES as DOCUMENT_HASHES, token_hash
from curriculum.data.requests import PrepareRequest
from curriculum.data.shard import id_line
from curriculum.data.tokenizer import Tokenizer
from runner.prepare.readers import NO_TOKENS, LeftOut, Tally

# Documents are tokenised this many characters at a time: enough to divide among threads, little memory.
BATCH_CHARACTERS = 1 << 21
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
        self,
        task: int | None,
        documents: int,
        tokens: int,
        count: int,
        *,
        done: bool = False,
        unread: LeftOut | None = None,
        other_endings: LeftOut | None = None,
    ) -> None:
        """One task's progress so far; task None is the dataset's, the last line."""
        now = time.monotonic()
        if task is not None:
            if not done and now - self._last.get(task, -REPORT_SECONDS) < REPORT_SECONDS:
                return
            self._last[task] = now
        line: dict[str, Any] = {"task": task, "documents": documents, "tokens": tokens, "bytes": count}
        line |= {"total_bytes": self.total_bytes, "done": done}
        line |= {key: value for key, value in (("unread", unread), ("other_endings", other_endings)) if value}
        fs.append_json_line(self.path, line, sync=False)

    def task_done(self, task: int, record: Mapping[str, Any]) -> None:
        """A task's last line, from its record."""
        splits = record["splits"].values()
        documents, tokens = (sum(split[key] for split in splits) for key in ("documents", "tokens"))
        self.report(task, documents, tokens, record["bytes"], done=True)

    def finish(self, splits: Iterable[Split], count: int, unread: LeftOut, other_endings: LeftOut) -> None:
        splits = list(splits)
        documents, tokens = sum(s.documents for s in splits), sum(s.tokens for s in splits)
        self.report(None, documents, tokens, count, done=True, unread=unread, other_endings=other_endings)


class ShardWriter(PipelineStep):  # type: ignore[misc]
    """Tokenise documents in order into `folder/train/<rank>.ds` and `folder/held-out/<rank>.ds`.

    A document is held out when its text's hash is below the share, so its split depends on its text alone.
    `folder/task.json`, with the digest `inputs` of the files read, is written when all is on the disk. Files of
    an earlier attempt are removed first.
    """

    name = "✒️ Shards"
    type = "💾 - WRITER"

    def __init__(
        self, request: PrepareRequest, folder: Path, inputs: str, *, tally: Tally, meter: Meter, stop: threading.Event
    ) -> None:
        super().__init__()
        share = request.held_out_share
        self.request = request
        self.folder = folder
        self.inputs = inputs
        self.tally = tally
        self.meter = meter
        self.stop = stop
        self.below = 0 if share is None else share.numerator * 2**64 // share.denominator

    def run(self, data: Iterable[Document], rank: int = 0, world_size: int = 1) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        fs.make_directory(self.folder)
        # One tokenizer for every task: threads that share one wait for each other's cache.
        self._tokenizer = Tokenizer.load(self.request.tokenizer_file)
        self._hashes = array("Q")
        self._parts = {
            split: _Part(self.folder, split, rank, self._tokenizer.vocab_size) for split in (TRAIN, HELD_OUT)
        }
        for batch in _batches(data):
            if self.stop.is_set():
                raise Stopped
            with self.track_time(unit="batch"):
                self._write(batch)
            documents = sum(len(part.ends) for part in self._parts.values())
            tokens = sum(part.tokens for part in self._parts.values())
            self.meter.report(rank, documents, tokens, self.tally.bytes)
        (self.folder / HASHES).write_bytes(self._hashes.tobytes())
        splits = {}
        for name, part in self._parts.items():
            dropped = {why: n for (split, why), n in sorted(self.tally.dropped.items()) if split == name}
            splits[name] = asdict(part.close(dropped))
        fs.sync_tree(self.folder)
        columns = sorted(self.tally.columns)
        record = {
            "inputs": self.inputs,
            "splits": splits,
            "bytes": self.tally.bytes,
            "columns": columns,
            "unread": self.tally.unread,
            "sums": self.tally.sums,
        }
        fs.write_json(self.folder / RECORD, record)
        self.meter.task_done(rank, record)

    def _write(self, batch: list[Document]) -> None:
        request = self.request
        bos, eos = self._tokenizer.bos_id, self._tokenizer.eos_id
        before = [bos] if request.bos and bos is not None else []
        after = [eos] if request.eos and eos is not None else []
        for document, ids in zip(batch, self._tokenizer.encode_batch([d.text for d in batch]), strict=True):
            own = document.metadata.get("split", TRAIN)
            if not ids:
                self.tally.drop(document.id, NO_TOKENS, own)
                continue
            text = document.text.encode()
            number = text_hash(text)
            split = own if request.held_out_split is not None or number >= self.below else HELD_OUT
            if split == TRAIN:
                self._hashes.append(number)
            self._parts[split].add(document.id, before, ids, after, len(text))
            self.stat_update("tokens", value=len(ids))


class _Part:
    """One split of a task; its files exist only when it has a document."""

    def __init__(self, folder: Path, split: str, rank: int, vocab_size: int) -> None:
        self.folder = folder / split
        self.path = self.folder / f"{rank:05d}.ds"
        self.dtype = np.dtype(dtype_for(vocab_size)).newbyteorder("<")
        self.ends = array("Q")
        self.id_ends = array("Q")
        self.hashes = array("Q")
        self.tokens = self.text_bytes = self.filler = 0
        self.max_token = -1
        self._out: TokenizedFile | None = None

    def add(self, name: str, before: list[int], ids: list[int], after: list[int], text_bytes: int) -> None:
        """Write a document: the tokens `ids` of its text, between the marks `before` and `after`."""
        if self._out is None:
            self.folder.mkdir()
            self._out = TokenizedFile(str(self.folder), self.path.name, token_size=self.dtype.itemsize)
            self._ids = self.path.with_suffix(".ids").open("wb")
        tokens = np.array([*before, *ids, *after], self.dtype)
        self._out.write_bytes(tokens.tobytes())
        self._ids.write(id_line(name))
        self.tokens += len(tokens)
        self.ends.append(self.tokens)
        self.id_ends.append(self._ids.tell())
        self.hashes.append(token_hash(tokens[len(before) : len(before) + len(ids)]))
        self.text_bytes += text_bytes
        self.filler += len(before) + len(after)
        self.max_token = max(self.max_token, int(tokens.max()))

    def close(self, dropped: Mapping[str, int]) -> Split:
        """Write the indexes and digests; the split of this task, with one shard or none."""
        shards: tuple[Shard, ...] = ()
        if self._out is not None:
            self._out.close()
            self._ids.close()
            shards = (
                finished_shard(
                    self.path,
                    tokens=self.tokens,
                    id_ends=self.id_ends,
                    hashes=self.hashes,
                    text_bytes=self.text_bytes,
                    sha256=fs.sha256_file(self.path),
                    blocks=[hashlib.sha256(b).digest() for b in fs.read_blocks(self.path, BLOCK_BYTES)],
                ),
            )
        return Split(
            documents=len(self.ends),
            tokens=self.tokens,
            text_bytes=self.text_bytes,
            max_token=self.max_token,
            filler=self.filler,
            dropped=dict(dropped),
            shards=shards,
        )


def finished_shard(
    path: Path,
    *,
    tokens: int,
    id_ends: array[int],
    hashes: array[int],
    text_bytes: int,
    sha256: str,
    blocks: Sequence[bytes],
) -> Shard:
    """Write the index of ids, the digests of the blocks and the hashes of the documents beside the other files of
    `<split>/<number>.ds`."""
    ids, ids_index = path.with_suffix(".ids"), path.with_suffix(".ids.index")
    ids_index.write_bytes(np.array(id_ends, "<u8").tobytes())
    path.with_name(path.name + DOCUMENT_HASHES).write_bytes(np.sort(np.array(hashes, "<u8")).tobytes())
    digests = b"".join(blocks)
    path.with_suffix(".ds.blocks").write_bytes(digests)
    return Shard(
        file=f"{path.parent.name}/{path.name}",
        tokens=tokens,
        documents=len(id_ends),
        text_bytes=text_bytes,
        sha256=sha256,
        blocks_sha256=hashlib.sha256(digests).hexdigest(),
        index_sha256=fs.sha256_file(path.with_suffix(".ds.index")),
        ids_sha256=fs.sha256_file(ids),
        ids_index_sha256=fs.sha256_file(ids_index),
    )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
