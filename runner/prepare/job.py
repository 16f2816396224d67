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
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import asdict
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.data.listing import SourceFile, kind_of
from curriculum.data.manifest import (
    BLOCK_BYTES,
    HELD_OUT,
    MANIFEST,
    TRAIN,
    FolderState,
    Manifest,
    Shard,
    SpecialTokens,
    Split,
    TokenizerRecord,
    TokenLocation,
    dtype_for,
)
from curriculum.data.provenance import provenance
from curriculum.data.requests import PrepareRequest
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import Busy, DataError
from runner.prepare import append, checks, filters, in_place
from runner.prepare.executor import TaskExecutor, tokenizer_threads
from runner.prepare.extract import chinese_docstrings
from runner.prepare.readers import Chosen, Corpus, Tally, is_remote, list_sources, log_to, of_split
from runner.prepare.shard_writer import RECORD, Meter, ShardWriter, Stop, Stopped
from runner.prepare.tokenizer import END_OF_TEXT, train_tokenizer

# A helper waits so long for another one that lists the files: a bucket of a hundred thousand takes minutes.
LISTING_SECONDS = 3600.0

__all__ = ["Stopped", "help_to_prepare", "prepare", "train_tokenizer"]


def prepare(request: PrepareRequest, asked: Callable[[], bool] = lambda: False) -> None:
    """Make `request.output`, or return at once when it is there. Busy when another process is making it.

    Stopped, soon after `asked` says so; what is finished is kept.

    With `append`: read the files that are new, and add their shards. DataError for text or a tokenizer that cannot
    be read, for a held-out split of under 64 windows, and where files already read have changed.
    """
    output = Path(request.output)
    partial = output.with_name(f"{output.name}.partial")
    if (output / MANIFEST).exists():
        fs.make_durable(output)
    if request.append or not (output / MANIFEST).exists():
        fs.make_directory(partial)
        with (
            fs.Lock(partial / "lock", f"preparing `{request.dataset}`"),
            log_to(Path(request.progress).with_name("datatrove.log")),
        ):
            if (output / MANIFEST).exists():
                if request.append:
                    _Preparation(request, partial, asked, Manifest.load(output)).run(output)
            else:
                _Preparation(request, partial, asked).run(output)
    shutil.rmtree(partial, ignore_errors=True)


def help_to_prepare(request: PrepareRequest, asked: Callable[[], bool] = lambda: False) -> None:
    """Do tasks of `request` that nobody does, one after the other, until none is left; `prepare` then ends it.

    Any number of processes, on any machines that share the folder, may do so at once: whoever holds a task's lock
    does it, and a lock dies with its holder.
    """
    output = Path(request.output)
    partial = output.with_name(f"{output.name}.partial")
    if not (output / MANIFEST).exists():
        fs.make_directory(partial)
        with log_to(Path(request.progress).with_name(f"datatrove-{socket.gethostname()}-{os.getpid()}.log")):
            _Preparation(request, partial, asked).help()


