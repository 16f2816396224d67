"""Tokenising a dataset into shards, and training a tokenizer: the `prepare` and `tokenizer` jobs.

    files ── Corpus ──> documents ── Chosen ──> those kept ── ShardWriter ──> one task's shards

Each task is one datatrove pipeline and makes one shard a split. Everything is made in `<output>.partial/`:

    work.json                 what is being prepared; work on anything else is thrown away
    completions/00000         datatrove's mark: this task is finished and never done again
    tasks/00000/              its files and task.json; a folder without its mark is begun anew
    data/                     all of it together, manifest last; renamed to `<output>` in one step

so a run killed at any moment goes on where it was, and ends in the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.executor.base import PipelineExecutor

from curriculum import durable
from curriculum.errors import DataError
from curriculum.shards.format import (
    BLOCK_BYTES,
    HELD_OUT,
    LEAST_HELD_OUT_WINDOWS,
    MANIFEST,
    TRAIN,
    Earlier,
    Manifest,
    PrepareRequest,
    Shard,
    Split,
    dtype_for,
    windows_in,
)
from curriculum.shards.provenance import SourceFile, provenance
from curriculum.tokenizer import Tokenizer
from runner import appending
from runner.extract import chinese_docstrings
from runner.readers import Chosen, Corpus, Tally, is_remote, list_sources, log_to, of_split
from runner.shardwriter import HASHES, RECORD, Meter, ShardWriter, Stopped
from runner.vocabulary import END_OF_TEXT, train_tokenizer

__all__ = ["prepare", "train_tokenizer"]


def prepare(request: PrepareRequest) -> None:
    """Make `request.output`, or return at once when it is there. Busy when another process is making it.

    With `append`: read the files that are new, and add their shards. DataError for text or a tokenizer that cannot
    be read, for a held-out split of under 64 windows, and where files already read have changed.
    """
    output = Path(request.output)
    partial = output.with_name(f"{output.name}.partial")
    if (output / MANIFEST).exists():
        durable.settle(output)
    if request.append or not (output / MANIFEST).exists():
        durable.make_directory(partial)
        with (
            durable.Lock(partial / "lock", f"preparing `{request.dataset}`"),
            log_to(Path(request.progress).with_name("datatrove.log")),
        ):
            if (output / MANIFEST).exists():
                if request.append:
                    _Preparation(request, partial, Manifest.load(output)).run(output)
            else:
                _Preparation(request, partial).run(output)
    shutil.rmtree(partial, ignore_errors=True)


class _Preparation:
    """One request being carried out in its partial folder."""

    def __init__(self, request: PrepareRequest, partial: Path, before: Manifest | None = None) -> None:
        self.request = request
        self.partial = partial
        self.before = before
        self.tokenizer = Tokenizer.load(request.tokenizer_file)
        for wanted, mark, known in (
            (request.bos, "BOS", self.tokenizer.bos_id),
            (request.eos, "EOS", self.tokenizer.eos_id),
        ):
            if wanted and known is None:
                raise DataError(
                    f"the tokenizer `{request.tokenizer_file}` has no {mark} token under a name known here",
                    hint=f"switch it off for `{request.dataset}`, or use a tokenizer with `{END_OF_TEXT}`",
                )
        self.stop = threading.Event()

    def run(self, output: Path) -> None:
        request = self.request
        files, origin = self._begin()
        listed = files
        if self.before is not None:
            files = appending.new_files(request, output, self.before, files)
            if not files:
                return
        train, held_out = files, list[SourceFile]()
        if request.held_out_split is not None:
            train, held_out = of_split(files, request.held_out_split)
        if request.extract is not None:
            train = [self._extracted(train)]
        # The last line of an earlier preparation would say that this one is done.
        Path(request.progress).unlink(missing_ok=True)
        meter = Meter(Path(request.progress), _total_bytes([*train, *held_out]))
        self._run_tasks(train, held_out, meter)
        records = [self._record(rank) for rank in range(request.tasks)]
        names = [TRAIN] if request.held_out is None else [TRAIN, HELD_OUT]
        first = len(self.before.states) * request.tasks if self.before else 0
        splits: dict[str, Split] = {
            name: _merged([record["splits"][name] for record in records], first) for name in names
        }
        earlier: tuple[Earlier, ...] = ()
        if self.before is None:
            self._check(splits, records)
        else:
            earlier = self.before.states
            splits = {name: appending.joined(self.before.splits[name], splits[name]) for name in names}
        manifest = Manifest(
            dataset=request.dataset,
            tokenizer_digest=self.tokenizer.digest,
            tokenizer_name=request.tokenizer_name,
            vocab_size=self.tokenizer.vocab_size,
            bos=self.tokenizer.bos_id if request.bos else None,
            eos=self.tokenizer.eos_id if request.eos else None,
            dtype=dtype_for(self.tokenizer.vocab_size),
            block_bytes=BLOCK_BYTES,
            recipe=request.recipe(),
            recipe_digest=request.recipe_digest(),
            provenance={
                **origin,
                "files": len(listed),
                "bytes": _known_bytes(listed),
                "digest": _listing(listed),
            },
            splits=splits,
            earlier=earlier,
        )
        read = {file.name: [file.bytes, file.sha256] for file in files}
        self._assemble(manifest, output, read)
        meter.finish(splits.values(), sum(record["bytes"] for record in records))

    def _begin(self) -> tuple[list[SourceFile], dict[str, Any]]:
        """The files and their origin; what the partial folder holds of another recipe or tokenizer goes."""
        request, path = self.request, self.partial / "work.json"
        before = json.loads(path.read_bytes()) if path.exists() else None
        if before and is_remote(request.read) and before["recipe"] == request.recipe():
            # A remote listing is fetched once: its commit must not move between two attempts.
            files, learnt = [SourceFile(**file) for file in before["files"]], before["learnt"]
        else:
            files, learnt = list_sources(request.read, request.root)
        origin = {**provenance(request.read), **learnt}
        work = {
            "recipe": request.recipe(),
            "tokenizer": self.tokenizer.digest,
            "files": [asdict(file) for file in files],
            "learnt": learnt,
            "appends": self.before.digest if self.before else None,
        }
        same = ("recipe", "tokenizer", "appends")
        if before is not None and any(before.get(key) != work[key] for key in same):
            self._forget()
        durable.write_json(path, work, replace=True)
        return files, origin

    def _forget(self) -> None:
        for name in ("completions", "tasks", "data"):
            shutil.rmtree(self.partial / name, ignore_errors=True)

    def _extracted(self, files: Sequence[SourceFile]) -> SourceFile:
        """One JSON-lines file of what `extract` takes out of `files`, dealt to the tasks by row."""
        if self.request.extract != "chinese-docstrings":
            raise DataError(
                f"`extract` of `{self.request.dataset}` is `{self.request.extract}`",
                hint="there is one: chinese-docstrings",
            )
        path = self.partial / f"extracted-{_listing(files)[:12]}.jsonl"
        if not path.exists():
            rows = ({"id": name, "text": text} for name, text in chinese_docstrings(files))
            durable.write_bytes(path, b"".join(durable.canonical_json(row) + b"\n" for row in rows))
        return SourceFile("extracted.jsonl", str(path), path.stat().st_size, durable.sha256_file(path))

    def _run_tasks(self, train: Sequence[SourceFile], held_out: Sequence[SourceFile], meter: Meter) -> None:
        """Run every task not marked as finished, `workers` at a time; the first failure stops the others."""
        request = self.request
        step = 1 if request.extract is not None else request.tasks
        inputs = [
            _listing([*train[rank % step :: step], *held_out[rank % step :: step]])
            for rank in range(request.tasks)
        ]
        executors = [
            self._executor(rank, train, held_out, meter, inputs[rank]) for rank in range(request.tasks)
        ]
        self._forget_stale(executors, inputs)
        pending = [one for one in executors if not one.is_rank_completed(one.rank)]
        for one in executors:
            if one not in pending:
                meter.task_done(one.rank, self._record(one.rank))
        if not pending:
            return
        with (
            _tokenizer_threads(request.workers, inside=len(pending) < request.workers),
            ThreadPoolExecutor(min(request.workers, len(pending))) as pool,
        ):
            futures = [pool.submit(one.run) for one in pending]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
            finally:
                self.stop.set()
                for future in futures:
                    future.cancel()
        failures = [future.exception() for future in futures if not future.cancelled()]
        for failure in sorted(filter(None, failures), key=lambda one: isinstance(one, Stopped)):
            raise failure

    def _forget_stale(self, executors: Sequence[_TaskExecutor], inputs: Sequence[str]) -> None:
        """Unmark the finished tasks whose files are no longer the ones they read."""
        done = [one.rank for one in executors if one.is_rank_completed(one.rank)]
        stale = [rank for rank in done if self._record(rank)["inputs"] != inputs[rank]]
        if stale and (self.partial / "data").exists():
            self._forget()  # their shards are already among the others'
        for rank in stale:
            (self.partial / "completions" / f"{rank:05d}").unlink(missing_ok=True)

    def _executor(
        self,
        rank: int,
        train: Sequence[SourceFile],
        held_out: Sequence[SourceFile],
        meter: Meter,
        inputs: str,
    ) -> _TaskExecutor:
        request, tally = self.request, Tally()
        extracted = request.extract is not None
        pipeline: list[Any] = [
            Corpus(
                train,
                held_out,
                text="text" if extracted else request.text,
                id="id" if extracted else request.id,
                columns=[*request.drop, *request.keep],
                by_rows=extracted,
                tally=tally,
            )
        ]
        if request.drop or request.keep:
            pipeline.append(Chosen(request.drop, request.keep, tally))
        pipeline.append(
            ShardWriter(request, self._task(rank), inputs, tally=tally, meter=meter, stop=self.stop)
        )
        return _TaskExecutor(pipeline, rank=rank, tasks=request.tasks, folder=self.partial)

    def _task(self, rank: int) -> Path:
        return self.partial / "tasks" / f"{rank:05d}"

    def _record(self, rank: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self._task(rank) / RECORD).read_bytes())
        return record

    def _check(self, splits: Mapping[str, Split], records: Sequence[Mapping[str, Any]]) -> None:
        request, train = self.request, splits[TRAIN]
        if not train.tokens:
            columns = sorted({column for record in records for column in record["columns"]})
            reasons = ", ".join(f"{count} for {reason}" for reason, count in sorted(train.dropped.items()))
            raise DataError(
                f"`{request.dataset}` has no document to train on; left out: {reasons or 'none'}",
                hint=f"the columns are: {', '.join(columns)}; `text:` names the one to read"
                if columns
                else "see `files`, `exclude`, `keep` and `drop`",
            )
        if request.held_out is None:
            return
        windows = splits[HELD_OUT].windows(request.sequence_length)
        if windows >= LEAST_HELD_OUT_WINDOWS:
            return
        if request.held_out_share is None:
            hint = "hold out a share of the documents instead (`held_out: 5%`)"
        else:
            share = self._share_that_would_do(records)
            hint = "there is too little text for sequences of this length; add documents or shorten them"
            if share < 1:
                hint = f"`held_out: {float(share * 100):g}%` would do"
        shutil.rmtree(self.partial)  # another share is another recipe, in another folder
        raise DataError(
            f"the held-out split of `{request.dataset}` has {windows} windows of "
            f"{request.sequence_length} tokens; {LEAST_HELD_OUT_WINDOWS} are the least",
            hint=hint,
        )

    def _share_that_would_do(self, records: Sequence[Mapping[str, Any]]) -> Fraction:
        """The least share, in tenths of a percent, that holds out windows enough; 1 when none does."""
        length = self.request.sequence_length
        held_out = [record["splits"][HELD_OUT]["tokens"] for record in records]
        candidates: list[tuple[int, int, int]] = []
        for rank, record in enumerate(records):
            hashes = np.fromfile(self._task(rank) / HASHES, np.uint64)
            for shard in record["splits"][TRAIN]["shards"]:
                ends = np.fromfile(self._task(rank) / f"{shard['file']}.index", "<u8").astype(np.int64)
                tokens = np.diff(ends, prepend=0)
                candidates += zip(hashes.tolist(), tokens.tolist(), [rank] * len(tokens), strict=True)
        windows = sum(windows_in(tokens, length) for tokens in held_out)
        for number, more, rank in sorted(candidates):
            windows -= windows_in(held_out[rank], length)
            held_out[rank] += more
            windows += windows_in(held_out[rank], length)
            if windows >= LEAST_HELD_OUT_WINDOWS:
                return Fraction(-(-(number + 1) * 1000 // 2**64), 1000)
        return Fraction(1)

    def _assemble(self, manifest: Manifest, output: Path, read: Mapping[str, Any]) -> None:
        """Bring the tasks' files together and give the folder its name; may be begun again at any point."""
        appends = self.before is not None
        data = output if appends else self.partial / "data"
        first = len(manifest.earlier) * self.request.tasks
        for name in manifest.splits:
            durable.make_directory(data / name)
            for rank in range(self.request.tasks):
                made = self._task(rank) / name
                for path in sorted(made.iterdir()) if made.exists() else []:
                    os.rename(path, data / name / appending.numbered(path.name, first))
            durable.sync_directory(data / name)
        assert all(
            (data / shard.file).exists() for split in manifest.splits.values() for shard in split.shards
        )
        durable.write_json(data / f"files-{len(manifest.earlier)}.json", read, replace=True)
        # From here on the appended shards belong to the folder: until then no one looks at them.
        durable.write_json(data / MANIFEST, manifest.to_json(), replace=True)
        if not appends:
            durable.publish(data, output)


