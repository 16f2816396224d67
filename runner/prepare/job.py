"""Tokenising a dataset into shards, and training a tokenizer: the `prepare` and `tokenizer` jobs.

    files ── Corpus ──> batches of documents ── datatrove's blocks ──> batches ── ShardWriter ──> one task's shards

Each task makes one shard a split. Everything is made in `<output>.partial/`:

    work.json                 what is being prepared; tasks of anything else are deleted
    encoder.json              which encoder makes the ids, the same for all tasks
    completions/00000         the mark that this task is finished; it is never run again
    tasks/00000/              its files and task.json; without its mark a task starts again
    data/                     all of it together, manifest last; renamed to `<output>` in one step

so a job killed at any moment resumes where it was, and ends in the same bytes.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.data import listing
from curriculum.data.changes import file_record
from curriculum.data.listing import SourceFile, kind_of
from curriculum.data.manifest import (
    BLOCK_BYTES,
    HELD_OUT,
    MANIFEST,
    TRAIN,
    Manifest,
    SpecialTokens,
    Split,
    TokenizerRecord,
    TokenLocation,
    dtype_for,
)
from curriculum.data.overlap import HASHES
from curriculum.data.provenance import provenance
from curriculum.data.requests import PrepareRequest
from curriculum.data.tokenizer import Tokenizer, check_special_tokens
from curriculum.errors import Busy, DataError
from runner.prepare import append, checks, in_place
from runner.prepare.corpus import Corpus
from runner.prepare.dataset_shards import DatasetShards
from runner.prepare.encoder import EncoderDiffers
from runner.prepare.encoder_choice import EncoderChoice, SourceEncoder
from runner.prepare.executor import Task, run_all, tokenizer_threads
from runner.prepare.extract import chinese_docstrings
from runner.prepare.lookups import merge_lookups
from runner.prepare.rate import write_rate
from runner.prepare.readers import at_source, check_columns, dataset_shards, is_remote, list_sources, of_split
from runner.prepare.shard_writer import RECORD, Meter, ShardWriter
from runner.prepare.tally import Tally, log_to
from runner.prepare.texts import Documents

# A helper's wait for another one that lists the files: a bucket of a hundred thousand takes minutes.
LISTING_SECONDS = 3600.0


def prepare(request: PrepareRequest) -> None:
    """Make `request.output`, or return at once when it exists. Busy when another process is making it.

    With `append`: read the new files, and add their shards. DataError for text or a tokenizer that cannot
    be read, for a held-out split of under 64 windows, and where files already read have changed.
    """
    output = Path(request.output)
    partial = output.with_name(f"{output.name}.partial")
    _load_blocks(request)
    if (output / MANIFEST).exists():
        fs.make_durable(output)
    if request.append or not (output / MANIFEST).exists():
        fs.make_directory(partial)
        with (
            fs.Lock(partial / "lock", f"preparing `{request.dataset}`"),
            log_to(Path(request.progress).with_name("datatrove.log")),
        ):
            existing = Manifest.load(output) if (output / MANIFEST).exists() else None
            if existing is None or request.append:
                Preparation(request, partial, existing).run(output)
    shutil.rmtree(partial, ignore_errors=True)


def help_to_prepare(request: PrepareRequest) -> None:
    """Run the tasks of `request` that no process runs, one after the other; `prepare` then finishes it.

    Any number of processes, on any machines that share the folder, may do so at once: the holder of a task's lock
    runs it, and a lock ends with its process.
    """
    output = Path(request.output)
    partial = output.with_name(f"{output.name}.partial")
    _load_blocks(request)
    if not (output / MANIFEST).exists():
        fs.make_directory(partial)
        with log_to(Path(request.progress).with_name(f"datatrove-{socket.gethostname()}-{os.getpid()}.log")):
            Preparation(request, partial).help()


def _load_blocks(request: PrepareRequest) -> None:
    """Import datatrove where its blocks are used, before the log is opened: its import resets the log."""
    if request.blocks:
        from runner.prepare import filters

        filters.build_blocks(request.blocks, Tally())


class Preparation:
    """The preparation of one request in its partial folder; `existing` is the manifest that is appended to."""

    def __init__(self, request: PrepareRequest, partial: Path, existing: Manifest | None = None) -> None:
        self.request = request
        self.partial = partial
        self.existing = existing
        self.tokenizer = Tokenizer.load(request.tokenizer_file)
        stated = {"bos": request.bos, "eos": request.eos}
        name = request.tokenizer_name or request.tokenizer_file
        check_special_tokens(request.dataset, stated, self.tokenizer.special_tokens, name)
        self.stop = threading.Event()
        self.threads = False
        self.shards: DatasetShards | None = None
        self.repeated_ids: dict[str, tuple[int, str]] = {}
        self.tasks = request.tasks
        self.dtype = dtype_for(self.tokenizer.vocab_size)
        self.in_place = kind_of(request.read) == "tokenised"
        self.encoder = SourceEncoder(
            Path(request.tokenizer_file),
            self.tokenizer,
            partial,
            Path(request.proofs) if request.proofs else None,
            existing.provenance if existing else None,
        )

    def run(self, output: Path) -> None:
        """Prepare the dataset as the folder `output`, or append to it the files that it does not hold yet."""
        request = self.request
        listed, origin = self.list_files()
        files = listed if self.existing is None else self._new_files(self.existing, listed, output)
        if self.existing is not None and not files:
            return
        read = {file.name: file_record(file) for file in files}
        train, held_out = self.by_split(files)
        # The last line of an earlier preparation would report this one as done.
        Path(request.progress).unlink(missing_ok=True)
        started: float | None = None
        meter = Meter(Path(request.progress), _known_bytes([*train, *held_out]))
        if self.in_place:
            records = self._index_in_place(train, held_out, meter)
        else:
            self.encoder.choice()  # its proof is not of this text
            if self.existing is None and not any((self.partial / "completions").glob("*")):
                started = time.process_time()
            choice = self._run_tasks(train, held_out, meter)
            records = [self._record(rank) for rank in range(self.tasks)]
            origin |= choice.record()
        for record in records:
            for name, digest in record.get("sums", {}).items():
                read[name].append(digest)
        splits = self._splits(records)
        self._assemble(self._manifest(listed, origin, records, splits), output, read)
        if started is not None:
            stored, total = sum(record["stored"] for record in records), _known_bytes(files)
            seconds = time.process_time() - started
            write_rate(
                request, self.tokenizer, choice.encoder, splits.values(), stored, total, seconds, output, whole=True
            )
        skipped = listing.other_endings(request.read, request.root)
        meter.finish(
            splits.values(),
            sum(record.get("stored", record["bytes"]) for record in records),
            unread=checks.unread(records),
            other_endings=skipped,
            repeated_ids=self.repeated_ids,
            fast_encoder_refused=origin.get("fast_encoder_refused", ""),
        )

    def _new_files(self, existing: Manifest, listed: list[SourceFile], output: Path) -> list[SourceFile]:
        """The listed files that the prepared folder does not hold; DataError where nothing can be appended."""
        if self.in_place:
            raise DataError(
                f"nothing is appended to `{self.request.dataset}`, whose tokens are read in place",
                hint="name the new files as a source of their own in sources.yaml",
            )
        return append.new_files(self.request, output, existing, listed)

    def _splits(self, records: list[dict[str, Any]]) -> dict[str, Split]:
        """The splits that the tasks wrote, behind those that are prepared already."""
        names = [TRAIN] if self.request.held_out is None else [TRAIN, HELD_OUT]
        first = len(self.existing.states) * self.request.tasks if self.existing else 0
        splits: dict[str, Split] = {
            name: append.merged(
                append.renumbered(fs.from_json(Split, record["splits"][name]), first) for record in records
            )
            for name in names
        }
        if self.existing is None:
            self._check(splits, records)
            return splits
        return {name: append.merged((self.existing.splits[name], splits[name])) for name in names}

    def _manifest(
        self,
        listed: list[SourceFile],
        origin: Mapping[str, Any],
        records: list[dict[str, Any]],
        splits: Mapping[str, Split],
    ) -> Manifest:
        request = self.request
        return Manifest(
            dataset=request.dataset,
            tokenizer=TokenizerRecord(
                digest=self.tokenizer.digest, name=request.tokenizer_name, vocab_size=self.tokenizer.vocab_size
            ),
            policy=SpecialTokens(
                bos=self.tokenizer.bos_id if request.bos else None, eos=self.tokenizer.eos_id if request.eos else None
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
            earlier=() if self.existing is None else self.existing.states,
            elsewhere={
                file: TokenLocation(**at) for record in records for file, at in record.get("elsewhere", {}).items()
            },
        )

    def help(self) -> None:
        """Do tasks of the preparation that another process runs, as one of a Slurm array."""
        begin = fs.Lock(self.partial / "begin.lock", f"listing the files of `{self.request.dataset}`")
        begin.acquire(wait_seconds=LISTING_SECONDS)
        with begin:
            files, _ = self.list_files()
            train, held_out = self.by_split(files)
            meter = Meter(Path(self.request.progress), _known_bytes([*train, *held_out]))
            choice = self.encoder.choice()
            pending = self._pending(train, held_out, meter, choice)
        failures: list[DataError] = []
        self.threads = self.request.workers > 1
        with tokenizer_threads(self.request.workers, inside=self.threads):
            for task in pending:
                try:
                    task.run()
                except Busy:
                    continue
                except EncoderDiffers as difference:  # `prepare` runs all tasks again that the fast encoder did
                    self.encoder.fall_back(str(difference))
                    break
                except DataError as error:  # the other tasks run first
                    failures.append(error)
        if failures:
            raise failures[0]
        if self.encoder.choice() != choice:
            self.help()

    def by_split(self, files: list[SourceFile]) -> tuple[list[SourceFile], list[SourceFile]]:
        """The files to train on, and those of the corpus's own held-out split."""
        train, held_out = files, list[SourceFile]()
        with at_source(self.request.dataset):
            if self.request.held_out_split is not None:
                train, held_out = of_split(files, self.request.held_out_split)
            if self.request.extract is not None:
                train = [self._extracted(train)]
            elif not self.in_place and self.shards is None:
                check_columns(self.request, files)
        return train, held_out

    def _index_in_place(
        self, train: Sequence[SourceFile], held_out: Sequence[SourceFile], meter: Meter
    ) -> list[dict[str, Any]]:
        """Index third-party token files in place: one task, and one shard a split, for each."""
        files = [*train, *held_out]
        self.tasks = len(files)
        with at_source(self.request.dataset):
            token_files = in_place.open_files(self.request, files)
            self.dtype = token_files[0].dtype
            ranges = in_place.file_ranges(
                token_files[: len(train)], token_files[len(train) :], self.request.held_out_share, self.tokenizer.eos_id
            )
            return in_place.index_in_place(
                self.request, files, token_files, ranges, self.tokenizer, self.partial, meter, self.stop
            )

    def list_files(self) -> tuple[list[SourceFile], dict[str, Any]]:
        """The files and their origin; tasks in the partial folder of another recipe or tokenizer are deleted."""
        request, path = self.request, self.partial / "work.json"
        earlier = json.loads(path.read_bytes()) if path.exists() else None
        hub = is_remote(request.read) or (earlier or {}).get("learnt", {}).get("revision")
        if earlier and hub and earlier["recipe"] == request.recipe():
            # A remote listing is fetched once: its commit must not move between two attempts.
            files, details = [SourceFile(**file) for file in earlier["files"]], earlier["learnt"]
            self.shards = dataset_shards(request.read, request.root, details)
        else:
            self.shards = dataset_shards(request.read, request.root)
            with at_source(request.dataset):
                if self.shards is None:
                    files, details = list_sources(request.read, request.root)
                else:
                    files, details = self.shards.list_shards(request.held_out_split)
        origin = {**provenance(request.read), **details}
        work = {
            "recipe": request.recipe(),
            "tokenizer": self.tokenizer.digest,
            "files": [asdict(file) for file in files],
            "learnt": details,
            "appends": self.existing.digest if self.existing else None,
        }
        identity = ("recipe", "tokenizer", "appends")
        if earlier is not None and any(earlier.get(key) != work[key] for key in identity):
            self._discard_tasks()
        fs.write_json(path, work, replace=True)
        return files, origin

    def _discard_tasks(self) -> None:
        for name in ("completions", "tasks", "data"):
            shutil.rmtree(self.partial / name, ignore_errors=True)

    def _extracted(self, files: Sequence[SourceFile]) -> SourceFile:
        """One JSON-lines file of the text that `extract` finds in `files`, divided among the tasks by row."""
        if self.request.extract != "chinese-docstrings":
            raise DataError(
                f"`extract` of `{self.request.dataset}` is `{self.request.extract}`",
                hint="the only one is `chinese-docstrings`",
            )
        path = self.partial / f"extracted-{_listing(files)[:12]}.jsonl"
        if not path.exists():
            rows = ({"id": name, "text": text} for name, text in chinese_docstrings(files))
            fs.write_bytes(path, b"".join(fs.canonical_json(row) + b"\n" for row in rows))
        return SourceFile("extracted.jsonl", str(path), path.stat().st_size, fs.sha256_file(path))

    def _pending(
        self, train: Sequence[SourceFile], held_out: Sequence[SourceFile], meter: Meter, choice: EncoderChoice
    ) -> list[Task]:
        """The tasks not marked as finished."""
        request = self.request
        step = 1 if request.extract is not None else request.tasks
        inputs = [
            _listing([*train[rank % step :: step], *held_out[rank % step :: step]]) for rank in range(request.tasks)
        ]

        def run(rank: int) -> None:
            tally = Tally()
            batches = self.batches(train, held_out, tally, rank, request.tasks)
            encoder = self.encoder.for_task(choice, threads=self.threads)
            writer = ShardWriter(
                request,
                self.tokenizer,
                encoder,
                self._task(rank),
                inputs[rank],
                tally=tally,
                meter=meter,
                stop=self.stop,
            )
            writer.write(batches, rank)

        tasks = [Task(functools.partial(run, rank), rank=rank, folder=self.partial) for rank in range(request.tasks)]
        self._unmark_stale(tasks, inputs, choice)
        pending = [task for task in tasks if not task.finished]
        for task in tasks:
            if task not in pending:
                meter.task_done(task.rank, self._record(task.rank))
        return pending

    def _run_tasks(self, train: Sequence[SourceFile], held_out: Sequence[SourceFile], meter: Meter) -> EncoderChoice:
        """Run every task not marked as finished, `workers` at a time, all with the same encoder."""
        workers = self.request.workers
        while True:
            choice = self.encoder.choice()
            pending = self._pending(train, held_out, meter, choice)
            self.threads = len(pending) < workers
            if not pending:
                return choice
            try:
                with tokenizer_threads(workers, inside=self.threads):
                    run_all([task.run for task in pending], workers, self.stop)
            except EncoderDiffers as difference:
                self.encoder.fall_back(str(difference))
                self.stop = threading.Event()

    def _unmark_stale(self, tasks: Sequence[Task], inputs: Sequence[str], choice: EncoderChoice) -> None:
        """Unmark the finished tasks whose files are no longer the ones they read, or that another encoder did."""
        current = {task.rank: (inputs[task.rank], choice.encoder) for task in tasks if task.finished}
        stale = [
            rank
            for rank, identity in current.items()
            if (self._record(rank)["inputs"], self._record(rank).get("encoder")) != identity
        ]
        if stale and (self.partial / "data").exists():
            self._discard_tasks()  # their shards are already moved together
        for rank in stale:
            tasks[rank].unmark()

    def batches(
        self, train: Sequence[SourceFile], held_out: Sequence[SourceFile], tally: Tally, rank: int, tasks: int
    ) -> Iterator[Documents]:
        """The documents of a task of so many tasks, filtered."""
        request = self.request
        extracted = request.extract is not None
        columns = [*([request.id] if request.id else []), *request.drop, *request.keep, "url"] if request.blocks else []
        corpus = Corpus(
            train,
            held_out,
            format=request.read.get("format"),
            text="text" if extracted else request.text_column,
            id="id" if extracted else request.id,
            drop=request.drop,
            keep=request.keep,
            columns=columns,
            by_rows=extracted,
            shards=self.shards,
            tally=tally,
        )
        batches = corpus.batches(rank, tasks)
        if request.blocks:
            from runner.prepare.filters import through_blocks  # datatrove: only where it is used

            batches = through_blocks(request.blocks, batches, rank, tasks, tally)
        with at_source(request.dataset):
            yield from batches

    def _task(self, rank: int) -> Path:
        return self.partial / "tasks" / f"{rank:05d}"

    def _record(self, rank: int) -> dict[str, Any]:
        record: dict[str, Any] = json.loads((self._task(rank) / RECORD).read_bytes())
        return record

    def _check(self, splits: Mapping[str, Split], records: Sequence[Mapping[str, Any]]) -> None:
        checks.check_train(self.request, splits, records)
        try:
            checks.check_held_out(self.request, splits, records, self._task, self.in_place)
        except DataError:
            shutil.rmtree(self.partial)  # another share is another recipe, in another folder
            raise

    def _assemble(self, manifest: Manifest, output: Path, read: Mapping[str, Any]) -> None:
        """Move the tasks' files together and publish the folder; may be repeated from any point."""
        appends = self.existing is not None
        data = output if appends else self.partial / "data"
        first = len(manifest.earlier) * self.request.tasks
        for name in manifest.splits:
            fs.make_directory(data / name)
            for rank in range(self.tasks):
                folder = self._task(rank) / name
                for path in sorted(folder.iterdir()) if folder.exists() else []:
                    os.rename(path, data / name / append.numbered(path.name, first))
            fs.fsync(data / name)
        assert all(
            (data / f"{shard.file}.index").exists() for split in manifest.splits.values() for shard in split.shards
        )
        lookups, self.repeated_ids = merge_lookups(manifest, data)
        files = f"files-{len(manifest.earlier)}.json"
        fs.write_json(data / files, read, replace=True)
        kept = self.existing.splits if self.existing else {}
        old = {shard.file for split in kept.values() for shard in split.shards}
        new = {shard.file for split in manifest.splits.values() for shard in split.shards} - old
        digests = {
            name: fs.sha256_file(data / name)
            for name in (files, *lookups, *(f"{file}{HASHES}" for file in sorted(new)))
        }
        before = self.existing.sidecars if self.existing else {}
        manifest = replace(manifest, sidecars={**before, **digests})
        # Before this line the appended shards are not part of the folder.
        fs.write_json(data / MANIFEST, manifest.to_json(), replace=True)
        if not appends:
            fs.publish(data, output)


def _listing(files: Sequence[SourceFile]) -> str:
    """The identity of a list of files: names, sizes and, where a package's record gives them, digests."""
    return fs.digest([[file.name, file.bytes, file.sha256] for file in files])


def _known_bytes(files: Sequence[SourceFile]) -> int | None:
    sizes = [file.bytes for file in files]
    return None if None in sizes else sum(size for size in sizes if size is not None)