class _Preparation:
    """One request being carried out in its partial folder."""

    def __init__(
        self,
        request: PrepareRequest,
        partial: Path,
        asked: Callable[[], bool],
        before: Manifest | None = None,
    ) -> None:
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
        self.stop = Stop(asked)
        self.tasks = request.tasks
        self.dtype = dtype_for(self.tokenizer.vocab_size)
        self.in_place = kind_of(request.read) == "tokenised"

    def run(self, output: Path) -> None:
        request = self.request
        files, origin = self._begin()
        listed = files
        if self.before is not None and self.in_place:
            raise DataError(
                f"nothing is appended to `{request.dataset}`, whose tokens are read in place",
                hint="name the new files as a source of their own in sources.yaml",
            )
        if self.before is not None:
            files = append.new_files(request, output, self.before, files)
            if not files:
                return
        train, held_out = self._sides(files)
        # The last line of an earlier preparation would say that this one is done.
        Path(request.progress).unlink(missing_ok=True)
        meter = Meter(Path(request.progress), _total_bytes([*train, *held_out]))
        records = self._adopted(train, held_out, meter) if self.in_place else []
        if not self.in_place:
            self._run_tasks(train, held_out, meter)
            records = [self._record(rank) for rank in range(self.tasks)]
        names = [TRAIN] if request.held_out is None else [TRAIN, HELD_OUT]
        first = len(self.before.states) * request.tasks if self.before else 0
        splits: dict[str, Split] = {
            name: _merged([record["splits"][name] for record in records], first) for name in names
        }
        earlier: tuple[FolderState, ...] = ()
        if self.before is None:
            self._check(splits, records)
        else:
            earlier = self.before.states
            splits = {name: append.joined(self.before.splits[name], splits[name]) for name in names}
        manifest = Manifest(
            dataset=request.dataset,
            tokenizer=TokenizerRecord(
                digest=self.tokenizer.digest,
                name=request.tokenizer_name,
                vocab_size=self.tokenizer.vocab_size,
            ),
            policy=SpecialTokens(
                bos=self.tokenizer.bos_id if request.bos else None,
                eos=self.tokenizer.eos_id if request.eos else None,
            ),
            dtype=self.dtype,
            block_bytes=BLOCK_BYTES,
            recipe=request.recipe(),
            recipe_digest=request.recipe_digest(),
            provenance={
                **origin,
                "files": len(listed),
                "bytes": _known_bytes(listed),
                "digest": _listing(listed),
                **({"filler_cut_off": sum(r["filler"] for r in records)} if self.in_place else {}),
            },
            splits=splits,
            earlier=earlier,
            elsewhere={
                file: TokenLocation(**at)
                for record in records
                for file, at in record.get("elsewhere", {}).items()
            },
        )
        read = {file.name: [file.bytes, file.sha256] for file in files}
        self._assemble(manifest, output, read)
        meter.finish(splits.values(), sum(record["bytes"] for record in records), checks.unread(records))

    def help(self) -> None:
        begin = fs.Lock(self.partial / "begin.lock", f"listing the files of `{self.request.dataset}`")
        begin.acquire(wait_seconds=LISTING_SECONDS)
        with begin:
            files, _ = self._begin()
            train, held_out = self._sides(files)
            meter = Meter(Path(self.request.progress), _total_bytes([*train, *held_out]))
            pending = self._pending(train, held_out, meter)
        with tokenizer_threads(self.request.workers, inside=self.request.workers > 1):
            failed: list[DataError] = []
            for one in pending:
                try:
                    one.run()
                except Busy:
                    continue
                except DataError as error:  # the other tasks are done first
                    failed.append(error)
        if failed:
            raise failed[0]

    def _sides(self, files: list[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
        """The files to train on, and those of the corpus's own held-out split."""
        train, held_out = files, list[SourceFile]()
        if self.request.held_out_split is not None:
            train, held_out = of_split(files, self.request.held_out_split)
        if self.request.extract is not None:
            train = [self._extracted(train)]
        return train, held_out

    def _adopted(
        self, train: Sequence[SourceFile], held_out: Sequence[SourceFile], meter: Meter
    ) -> list[dict[str, Any]]:
        """Token files that others made, digested where they lie: one task, and one shard a split, for each."""
        files = [*train, *held_out]
        self.tasks = len(files)
        opened = in_place.open_files(self.request, files)
        self.dtype = opened[0].dtype
        cuts = in_place.file_ranges(
            opened[: len(train)], opened[len(train) :], self.request.held_out_share, self.tokenizer.eos_id
        )
        return in_place.index_in_place(
            self.request, files, opened, cuts, self.tokenizer, self.partial, meter, self.stop
        )

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
        fs.write_json(path, work, replace=True)
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
            fs.write_bytes(path, b"".join(fs.canonical_json(row) + b"\n" for row in rows))
        return SourceFile("extracted.jsonl", str(path), path.stat().st_size, fs.sha256_file(path))

    def _pending(
        self, train: Sequence[SourceFile], held_out: Sequence[SourceFile], meter: Meter
    ) -> list[TaskExecutor]:
        """The tasks not marked as finished."""
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
        return pending

    def _run_tasks(self, train: Sequence[SourceFile], held_out: Sequence[SourceFile], meter: Meter) -> None:
        """Run every task not marked as finished, `workers` at a time; the first failure stops the others."""
        pending, workers = self._pending(train, held_out, meter), self.request.workers
        if not pending:
            return
        with (
            tokenizer_threads(workers, inside=len(pending) < workers),
            ThreadPoolExecutor(min(workers, len(pending))) as pool,
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

    def _forget_stale(self, executors: Sequence[TaskExecutor], inputs: Sequence[str]) -> None:
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
    ) -> TaskExecutor:
        request, tally = self.request, Tally()
        extracted = request.extract is not None
        pipeline: list[Any] = [
            Corpus(
                train,
                held_out,
                text="text" if extracted else request.text,
                id="id" if extracted else request.id,
                columns=[*request.drop, *request.keep, *(["url"] if request.blocks else [])],
                by_rows=extracted,
                tally=tally,
            )
        ]
        if request.drop or request.keep:
            pipeline.append(Chosen(request.drop, request.keep, tally))
        pipeline += filters.built(request.blocks, tally)
        pipeline.append(
            ShardWriter(request, self._task(rank), inputs, tally=tally, meter=meter, stop=self.stop)
        )
        return TaskExecutor(pipeline, rank=rank, tasks=request.tasks, folder=self.partial)

    def _task(self, rank: int) -> Path:
        return self.partial / "tasks" / f"{rank:05d}"

    def _record(self, rank: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self._task(rank) / RECORD).read_bytes())
        return record

    def _check(self, splits: Mapping[str, Split], records: Sequence[Mapping[str, Any]]) -> None:
        checks.to_train_on(self.request, splits, records)
        try:
            checks.held_out(self.request, splits, records, self._task, self.in_place)
        except DataError:
            shutil.rmtree(self.partial)  # another share is another recipe, in another folder
            raise

    def _assemble(self, manifest: Manifest, output: Path, read: Mapping[str, Any]) -> None:
        """Bring the tasks' files together and give the folder its name; may be begun again at any point."""
        appends = self.before is not None
        data = output if appends else self.partial / "data"
        first = len(manifest.earlier) * self.request.tasks
        for name in manifest.splits:
            fs.make_directory(data / name)
            for rank in range(self.tasks):
                made = self._task(rank) / name
                for path in sorted(made.iterdir()) if made.exists() else []:
                    os.rename(path, data / name / append.numbered(path.name, first))
            fs.fsync(data / name)
        assert all(
            (data / f"{shard.file}.index").exists()
            for split in manifest.splits.values()
            for shard in split.shards
        )
        fs.write_json(data / f"files-{len(manifest.earlier)}.json", read, replace=True)
        # From here on the appended shards belong to the folder: until then no one looks at them.
        fs.write_json(data / MANIFEST, manifest.to_json(), replace=True)
        if not appends:
            fs.publish(data, output)


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
            Shard(**{**shard, "file": append.renumbered(shard["file"], first)})
            for part in parts
            for shard in part["shards"]
        ),
    )


def _listing(files: Sequence[SourceFile]) -> str:
    """The identity of a list of files: names, sizes and, where a package's record gives them, digests."""
    return fs.digest([[file.name, file.bytes, file.sha256] for file in files])


def _known_bytes(files: Sequence[SourceFile]) -> int | None:
    sizes = [file.bytes for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _total_bytes(files: Sequence[SourceFile]) -> int | None:
    """What `Tally.bytes` will come to, where known: packed files and Parquet hide how much they hold."""
    packed = any(file.name.endswith((".gz", ".zst", ".parquet")) for file in files)
    return None if packed else _known_bytes(files)
