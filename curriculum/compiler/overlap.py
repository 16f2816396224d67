"""The overlap of the sources of a lineage, by content: shown, and refused where held-out text would be trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import Compiled
from curriculum.compiler.prepared_text import PreparedText
from curriculum.data.manifest import HELD_OUT, TRAIN
from curriculum.data.overlap import HashedDataset, count_shared, read_record, record
from curriculum.errors import DataError

QUICK_DOCUMENTS = 1 << 20
"""Documents, of all pairs together, that a command other than `prepare` and `run` compares before it answers."""


@dataclass(frozen=True, slots=True)
class _Leak:
    """The number of `documents`, out of `of`, that dataset `held_out_by` holds out and `trained_by` trains on."""

    held_out_by: str
    trained_by: str
    documents: int
    of: int

    def __str__(self) -> str:
        return (
            f"`{self.trained_by}` trains on {self.documents:,} of the {self.of:,} documents that "
            f"`{self.held_out_by}` holds out"
        )


def with_overlap(texts: PreparedText, compiled: Compiled) -> Compiled:
    """`compiled` with a note at its last stage for each of `overlap_lines`; DataError as there."""
    last = compiled.stages[-1]
    notes = (*last.notes, *overlap_lines(texts))
    return replace(compiled, stages=(*compiled.stages[:-1], replace(last, notes=notes)))


def overlap_lines(texts: PreparedText, *, preparing: bool = False) -> list[str]:
    """A line for each pair of prepared datasets of the lineage that share documents, and for what is not compared.

    DataError at its line in sources.yaml for a dataset that trains on held-out text of another, unless it says
    `overlap: allow`, or a curriculum that reads both has started to train. `preparing` compares every pair and records
    the result in the data folder; otherwise what is not recorded is compared where it is little.
    """
    lines: list[str] = []
    leaks: list[_Leak] = []
    uncounted: list[str] = []
    manifests = texts.manifests()
    hashed = {dataset: HashedDataset(texts.folder(dataset), manifest) for dataset, manifest in manifests.items()}
    unknown: dict[str, None] = {}
    damaged: dict[str, Path] = {}
    quick = QUICK_DOCUMENTS
    for names in combinations(hashed, 2):
        first, second = (hashed[name] for name in names)
        path = texts.project.data / "overlaps" / f"{first.manifest.digest[:16]}-{second.manifest.digest[:16]}.json"
        overlap = read_record(path)
        if overlap is None:
            damaged |= _damaged(hashed, names, contents=False)
            unknown |= {name: None for name in names if name not in damaged and not hashed[name].known}
            if {*names} & {*damaged, *unknown}:
                continue
            quick -= first.documents + second.documents
            if quick < 0 and not preparing:
                uncounted.append(f"`{names[0]}` and `{names[1]}`")
                continue
            if changed := _damaged(hashed, names, contents=True):
                damaged |= changed
                continue
            overlap = count_shared(first, second)
            if preparing:
                record(path, overlap)
        if any(overlap.train):
            shared = [
                f"{documents:,} of the {manifests[name].splits[TRAIN].documents:,} documents of `{name}`"
                for name, documents in zip(names, overlap.train, strict=True)
            ]
            lines.append(
                f"overlap: {' and '.join(shared)} are the same text; passes are counted by source, so it is read "
                "more often than they say"
            )
        leaks += [
            _Leak(name, other, documents, manifests[name].splits[HELD_OUT].documents)
            for name, other, documents in zip(names, reversed(names), overlap.held_out, strict=True)
            if documents
        ]
    started = _started(texts) if leaks or damaged else set()
    if preparing and (lost := [name for name in damaged if name not in started]):
        raise DataError(
            f"whether other sources share documents with `{lost[0]}` is not known: `{damaged[lost[0]]}` is missing or "
            "damaged",
            hint=f"remove the folder `{hashed[lost[0]].folder}`, and `{texts.prepare_command}` makes it again",
        )
    allowed = [leak for leak in leaks if texts.project.sources.sources[leak.trained_by].overlap == "allow"]
    refused = [leak for leak in leaks if leak not in allowed and not started >= {leak.held_out_by, leak.trained_by}]
    if refused:
        raise _refusal(texts, refused)
    for leak in leaks:
        consent = ", as its `overlap: allow` permits" if leak in allowed else ""
        lines.append(f"overlap: {leak}{consent}; the loss on what was trained on is no held-out loss")
    lines += [
        f"overlap of `{name}` with other sources is not known: `{file}` is missing or damaged; remove the folder "
        f"`{hashed[name].folder}`, and `{texts.prepare_command}` makes it again"
        for name, file in damaged.items()
    ]
    if unknown:
        datasets = ", ".join(f"`{name}`" for name in unknown)
        lines.append(
            f"overlap of {datasets} with other sources is not known: prepared by an older version, which recorded "
            "no digests of its hashes, if it wrote any"
        )
    if uncounted:
        lines.append(f"overlap of {', '.join(uncounted)} is not counted yet: `{texts.prepare_command}` counts it")
    return lines


def _damaged(hashed: Mapping[str, HashedDataset], names: Sequence[str], *, contents: bool) -> dict[str, Path]:
    """The first damaged file of hashes of each of the datasets `names` that has one."""
    return {name: file for name in names if (file := hashed[name].damaged(contents=contents))}


def _started(texts: PreparedText) -> set[str]:
    """The datasets that the lineage reads up to the last stage of a curriculum of which a stage has a checkpoint."""
    curriculum, project = texts.curriculum, texts.project
    settings = [stage.setting for stage in curriculum.stages]
    started = {
        setting.curriculum
        for setting in settings
        if checkpoints.latest(
            StageFolder.open(project.stage_folder(curriculum.size_name, setting.curriculum, setting.stage))
        )
    }
    stages = max((number for number, setting in enumerate(settings, 1) if setting.curriculum in started), default=0)
    return {curriculum.datasets[name] for stage in curriculum.stages[:stages] for name in stage.mixture.weights}


def _refusal(texts: PreparedText, leaks: Sequence[_Leak]) -> DataError:
    leak, sources = leaks[0], texts.project.sources.sources
    holds, trains = sources[leak.held_out_by], sources[leak.trained_by]
    same = ""
    if holds.held_out.share is not None and holds.read.tokenised is None and trains.read.tokenised is None:
        share = holds.held_out_options()["share"]
        same = f"`held_out: {share}` for `{leak.trained_by}` too holds out the same documents; or "
    return DataError(
        "\n".join(map(str, leaks)) + "\nthe loss on what was trained on is no held-out loss",
        place=texts.project.sources_document.key_place(("sources", leak.trained_by)),
        hint=f"{same}leave the files out of one of the two (`files`, `exclude`); or say `overlap: allow` for "
        f"`{leak.trained_by}`",
    )
