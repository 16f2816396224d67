"""Digesting token files that others made, so that they are trained from where they lie: `read: {tokenised: …}`.

    files ── stretches ──> one task a file ──> index, ids, digests in our folder; the tokens stay where they are

Each file is read once. Made in `<output>.partial/` like any preparation: a file that is done is not read again
unless it changed, and killed at any moment the work goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from array import array
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum import fs
from curriculum.data.listing import SourceFile
from curriculum.data.manifest import BLOCK_BYTES, HELD_OUT, TRAIN, Shard, Split, SplitName, TokenLocation
from curriculum.data.requests import PrepareRequest
from curriculum.data.shard import id_line
from curriculum.data.token_files import TokenFile, agreement, open_token_file
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError
from runner.prepare.shard_writer import RECORD, Meter, Stopped

# A held-out stretch is at least so long, or a whole file, or all that is owed: windows are to fit into it.
RANGE_TOKENS = 1 << 17
LEAST_AGREEMENT = 0.5


@dataclass(frozen=True, slots=True)
class FileRange:
    """Of a file's first `text` tokens (filler follows), those from about `held_out_from` on are held out."""

    text: int
    held_out_from: int


def open_files(request: PrepareRequest, files: Sequence[SourceFile]) -> list[TokenFile]:
    """Every file recognised, all of one width; DataError otherwise."""
    opened = [
        open_token_file(Path(file.path), request.read.get("format"), request.read.get("dtype"))
        for file in files
    ]
    widths = {file.dtype: file.path for file in opened}
    if len(widths) > 1:
        named = "; ".join(f"`{path}` {dtype}" for dtype, path in sorted(widths.items()))
        raise DataError(
            f"the token files of `{request.dataset}` are of several widths: {named}",
            hint="make each a source of its own with `files`, or say `dtype` where it was guessed wrong",
        )
    return opened


def file_ranges(
    train: Sequence[TokenFile], held_out: Sequence[TokenFile], share: Fraction | None, eos: int | None
) -> list[FileRange]:
    """What of each file is text and what is held out, `train` files first.

    A share is taken from the files' ends in turn: as soon as it comes to a whole file or to `STRETCH` tokens,
    what is owed then by the largest. Nothing but the files' order and lengths decides.
    """
    texts = [file.filler_from(eos) for file in train]
    taken, owed = [0] * len(train), Fraction(0)
    for number, text in enumerate(texts):
        owed += (share or 0) * text
        if owed >= min(text, RANGE_TOKENS):
            taken[number] = min(text, int(owed))
            owed -= taken[number]
    largest = max(range(len(train)), key=lambda number: texts[number] - taken[number])
    taken[largest] = min(texts[largest], taken[largest] + int(owed))
    made = [FileRange(text, text - take) for text, take in zip(texts, taken, strict=True)]
    return made + [FileRange(file.filler_from(eos), 0) for file in held_out]


def index_in_place(
    request: PrepareRequest,
    files: Sequence[SourceFile],
    opened: Sequence[TokenFile],
    cuts: Sequence[FileRange],
    tokenizer: Tokenizer,
    partial: Path,
    meter: Meter,
    stop: threading.Event,
) -> list[dict[str, Any]]:
    """Digest every file that is not yet done, `workers` at a time; their records in the files' order."""

    def one(number: int) -> dict[str, Any]:
        folder = partial / "tasks" / f"{number:05d}"
        state = os.stat(opened[number].path)
        inputs = fs.digest(
            [
                files[number].name,
                str(opened[number].path),
                state.st_size,
                state.st_mtime_ns,
                asdict(cuts[number]),
            ]
        )
        if (folder / RECORD).exists():
            record: dict[str, Any] = json.loads((folder / RECORD).read_bytes())
            if record["inputs"] == inputs:
                meter.task_done(number, record)
                return record
        if stop.is_set():
            raise Stopped
        return _InPlaceIndex(request, files[number].name, opened[number], tokenizer, folder, number).digest(
            cuts[number], inputs, meter, stop
        )

    with ThreadPoolExecutor(min(request.workers, len(files))) as pool:
        futures = [pool.submit(one, number) for number in range(len(files))]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            stop.set()
            for future in futures:
                future.cancel()
    failures = [future.exception() for future in futures if not future.cancelled()]
    for failure in sorted(filter(None, failures), key=lambda each: isinstance(each, Stopped)):
        raise failure
    return [future.result() for future in futures]


