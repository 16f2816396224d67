"""Which prepared text answers to a source's name here, and the requests that make what is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.job_process import processors
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import Compiled, compile_curriculum
from curriculum.compiler.segments import Part
from curriculum.compiler.sources import PreparedInfo, StartedStage
from curriculum.compiler.tokenizers import tokenizer_file
from curriculum.config.project import Project
from curriculum.data import listing, provenance
from curriculum.data.manifest import HELD_OUT, TRAIN, Manifest, windows_in
from curriculum.data.requests import PrepareRequest
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import CurriculumError, DataError, Place
from curriculum.plan.stage import StagePlan

HELD_OUT_WINDOWS = 1024


class PreparedText:
    """The prepared text of a compiled curriculum, as far as there is any."""

    def __init__(self, project: Project, compiled: Compiled) -> None:
        self.project = project
        self.compiled = compiled
        self._manifests: dict[str, Manifest | None] = {}

    @cached_property
    def loaded_tokenizer(self) -> Tokenizer | None:
        """The size's tokenizer, None while it is not trained yet or its file is not there."""
        path = tokenizer_file(self.project, self.compiled.tokenizer)
        return Tokenizer.load(path) if path.is_file() else None

    @property
    def tokenizer(self) -> Mapping[str, Any] | None:
        """What a plan remembers of the tokenizer: its digest and vocabulary, not its name here."""
        loaded = self.loaded_tokenizer
        return (
            {"digest": loaded.digest, "vocab_size": loaded.vocab_size, "eos": loaded.eos_id}
            if loaded
            else None
        )

    @property
    def sequence_length(self) -> int:
        """Of the lineage's longest windows: a held-out set is to hold enough of them."""
        return max(stage.plan.sequence_length for stage in self.compiled.stages)

    @property
    def held_out_windows(self) -> int:
        """Windows of each held-out set that an evaluation reads at most."""
        most = self.compiled.size.at_most
        return most.held_out_windows if most and most.held_out_windows else HELD_OUT_WINDOWS

    def datasets(self) -> list[str]:
        """The datasets that the curriculum's sources stand on, by name."""
        return sorted({choice.dataset for choice in self.compiled.sources.values()})

    def folder(self, dataset: str) -> Path:
        """Where the prepared text of `dataset` lies for this tokenizer and recipe."""
        loaded = self.loaded_tokenizer
        if loaded is None:
            raise DataError(
                f"the tokenizer `{self.compiled.tokenizer}` is not there yet",
                hint=f"`curriculum prepare {self.compiled.curriculum}` makes it",
            )
        return self.project.data / dataset / self._request(dataset, "").key(loaded.digest)

    def manifest(self, dataset: str) -> Manifest | None:
        """The manifest of the prepared text, None while it is not prepared."""
        if dataset not in self._manifests:
            found = None
            if self.loaded_tokenizer is not None and (self.folder(dataset) / "manifest.json").is_file():
                found = Manifest.load(self.folder(dataset))
            self._manifests[dataset] = found
        return self._manifests[dataset]

    def facts(self, dataset: str, sequence_length: int) -> PreparedInfo | None:
        """Windows of one pass and digests of the prepared text, None while it is not prepared."""
        manifest = self.manifest(dataset)
        if manifest is None:
            return None
        return PreparedInfo(
            windows=manifest.splits[TRAIN].windows(sequence_length),
            digest=manifest.digest,
            parts=tuple(
                Part(manifest.windows_then(state, TRAIN, sequence_length), state.digest)
                for state in manifest.states
            ),
            shards=tuple(windows_in(s.tokens, sequence_length) for s in manifest.splits[TRAIN].shards),
        )

    def begun(self, curriculum: str, stage: str) -> StartedStage | None:
        """What is trained of a stage, None before its first checkpoint; asked only where text was appended."""
        if not any(manifest and manifest.earlier for manifest in map(self.manifest, self.datasets())):
            return None
        folder = StageFolder.open(self.project.stage_folder(self.compiled.size_name, curriculum, stage))
        last = checkpoints.latest(folder)
        if last is None or not folder.plan.exists():
            return None
        plan = StagePlan.load(folder.plan)
        return StartedStage(plan=plan, items=plan.items((last.position - plan.start) // plan.sequence_length))

    def missing(self, only: str | None = None) -> list[str]:
        """The datasets not yet prepared; forgets what it knew, so that it may be asked again."""
        self._manifests.clear()
        self.__dict__.pop("loaded_tokenizer", None)
        chosen = {c.dataset for n, c in self.compiled.sources.items() if only in (None, n, c.dataset)}
        return [dataset for dataset in sorted(chosen) if self.manifest(dataset) is None]

    def request(self, dataset: str, *, append: bool = False) -> PrepareRequest:
        """What the runner is asked to do to prepare `dataset`, or to append to it what is new."""
        return replace(self._request(dataset, str(self.folder(dataset))), append=append)

    def _request(self, dataset: str, output: str) -> PrepareRequest:
        entry = self.project.sources.sources[dataset]
        return PrepareRequest(
            dataset=dataset,
            read=entry.reading(),
            tokenizer_file=str(tokenizer_file(self.project, self.compiled.tokenizer)),
            tokenizer_name=self.compiled.tokenizer,
            output=output,
            progress=f"{output}.progress.jsonl",
            sequence_length=self.sequence_length,
            root=str(self.project.root),
            text=entry.text_column(),
            id=entry.id,
            drop=entry.drop,
            keep=entry.keep,
            extract=entry.extract,
            blocks=entry.blocks,
            held_out=entry.holding_out(),
            bos=entry.bos,
            eos=entry.eos,
            tasks=entry.tasks,
            workers=processors(),
        )

    def provenance_lines(self) -> dict[str, str]:
        """Package, version and licence of each dataset, in words; an absent package says what to install."""
        lines = {}
        for dataset in self.datasets():
            entry = self.project.sources.sources[dataset]
            try:
                line = provenance.sentence(provenance.provenance(entry.reading()))
            except DataError as error:
                line = f"absent: {error.hint or error.what}"
            lines[dataset] = line + (f"; {entry.licence}" if entry.licence else "")
        return lines

    def summaries(self) -> list[dict[str, Any]]:
        """What each prepared dataset holds: documents, tokens, bytes a token, what was dropped and why."""
        rows = []
        for dataset in self.datasets():
            manifest = self.manifest(dataset)
            if manifest is None:
                continue
            for name in (TRAIN, HELD_OUT):
                if name not in manifest.splits:
                    continue
                split = manifest.splits[name]
                rows.append(
                    {
                        "dataset": dataset,
                        "split": name,
                        "documents": split.documents,
                        "tokens": split.tokens,
                        # text that others tokenised is not there to be measured
                        "bytes_per_token": split.text_bytes / max(1, split.tokens) or None,
                        "filler": split.filler,
                        "windows": split.windows(self.sequence_length),
                        "tail": split.tail(self.sequence_length),
                        "dropped": dict(split.dropped),
                        "policy": fs.fields_of(manifest.policy),
                        "from": provenance.sentence(manifest.provenance),
                    }
                )
        return rows


def compile_with_texts(project: Project, name: str, size: str) -> tuple[Compiled, PreparedText]:
    """A curriculum compiled with what is prepared so far, and that text."""
    declared = compile_curriculum(project, name, size)
    texts = PreparedText(project, declared)
    if texts.tokenizer is None:
        return declared, texts
    compiled = compile_curriculum(
        project, name, size, facts=texts.facts, begun=texts.begun, tokenizer=texts.tokenizer
    )
    return compiled, texts


def sources_place(project: Project, entry: tuple[str, ...]) -> Place | None:
    """Where sources.yaml says `entry`, or what of its beginning there is; None for no entry."""
    document = project.sources_document
    while len(entry) > 1 and entry not in document:
        entry = entry[:-1]
    if len(entry) < 2 or entry not in document:
        return None
    return document.key_place(entry) if len(entry) == 2 else document.place(entry)


def check_folders(texts: PreparedText, *, planned: bool = False) -> None:
    """Refuse a local folder that is to be read and is not there, or in which no file matches: DataError at its line.

    Nothing is opened, and of each folder only a glance is taken. What is only `planned` may lie on another machine:
    then a source that declares its tokens needs no folder here.
    """
    project = texts.project
    unprepared = {dataset for dataset in texts.datasets() if texts.manifest(dataset) is None}
    if texts.loaded_tokenizer is None and texts.compiled.tokenizer in project.sources.tokenizers:
        unprepared.update(project.sources.tokenizers[texts.compiled.tokenizer].train or ())
    for dataset in sorted(unprepared):
        if planned and project.sources.sources[dataset].tokens is not None:
            continue
        read = project.sources.sources[dataset].reading()
        try:
            listing.check_local(read, str(project.root))
        except DataError as error:
            place = sources_place(project, ("sources", dataset, "read", *error.entry))
            raise DataError(f"`{dataset}`: {error.what}", place=place, hint=error.hint) from None


def check_installed(texts: PreparedText) -> None:
    """Refuse, before any process starts, a dataset whose package is absent: DataError says what to install."""
    for dataset in texts.datasets():
        if texts.manifest(dataset) is None:
            try:
                provenance.provenance(texts.project.sources.sources[dataset].reading())
            except CurriculumError as error:
                place = texts.project.sources_document.key_place(("sources", dataset))
                what = f"`{dataset}` cannot be prepared: {error.what}"
                raise DataError(what, place=error.place or place, hint=error.hint) from None
