"""Indexing third-party token files, so that they are trained on in place: `read: {tokenised: …}`.

    files ── ranges ──> one task a file ──> index, ids, digests in our folder; the tokens stay where they are

Each file is read once. As in any preparation a finished file is not read again unless it changed, and a job killed
at any moment resumes where it was.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shlex
import shutil
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum import fs
from curriculum.data.listing import SourceFile
from curriculum.data.manifest import BLOCK_BYTES, HELD_OUT, TRAIN, Split, SplitName, TokenLocation
from curriculum.data.overlap import token_hash
from curriculum.data.requests import PrepareRequest
from curriculum.data.shard import id_line
from curriculum.data.token_files import TokenFile, agreement, open_token_file
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError
from runner.prepare.document_files import RUN, DocumentFiles
from runner.prepare.executor import run_all
from runner.prepare.shard_writer import RECORD, Meter, Stopped, finished_shard

# The minimum of a held-out range, unless it is a whole file or the rest of the share: windows must fit into it.
RANGE_TOKENS = 1 << 17
LEAST_AGREEMENT = 0.5


@dataclass(frozen=True, slots=True)
class FileRange:
    """Of a file's first `text` tokens (before filler), those from about `held_out_from` on are held out."""

    text: int
    held_out_from: int


def open_files(request: PrepareRequest, files: Sequence[SourceFile]) -> list[TokenFile]:
    """The recognised token files; DataError where one is not, or where their token widths differ."""
    token_files = [
        open_token_file(Path(file.path), request.read.get("format"), request.read.get("dtype")) for file in files
    ]
    widths = {file.dtype: file.path for file in token_files}
    if len(widths) > 1:
        listed = "; ".join(f"`{path}` {dtype}" for dtype, path in sorted(widths.items()))
        raise DataError(
            f"the token files of `{request.dataset}` are of several widths: {listed}",
            hint="make each a source of its own with `files`, or set `dtype` where it was guessed wrong",
        )
    return token_files


def file_ranges(
    train: Sequence[TokenFile], held_out: Sequence[TokenFile], share: Fraction | None, eos: int | None
) -> list[FileRange]:
    """The text and the held-out range of each file, `train` files first.

    The share accumulates over the files, and is held out at the end of a file once it amounts to the file or to
    RANGE_TOKENS; the rest comes from the largest. The result depends on the files' order and lengths only.
    """
    texts = [file.filler_from(eos) for file in train]
    shares, owed = [0] * len(train), Fraction(0)
    for number, text in enumerate(texts):
        owed += (share or 0) * text
        if owed >= min(text, RANGE_TOKENS):
            shares[number] = min(text, int(owed))
            owed -= shares[number]
    largest = max(range(len(train)), key=lambda number: texts[number] - shares[number])
    shares[largest] = min(texts[largest], shares[largest] + int(owed))
    ranges = [FileRange(text, text - tokens) for text, tokens in zip(texts, shares, strict=True)]
    return ranges + [FileRange(file.filler_from(eos), 0) for file in held_out]


def index_in_place(
    request: PrepareRequest,
    files: Sequence[SourceFile],
    token_files: Sequence[TokenFile],
    ranges: Sequence[FileRange],
    tokenizer: Tokenizer,
    partial: Path,
    meter: Meter,
    stop: threading.Event,
) -> list[dict[str, Any]]:
    """Index every file without a current record, `workers` at a time; the records in the files' order."""

    def record_of(number: int) -> dict[str, Any]:
        folder = partial / "tasks" / f"{number:05d}"
        state = os.stat(token_files[number].path)
        inputs = fs.digest(
            [
                files[number].name,
                str(token_files[number].path),
                state.st_size,
                state.st_mtime_ns,
                asdict(ranges[number]),
            ]
        )
        if (folder / RECORD).exists():
            record: dict[str, Any] = json.loads((folder / RECORD).read_bytes())
            if record["inputs"] == inputs:
                meter.task_done(number, record)
                return record
        if stop.is_set():
            raise Stopped
        index = _InPlaceIndex(request, files[number].name, token_files[number], tokenizer, folder, number)
        return index.write(ranges[number], inputs, meter, stop)

    return run_all([functools.partial(record_of, number) for number in range(len(files))], request.workers, stop)