class _InPlaceIndex:
    """One file being digested into its task's folder."""

    def __init__(
        self,
        request: PrepareRequest,
        name: str,
        file: TokenFile,
        tokenizer: Tokenizer,
        folder: Path,
        number: int,
    ) -> None:
        self.request = request
        self.name = name
        self.file = file
        self.tokenizer = tokenizer
        self.folder = folder
        self.number = number

    def digest(self, cut: FileRange, inputs: str, meter: Meter, stop: threading.Event) -> dict[str, Any]:
        fs.make_directory(self.folder)
        ends = self._ends(cut.text, stop)
        border = _at_a_document(ends, cut)
        self._read_again(ends)
        splits: dict[str, Any] = {}
        elsewhere: dict[str, Any] = {}
        for split, first, stop_at in ((TRAIN, 0, border), (HELD_OUT, border, cut.text)):
            made = self._part(split, first, stop_at, ends)
            splits[split] = asdict(made)
            for shard in made.shards:
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
            "filler": self.file.tokens - cut.text,
            "bytes": self.file.size,
        }
        fs.write_json(self.folder / RECORD, record, replace=True)
        meter.task_done(self.number, record)
        return record

    def _ends(self, text: int, stop: threading.Event) -> NDArray[np.int64]:
        """Where documents end: as the index says, else after every EOS (or before every BOS), else nowhere."""
        stated = self.file.stated_ends()
        if stated is None:
            mark = self.tokenizer.eos_id if self.request.eos else None
            mark = self.tokenizer.bos_id if mark is None and self.request.bos else mark
            after = 1 if self.request.eos else 0
            found = [np.zeros(0, np.int64)]
            if mark is not None:
                for first in range(0, text, BLOCK_BYTES):
                    if stop.is_set():
                        raise Stopped
                    here = self.file.read(first, min(BLOCK_BYTES, text - first))
                    found.append(np.flatnonzero(here == mark) + first + after)
            stated = np.concatenate(found)
        ends = np.unique(stated[(stated > 0) & (stated < text)])
        return np.append(ends, text) if text else ends

    def _part(self, split: SplitName, first: int, stop: int, ends: NDArray[np.int64]) -> Split:
        if first == stop:
            return Split(documents=0, tokens=0, text_bytes=0, max_token=-1, filler=0, dropped={}, shards=())
        inside = ends[(ends > first) & (ends <= stop)]
        if not len(inside) or inside[-1] != stop:
            inside = np.append(inside, stop)
        number_before = int(np.searchsorted(ends, first, side="right"))
        fs.make_directory(self.folder / split)
        base = self.folder / split / f"{self.number:05d}.ds"
        whole, blocks, largest, marks = hashlib.sha256(), [], -1, 0
        known = [i for i in (self.tokenizer.bos_id, self.tokenizer.eos_id) if i is not None]
        for data in self.file.blocks(first, stop, BLOCK_BYTES):
            whole.update(data)
            blocks.append(hashlib.sha256(data).digest())
            numbers = np.frombuffer(data, self.file.numbers)
            largest = max(largest, int(numbers.max()))
            marks += sum(int(np.count_nonzero(numbers == mark)) for mark in known)
            if int(numbers.min()) < 0 or largest >= self.tokenizer.vocab_size:
                raise self._impossible(largest if largest >= 0 else int(numbers.min()))
        id_ends = array("Q")
        with base.with_suffix(".ids").open("wb") as ids:
            for at in range(len(inside)):
                ids.write(id_line(f"{self.name}:{number_before + at + 1}"))
                id_ends.append(ids.tell())
        base.with_suffix(".ids.index").write_bytes(np.array(id_ends, "<u8").tobytes())
        base.with_suffix(".ds.index").write_bytes((inside - first).astype("<u8").tobytes())
        digests = b"".join(blocks)
        base.with_suffix(".ds.blocks").write_bytes(digests)
        shard = Shard(
            file=f"{split}/{base.name}",
            tokens=stop - first,
            documents=len(inside),
            text_bytes=0,
            sha256=whole.hexdigest(),
            blocks_sha256=hashlib.sha256(digests).hexdigest(),
            index_sha256=fs.sha256_file(base.with_suffix(".ds.index")),
            ids_sha256=fs.sha256_file(base.with_suffix(".ids")),
            ids_index_sha256=fs.sha256_file(base.with_suffix(".ids.index")),
        )
        return Split(
            documents=len(inside),
            tokens=stop - first,
            text_bytes=0,
            max_token=largest,
            filler=marks,
            dropped={},
            shards=(shard,),
        )

    def _impossible(self, token: int) -> DataError:
        guessed = f"; that they are {self.file.dtype} was guessed (`dtype`)" if self.file.guessed else ""
        return DataError(
            f"`{self.file.path}` holds the token {token:,}, but the tokenizer `{self.request.tokenizer_name}` has "
            f"{self.tokenizer.vocab_size:,} ids{guessed}",
            hint=f"`curriculum inspect {self.file.path}` shows what it is; the text must be of the curriculum's "
            "own tokenizer",
        )

    def _read_again(self, ends: NDArray[np.int64]) -> None:
        """Refuse tokens that are plainly of another tokenizer: decoded and encoded again, most come out otherwise."""
        found = agreement(self.file, ends, self.tokenizer)
        if found is not None and found < LEAST_AGREEMENT:
            raise DataError(
                f"`{self.file.path}` was made with another tokenizer than `{self.request.tokenizer_name}`: of its "
                f"text, encoded again, {found:.0%} of the tokens agree",
                hint=f"`curriculum inspect {self.file.path} --tokenizer {self.request.tokenizer_name}` shows some",
            )


def _at_a_document(ends: NDArray[np.int64], cut: FileRange) -> int:
    """The document's end next to where holding out begins; that place itself where no document ends near."""
    wanted = cut.held_out_from
    if wanted in (0, cut.text):
        return wanted
    inside = ends[(ends > 0) & (ends < cut.text)]
    near = inside[np.abs(inside - wanted) <= max(1, cut.text - wanted) // 2]
    return int(near[np.argmin(np.abs(near - wanted))]) if len(near) else wanted
