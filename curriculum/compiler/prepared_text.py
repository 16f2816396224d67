"""The prepared text of a curriculum: datasets and tokenizer on disk, and the requests that make missing ones."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import Compiled, compile_resolved
from curriculum.compiler.lineage import LineageStage
from curriculum.compiler.resolve import ResolvedCurriculum, resolve
from curriculum.compiler.segments import PreparedState
from curriculum.compiler.sources import PreparedInfo, StartedStage
from curriculum.compiler.tokenizers import tokenizer_file
from curriculum.config.project import Project
from curriculum.data import listing, provenance, tokenizer
from curriculum.data.changes import FileChanges, file_changes, recorded_files
from curriculum.data.held_out import few_documents
from curriculum.data.manifest import HELD_OUT, MANIFEST, TRAIN, Manifest, windows_in
from curriculum.data.requests import PrepareRequest
from curriculum.data.tokenizer import BOS_NAMES, EOS_NAMES, TRAINED_EOS, Tokenizer
from curriculum.errors import CurriculumError, DataError, Place
from curriculum.plan.stage import StagePlan


class PreparedText:
    """A snapshot of the text and the tokenizer that a curriculum reads, and its plans for them.

    Each dataset is looked up once. Whatever prepares text takes a new snapshot of the same curriculum. Given a list of
    `faults`, what is damaged is added there and counts as not prepared; else it is an error.
    """

    def __init__(self, curriculum: ResolvedCurriculum, *, faults: list[CurriculumError] | None = None) -> None:
        self.curriculum = curriculum
        self.project = curriculum.project
        self.faults = faults
        self._manifests: dict[str, Manifest | None] = {}

    @classmethod
    def open(
        cls,
        project: Project,
        name: str,
        size: str,
        stages: Sequence[LineageStage] | None = None,
        *,
        faults: list[CurriculumError] | None = None,
        like: PreparedText | None = None,
    ) -> PreparedText:
        """The text of curriculum `name`, or of the `stages` of a lineage that ends before it does.

        `like` is a snapshot that looked up the same tokenizer and datasets, whose state of them is taken over.
        """
        texts = cls(resolve(project, name, size, stages), faults=faults)
        if (
            like is not None
            and like.curriculum.tokenizer == texts.curriculum.tokenizer
            and like.sequence_length == texts.sequence_length
        ):
            texts._manifests = like._manifests
            texts.__dict__["loaded_tokenizer"] = like.loaded_tokenizer
        return texts

    def named(self, name: str) -> PreparedText:
        """The same snapshot, whose lineage is called `name`, as an arm of a study is by its address."""
        texts = copy.copy(self)
        texts.__dict__["compiled"] = replace(self.compiled, curriculum=name)
        return texts

    @property
    def prepare_command(self) -> str:
        """The command that makes what is not prepared."""
        return f"curriculum prepare {self.curriculum.name}{self.project.options(self.curriculum.size_name)}"

    @cached_property
    def compiled(self) -> Compiled:
        """The curriculum compiled for this state of its text: declared sizes for what is not prepared."""
        return self.compile(self.curriculum)

    def compile(self, curriculum: ResolvedCurriculum) -> Compiled:
        """`curriculum`, which may be a part of this one's lineage, compiled for this state of the text."""
        return compile_resolved(
            curriculum, prepared_info=self.prepared_info, started_stage=self.started_stage, tokenizer=self.tokenizer
        )

    @cached_property
    def loaded_tokenizer(self) -> Tokenizer | None:
        """The curriculum's tokenizer, None while it has no file."""
        path = tokenizer_file(self.project, self.curriculum.tokenizer)
        try:
            return Tokenizer.load(path) if path.is_file() else None
        except DataError as error:
            if self.tokenizer_is_made:
                error.hint = self.tokenizer_way_out
            self._tell(error)
            return None

    @property
    def tokenizer_is_made(self) -> bool:
        """Whether the tokenizer's file is made by `prepare`, from text or from a SentencePiece model."""
        return self.project.data in tokenizer_file(self.project, self.curriculum.tokenizer).parents

    @property
    def tokenizer_place(self) -> Place | None:
        """The line of sources.yaml that binds the tokenizer to a file."""
        name = self.curriculum.tokenizer
        bound = name in self.project.sources.tokenizers and not self.tokenizer_is_made
        return self.project.sources_document.place(("tokenizers", name, "path")) if bound else None

    @property
    def tokenizer_way_out(self) -> str:
        """The hint for a tokenizer whose file is not what it was."""
        path = tokenizer_file(self.project, self.curriculum.tokenizer)
        if self.tokenizer_is_made:
            return (
                f"put that file back; or remove `{path}`, and `{self.prepare_command}` makes the same again from the "
                "same text"
            )
        return f"put that file back at `{path}`; another tokenizer needs a curriculum of its own, and another name"

    def _tell(self, error: DataError) -> None:
        if self.faults is None:
            raise error
        self.faults.append(error)

    @property
    def tokenizer(self) -> Mapping[str, Any] | None:
        """The tokenizer as plans store it: digest and vocabulary, not its name in the project."""
        loaded = self.loaded_tokenizer
        return {"digest": loaded.digest, "vocab_size": loaded.vocab_size, "eos": loaded.eos_id} if loaded else None

    @property
    def sequence_length(self) -> int:
        """Tokens of the lineage's longest windows: a held-out set is to hold enough of them."""
        return max(stage.clock.sequence_length for stage in self.curriculum.stages)

    def datasets(self) -> list[str]:
        """The names of the datasets that the curriculum reads, sorted."""
        return sorted(set(self.curriculum.datasets.values()))

    def folder(self, dataset: str, tokenizer_digest: str | None = None) -> Path:
        """The folder of the prepared `dataset` for this recipe and its tokenizer, or that of another digest.

        DataError without a tokenizer.
        """
        if tokenizer_digest is None and self.loaded_tokenizer is not None:
            tokenizer_digest = self.loaded_tokenizer.digest
        if tokenizer_digest is None:
            raise DataError(
                f"the tokenizer `{self.curriculum.tokenizer}` is not there yet",
                hint=f"`{self.prepare_command}` makes it",
            )
        return self.project.data / dataset / self._request(dataset, "").key(tokenizer_digest)

    def manifest(self, dataset: str) -> Manifest | None:
        """The manifest of a dataset, None while it is not prepared."""
        if dataset not in self._manifests:
            self._manifests[dataset] = None
            if self.loaded_tokenizer is not None:
                try:
                    self._manifests[dataset] = self.read_manifest(self.folder(dataset))
                except DataError as error:
                    self._tell(error)
        return self._manifests[dataset]

    def read_manifest(self, folder: Path) -> Manifest | None:
        """The manifest of a dataset's folder, None where there is no folder; DataError for a damaged one."""
        if not folder.is_dir():
            return None
        try:
            if not (folder / MANIFEST).is_file():  # a folder is published with it
                raise DataError(f"`{folder / MANIFEST}` is missing")
            return Manifest.load(folder)
        except DataError as error:
            error.hint = self._again(folder)
            raise

    def manifests(self) -> dict[str, Manifest]:
        """The manifests of the datasets that are prepared, by name."""
        manifests = {dataset: self.manifest(dataset) for dataset in self.datasets()}
        return {dataset: manifest for dataset, manifest in manifests.items() if manifest is not None}

    def _again(self, folder: Path) -> str:
        return f"remove the folder `{folder}`, and `{self.prepare_command}` makes it again"

    def prepared_info(self, dataset: str, sequence_length: int) -> PreparedInfo | None:
        """Windows of one pass and digests of a dataset, None while it is not prepared."""
        manifest = self.manifest(dataset)
        if manifest is None:
            return None
        return PreparedInfo(
            windows=manifest.splits[TRAIN].windows(sequence_length),
            digest=manifest.digest,
            held_out=manifest.splits[HELD_OUT].windows(sequence_length) if HELD_OUT in manifest.splits else 0,
            states=tuple(
                PreparedState(manifest.windows_in_state(state, TRAIN, sequence_length), state.digest)
                for state in manifest.states
            ),
            shards=tuple(windows_in(s.tokens, sequence_length) for s in manifest.splits[TRAIN].shards),
        )

    def started_stage(self, curriculum: str, stage: str) -> StartedStage | None:
        """The stage at its last checkpoint, None before its first; read only where text was appended."""
        if not any(manifest.earlier for manifest in self.manifests().values()):
            return None
        folder = StageFolder.open(self.project.stage_folder(self.curriculum.size_name, curriculum, stage))
        last = checkpoints.latest(folder)
        if last is None or not folder.plan.exists():
            return None
        plan = StagePlan.load(folder.plan)
        return StartedStage(plan=plan, items=plan.items((last.position - plan.start) // plan.sequence_length))

    def request(self, dataset: str, *, append: bool = False) -> PrepareRequest:
        """The request that prepares `dataset`, or appends new files to it."""
        return replace(self._request(dataset, str(self.folder(dataset))), append=append)

    def _request(self, dataset: str, output: str) -> PrepareRequest:
        entry = self.project.sources.sources[dataset]
        return PrepareRequest(
            dataset=dataset,
            read=entry.read_options(),
            tokenizer_file=str(tokenizer_file(self.project, self.curriculum.tokenizer)),
            tokenizer_name=self.curriculum.tokenizer,
            output=output,
            progress=f"{output}.progress.jsonl",
            sequence_length=self.sequence_length,
            root=str(self.project.root),
            text=entry.read.text if "text" in entry.read.model_fields_set else None,
            id=entry.id,
            drop=entry.drop,
            keep=entry.keep,
            extract=entry.extract,
            blocks=entry.blocks,
            held_out=entry.held_out_options(),
            bos=entry.bos,
            eos=entry.eos,
            tasks=entry.tasks,
            workers=fs.processors(),
            proofs=str(self.project.data / "encoders"),
            rates=str(self.project.data / "rates"),
        )

    def changes(self, *, quick: bool = False, contents: bool = False) -> dict[str, FileChanges]:
        """The prepared datasets of local folders whose files changed since; with `quick`, not of very many files."""
        by_dataset = {}
        for dataset, manifest in self.manifests().items():
            read = self.project.sources.sources[dataset].read_options()
            if "://" in str(read.get("folder", "://")):
                continue
            if quick and manifest.provenance["files"] > listing.QUICK_SCAN:
                continue
            try:
                files = listing.list_files(read, str(self.project.root))
            except DataError:  # the folder is gone, or all that was in it
                files = []
            try:
                recorded = recorded_files(self.folder(dataset), manifest)
            except DataError as error:
                error.hint = self._again(self.folder(dataset))
                raise
            if recorded is not None and (changes := file_changes(recorded, files, contents=contents)):
                by_dataset[dataset] = changes
        return by_dataset

    def change_lines(self, *, quick: bool = False, contents: bool = False) -> list[str]:
        """What changed of the files of each dataset, that the prepared text stays, and what would take it up."""
        lines, command = [], self.prepare_command
        for dataset, changes in self.changes(quick=quick, contents=contents).items():
            only_new = not changes.changed and not changes.gone
            way = (
                f"`{command} --append` adds what is new"
                if only_new
                else f"to take them up, name the folder as a source of its own, or move {self.folder(dataset)} "
                f"away and run `{command}`, which runs that were started do not follow"
            )
            lines.append(f"{dataset}: files changed since it was prepared: {changes}; the prepared text stays; {way}")
        return lines

    def held_out_lines(self) -> list[str]:
        """A line for each prepared dataset whose held-out set has too few documents to judge differences by."""
        lines = []
        for dataset, manifest in self.manifests().items():
            if HELD_OUT in manifest.splits:
                note = few_documents(manifest.splits[HELD_OUT].documents)
                lines += [f"{dataset}: {note}; hold out more documents, or cut them where they divide"] if note else []
        return lines

    def provenance_lines(self) -> dict[str, str]:
        """Package, version and licence of each dataset; for an absent package, the command that installs it."""
        lines = {}
        for dataset in self.datasets():
            entry = self.project.sources.sources[dataset]
            try:
                line = provenance.describe(provenance.provenance(entry.read_options()))
            except DataError as error:
                line = f"absent: {error.hint or error.what}"
            lines[dataset] = line + (f"; {entry.licence}" if entry.licence else "")
        return lines

    def summaries(self) -> list[dict[str, Any]]:
        """A row for each split of a prepared dataset: documents, tokens, bytes a token, dropped documents by reason."""
        return [
            {
                "dataset": dataset,
                "split": name,
                "documents": split.documents,
                "tokens": split.tokens,
                # unknown for token files read in place
                "bytes_per_token": split.text_bytes / max(1, split.tokens) or None,
                "filler": split.filler,
                "windows": split.windows(self.sequence_length),
                "tail": split.tail(self.sequence_length),
                "dropped": dict(split.dropped),
                "policy": fs.fields_of(manifest.policy),
                "from": provenance.describe(manifest.provenance),
            }
            for dataset, manifest in self.manifests().items()
            for name, split in sorted(manifest.splits.items(), reverse=True)  # `train` first
        ]


def sources_place(project: Project, entry: tuple[str, ...]) -> Place | None:
    """The place of `entry` in sources.yaml, or of its longest prefix there; None for no entry."""
    document = project.sources_document
    while len(entry) > 1 and entry not in document:
        entry = entry[:-1]
    if len(entry) < 2 or entry not in document:
        return None
    return document.key_place(entry) if len(entry) == 2 else document.place(entry)


def check_folders(texts: PreparedText, *, planned: bool = False) -> None:
    """DataError for a local folder that is to be read and is missing, or in which no file matches, at its line.

    The check is a quick scan that opens no file. With `planned`, text may be on another machine: a source that
    declares its tokens needs no folder here.
    """
    project = texts.project
    unprepared = set(texts.datasets()) - texts.manifests().keys()
    if texts.loaded_tokenizer is None and texts.curriculum.tokenizer in project.sources.tokenizers:
        unprepared.update(project.sources.tokenizers[texts.curriculum.tokenizer].train or ())
    for dataset in sorted(unprepared):
        if planned and project.sources.sources[dataset].tokens is not None:
            continue
        read = project.sources.sources[dataset].read_options()
        try:
            listing.check_local(read, str(project.root))
        except DataError as error:
            place = sources_place(project, ("sources", dataset, "read", *error.entry))
            raise DataError(f"`{dataset}`: {error.what}", place=place, hint=error.hint) from None


def check_special_tokens(texts: PreparedText) -> None:
    """DataError at its key for a BOS or an EOS that a text to be prepared asks for and the tokenizer does not have.

    Nothing is refused for the tokenizer of an import, or of a SentencePiece model, that is not converted yet.
    """
    project, name, loaded = texts.project, texts.curriculum.tokenizer, texts.loaded_tokenizer
    if loaded is not None:
        available = loaded.special_tokens
    elif name in project.sources.tokenizers and project.sources.tokenizers[name].train is not None:
        available = {"bos": TRAINED_EOS in BOS_NAMES, "eos": TRAINED_EOS in EOS_NAMES}
    else:
        return
    for dataset in texts.datasets():
        if texts.manifest(dataset) is None:
            source = project.sources.sources[dataset]
            try:
                tokenizer.check_special_tokens(dataset, {"bos": source.bos, "eos": source.eos}, available, name)
            except DataError as error:
                place = sources_place(project, error.entry)
                raise DataError(error.what, place=place, hint=error.hint) from None


def check_installed(texts: PreparedText) -> None:
    """DataError for a dataset whose package is not installed, with the command that installs it."""
    for dataset in texts.datasets():
        if texts.manifest(dataset) is None:
            try:
                provenance.provenance(texts.project.sources.sources[dataset].read_options())
            except CurriculumError as error:
                place = texts.project.sources_document.key_place(("sources", dataset))
                what = f"`{dataset}` cannot be prepared: {error.what}"
                raise DataError(what, place=error.place or place, hint=error.hint) from None