class _InPlaceIndex:
    """The index of one file in its task's folder."""

    def __init__(
        self, request: PrepareRequest, name: str, file: TokenFile, tokenizer: Tokenizer, folder: Path, number: int
    ) -> None:
        self.request = request
        self.name = name
        self.file = file
        self.tokenizer = tokenizer
        self.folder = folder
        self.number = number

    def write(self, file_range: FileRange, inputs: str, meter: Meter, stop: threading.Event) -> dict[str, Any]:
        shutil.rmtree(self.folder, ignore_errors=True)
        fs.make_directory(self.folder)
        ends = self._ends(file_range.text, stop)
        border = _document_end_near(ends, file_range)
        self._check_tokenizer(ends)
        splits: dict[str, Any] = {}
        elsewhere: dict[str, Any] = {}
        for split, first, stop_at in ((TRAIN, 0, border), (HELD_OUT, border, file_range.text)):
            part = self._split(split, first, stop_at, ends)
            splits[split] = asdict(part)
            for shard in part.shards:
                elsewhere[shard.file] = asdict(
                    TokenLocation(
                        path=str(self.file.path.resolve()),
                        offset=self.file.offset + first * self.file.numbers.itemsize,
                        bytes=self.file.size,
                    )
                )
        fs.sync_tree(self.folder)
        record = {
            "inputs": inputs,
            "splits": splits,
            "elsewhere": elsewhere,
            "filler": self.file.tokens - file_range.text,
            "bytes": self.file.size,
        }
        fs.write_json(self.folder / RECORD, record, replace=True)
        meter.task_done(self.number, record)
        return record

    def _ends(self, text: int, stop: threading.Event) -> NDArray[np.int64]:
        """Where documents end: from the file's index, else after every EOS (or before every BOS), else nowhere."""
        stated = self.file.document_ends()
        if stated is None:
            token = self.tokenizer.eos_id if self.request.eos else None
            token = self.tokenizer.bos_id if token is None and self.request.bos else token
            after = 1 if self.request.eos else 0
            ends = [np.zeros(0, np.int64)]
            if token is not None:
                for first in range(0, text, BLOCK_BYTES):
                    if stop.is_set():
                        raise Stopped
                    tokens = self.file.read(first, min(BLOCK_BYTES, text - first))
                    ends.append(np.flatnonzero(tokens == token) + first + after)
            stated = np.concatenate(ends)
        inside = np.unique(stated[(stated > 0) & (stated < text)])
        return np.append(inside, text) if text else inside

    def _split(self, split: SplitName, first: int, stop: int, ends: NDArray[np.int64]) -> Split:
        if first == stop:
            return Split(documents=0, tokens=0, text_bytes=0, max_token=-1, filler=0, dropped={}, shards=())
        inside = ends[(ends > first) & (ends <= stop)]
        if not len(inside) or inside[-1] != stop:
            inside = np.append(inside, stop)
        number_before = int(np.searchsorted(ends, first, side="right"))
        fs.make_directory(self.folder / split)
        base = self.folder / split / f"{self.number:05d}.ds"
        digest, blocks, largest, filler = hashlib.sha256(), [], -1, 0
        special = [i for i in (self.tokenizer.bos_id, self.tokenizer.eos_id) if i is not None]
        for data in self.file.blocks(first, stop, BLOCK_BYTES):
            digest.update(data)
            blocks.append(hashlib.sha256(data).digest())
            numbers = np.frombuffer(data, self.file.numbers)
            largest = max(largest, int(numbers.max()))
            filler += sum(int(np.count_nonzero(numbers == token)) for token in special)
            smallest = int(numbers.min())
            if smallest < 0 or largest >= self.tokenizer.vocab_size:
                raise self._out_of_range(smallest if smallest < 0 else largest)
        prefix = id_line(f"{self.name}:")[: -len(b'"\n')]
        beside = DocumentFiles(base)
        for at in range(0, len(inside), RUN):
            part = inside[at : at + RUN]
            lines = [b'%b%d"\n' % (prefix, number_before + at + 1 + row) for row in range(len(part))]
            beside.add(lines, part - first, self._hashes(int(inside[at - 1]) if at else first, part))
        beside.close()
        shard = finished_shard(
            base, tokens=stop - first, documents=len(inside), text_bytes=0, sha256=digest.hexdigest(), blocks=blocks
        )
        return Split(
            documents=len(inside),
            tokens=stop - first,
            text_bytes=0,
            max_token=largest,
            filler=filler,
            dropped={},
            shards=(shard,),
        )

    def _hashes(self, first: int, ends: NDArray[np.int64]) -> NDArray[np.uint64]:
        """The hash of each document, of which the first begins at token `first`, without its BOS and EOS."""
        file = self.file
        tokens: NDArray[Any] = np.memmap(file.path, file.numbers, "r", file.offset, (file.tokens,)).view(np.ndarray)
        hashes = np.empty(len(ends), np.uint64)
        for number, stop in enumerate(ends.tolist()):
            begin, end = first, stop
            begin += int(tokens[begin] == self.tokenizer.bos_id)
            end -= int(end > begin and tokens[end - 1] == self.tokenizer.eos_id)
            cuts = range(begin, end, BLOCK_BYTES)  # a file without separators is one document of any length
            hashes[number] = token_hash(*(tokens[cut : min(cut + BLOCK_BYTES, end)] for cut in cuts))
            first = stop
        return hashes

    def _out_of_range(self, token: int) -> DataError:
        guessed = f"; that they are {self.file.dtype} was guessed (`dtype`)" if self.file.guessed else ""
        return DataError(
            f"`{self.file.path}` holds the token {token:,}, but the tokenizer `{self.request.tokenizer_name}` has "
            f"{self.tokenizer.vocab_size:,} ids{guessed}",
            hint=f"`curriculum inspect {shlex.quote(str(self.file.path))}` shows what it is; the text must be "
            "of the curriculum's own tokenizer",
        )

    def _check_tokenizer(self, ends: NDArray[np.int64]) -> None:
        """Refuse tokens of another tokenizer: of their text, encoded again, less than LEAST_AGREEMENT is the same."""
        share = agreement(self.file, ends, self.tokenizer)
        if share is not None and share < LEAST_AGREEMENT:
            raise DataError(
                f"`{self.file.path}` was made with another tokenizer than `{self.request.tokenizer_name}`: of its "
                f"text, encoded again, {share:.0%} of the tokens agree",
                hint=f"`curriculum inspect {shlex.quote(str(self.file.path))} "
                f"--tokenizer {self.request.tokenizer_name}` shows some",
            )


def _document_end_near(ends: NDArray[np.int64], file_range: FileRange) -> int:
    """The document end nearest to where the held-out range begins; that position itself where none is near."""
    target = file_range.held_out_from
    if target in (0, file_range.text):
        return target
    inside = ends[(ends > 0) & (ends < file_range.text)]
    near = inside[np.abs(inside - target) <= max(1, file_range.text - target) // 2]
    return int(near[np.argmin(np.abs(near - target))]) if len(near) else target