class _TaskExecutor(PipelineExecutor):  # type: ignore[misc]
    """datatrove's executor for one task in this thread: its marks of completion, nothing on the terminal."""

    def __init__(self, pipeline: list[Any], *, rank: int, tasks: int, folder: Path) -> None:
        super().__init__(pipeline, str(folder))
        self.rank = rank
        self.tasks = tasks

    @property
    def world_size(self) -> int:
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> dict[str, str]:
        return {}

    def run(self) -> None:
        documents: Any = None
        for step in self.pipeline:
            documents = step(documents, self.rank, self.tasks)
        self.mark_rank_as_completed(self.rank)


def _merged(parts: Sequence[Mapping[str, Any]], first: int) -> Split:
    """The tasks' records of one split as one, whose shards are numbered from `first`."""
    dropped: Counter[str] = Counter()
    for part in parts:
        dropped.update(part["dropped"])
    return Split(
        documents=sum(part["documents"] for part in parts),
        tokens=sum(part["tokens"] for part in parts),
        text_bytes=sum(part["text_bytes"] for part in parts),
        max_token=max(part["max_token"] for part in parts),
        filler=sum(part["filler"] for part in parts),
        dropped=dict(sorted(dropped.items())),
        shards=tuple(
            Shard(**{**shard, "file": appending.renumbered(shard["file"], first)})
            for part in parts
            for shard in part["shards"]
        ),
    )


def _listing(files: Sequence[SourceFile]) -> str:
    """The identity of a list of files: names, sizes and, where a package's record gives them, digests."""
    return durable.digest([[file.name, file.bytes, file.sha256] for file in files])


def _known_bytes(files: Sequence[SourceFile]) -> int | None:
    sizes = [file.bytes for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _total_bytes(files: Sequence[SourceFile]) -> int | None:
    """What `Tally.bytes` will come to, where known: packed files and Parquet hide how much they hold."""
    packed = any(file.name.endswith((".gz", ".zst", ".parquet")) for file in files)
    return None if packed else _known_bytes(files)


@contextmanager
def _tokenizer_threads(workers: int, *, inside: bool) -> Iterator[None]:
    """Let the tokenizers library use `workers` threads of its own (`inside`), or leave them to the tasks."""
    wanted = {"TOKENIZERS_PARALLELISM": "true" if inside else "false", "RAYON_NUM_THREADS": str(workers)}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
