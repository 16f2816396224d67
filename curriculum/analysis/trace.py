"""The steps that read a document or a range of a source, in every stage of one or more lineages, past and future.

The plans and the manifests determine them; of what ran only the last checkpoint's position is read. A stage that
several lineages share is one entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from curriculum.artifacts import checkpoints
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage_tree import stage_tree
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.data.manifest import HELD_OUT, TRAIN, windows_in
from curriculum.errors import NotFound, PlanError, did_you_mean
from curriculum.plan import lookup
from curriculum.plan.stage import StagePlan
from curriculum.runs import folders
from curriculum.units import parse_count

FORMAT: Final = 2
"""Of the JSON objects of `trace`; 1 had no such key, and `spoilt_from` for `contaminated_from`."""

LISTED: Final = 20_000
"""The most windows whose reads are listed; of more there are counts and the first and last step."""


@dataclass(frozen=True, slots=True)
class Location:
    """Tokens `first` to `stop`, exclusive, of a shard of a source's text; unprepared text is one shard.

    `as_target` is whether a window counts whose last target is the first token.
    """

    source: str
    shard: int
    first: int
    stop: int
    as_target: bool = False


@dataclass(frozen=True, slots=True)
class SharedStage:
    """A stage with the positions where lineages leave it (`stops`) and the last checkpoint's (`reached`), in tokens."""

    stage: CompiledStage
    stops: Mapping[str, int]
    reached: int

    @property
    def sequences(self) -> int:
        """Sequences of the stage that some lineage trains on."""
        return (self.stage.stop - self.stage.plan.start) // self.stage.plan.sequence_length

    @property
    def sequences_read(self) -> int:
        """Sequences that were trained on, up to the last checkpoint."""
        plan = self.stage.plan
        return max(0, min(self.reached, self.stage.stop) - plan.start) // plan.sequence_length

    def position_of(self, sequence: int) -> int:
        """Where the step begins that reads the sequence, in tokens."""
        plan = self.stage.plan
        return plan.clock.position(plan.clock.step_of_sequence(sequence))

    def lineages(self, position: int) -> list[str]:
        """The lineages that take the step that begins at `position`."""
        return [name for name, stop in self.stops.items() if position < stop]


def shared_stages(project: Project, compiled: Sequence[Compiled]) -> list[SharedStage]:
    """Every stage of the lineages, once, in the order of the first that has it."""
    stages = []
    for node in stage_tree(compiled).values():
        last = checkpoints.latest(folders.stage_folder(project, node.lineage, node.stage))
        stages.append(SharedStage(node.stage, node.left_at, last.position if last else node.stage.plan.start))
    return stages


def tokens_of_shards(texts: PreparedText, plan: StagePlan, source: str) -> list[int]:
    """Tokens of each shard of the source's text; of unprepared text, one shard with the declared windows."""
    manifest = texts.manifest(plan.sources[source].dataset)
    if manifest is not None:
        return [shard.tokens for shard in manifest.splits[TRAIN].shards]
    plan.sources[source].require_counted(source)
    return [plan.sources[source].segments[-1].stop_window * plan.sequence_length + 1]


def windows_of(location: Location, shards: Sequence[int], sequence_length: int) -> range:
    """The windows of `sequence_length` that read the location; empty in a shard's unread tail."""
    before = sum(windows_in(tokens, sequence_length) for tokens in shards[: location.shard])
    low = max(0, (location.first - location.as_target) // sequence_length)
    high = min(-(-location.stop // sequence_length), windows_in(shards[location.shard], sequence_length))
    return range(before + low, before + max(low, high))


def trace(
    project: Project,
    compiled: Sequence[Compiled],
    texts: PreparedText,
    *,
    document: str | None = None,
    source: str | None = None,
    span: str | None = None,
) -> dict[str, Any]:
    """Every read of a document (by its id) or of a range of a source, as JSON values (docs/trace-json.md).

    NotFound for a document, source or range that does not exist.
    """
    stages = shared_stages(project, compiled)
    if document is not None:
        locations, documents = _documents(compiled, texts, stages, document, source)
    else:
        assert source is not None
        assert span is not None
        locations, documents = _window_range(texts, stages, source, span), []
    rows = [_stage(shared, texts, locations) for shared in stages]
    return {
        "format": FORMAT,
        "document": document,
        "source": source,
        "range": span,
        "size": compiled[0].size_name,
        "found": documents,
        "stages": rows,
        "readings": sum(row["readings"] for row in rows),
        "readings_done": sum(row["readings_done"] for row in rows),
        "exact": all(row["exact"] for row in rows),
    }


def _stage(shared: SharedStage, texts: PreparedText, locations: Iterable[Location]) -> dict[str, Any]:
    plan, setting = shared.stage.plan, shared.stage.setting
    ranges: list[tuple[str, range]] = []
    for location in locations:
        if location.source in plan.sources:
            shards = tokens_of_shards(texts, plan, location.source)
            ranges.append((location.source, windows_of(location, shards, plan.sequence_length)))
    row: dict[str, Any] = {
        "curriculum": setting.curriculum,
        "stage": setting.stage,
        "lineages": list(shared.stops),
        "starts_at": plan.start,
        "ends_at": shared.stage.stop,
        "reached": shared.reached,
    }
    if sum(len(windows) for _, windows in ranges) <= LISTED:
        listed = _reads(shared, ranges)
        return {
            **row,
            "readings": len(listed),
            "readings_done": sum(reading["read"] for reading in listed),
            "exact": True,
            "first": listed[0]["position"] if listed else None,
            "last": listed[-1]["position"] if listed else None,
            "steps": listed,
        }
    total = [lookup.count(plan, *each, stop=shared.sequences) for each in ranges]
    done = total
    if shared.sequences_read < shared.sequences:
        done = [lookup.count(plan, *each, stop=shared.sequences_read) for each in ranges]
    edges = [lookup.edge(plan, *each, stop=shared.sequences, last=last) for each in ranges for last in (False, True)]
    positions = [shared.position_of(at) for at in edges if at is not None]
    return {
        **row,
        "readings": sum(counted.readings for counted in total),
        "readings_done": sum(counted.readings for counted in done),
        "exact": all(counted.margin == 0 for counted in (*total, *done)),
        "first": min(positions, default=None),
        "last": max(positions, default=None),
        "steps": None,
    }


def _reads(shared: SharedStage, ranges: Iterable[tuple[str, range]]) -> list[dict[str, Any]]:
    plan = shared.stage.plan
    reads: list[dict[str, Any]] = []
    by_source: dict[str, set[int]] = {}
    for source, windows in ranges:
        by_source.setdefault(source, set()).update(windows)
    for source, numbers in sorted(by_source.items()):
        at = lookup.occurrences(plan, source, np.array(sorted(numbers), np.int64), stop=shared.sequences)
        columns = (at.steps(plan), at.slots(plan), at.pass_number, at.window)
        for step, slot, number, window in zip(*(column.tolist() for column in columns), strict=True):
            position = plan.position_before(step)
            reads.append(
                {
                    "step": step,
                    "position": position,
                    "slot": slot,
                    "source": source,
                    "pass": number,
                    "window": window,
                    "lineages": shared.lineages(position),
                    "read": position < shared.reached,
                }
            )
    return sorted(reads, key=lambda read: (read["step"], read["slot"]))


# --- locations ----------------------------------------------------------------------------------------------


def _documents(
    compiled: Sequence[Compiled], texts: PreparedText, stages: Sequence[SharedStage], name: str, only: str | None
) -> tuple[list[Location], list[dict[str, Any]]]:
    sources = sources_of(stages, only)
    datasets: dict[str, list[str]] = {}
    for source, plan in sources.items():
        datasets.setdefault(plan.sources[source].dataset, []).append(source)
    locations: list[Location] = []
    documents: list[dict[str, Any]] = []
    near: list[str] = []
    missing = [dataset for dataset in datasets if texts.manifest(dataset) is None]
    for dataset, owners in sorted(datasets.items()):
        manifest = texts.manifest(dataset)
        if manifest is None:
            continue
        from curriculum.data.dataset import Dataset  # not at the top: `trace` starts faster without prepared text

        for split in (split for split in (TRAIN, HELD_OUT) if split in manifest.splits):
            plan = sources[owners[0]]
            text = Dataset.open(texts.folder(dataset), split=split, sequence_length=plan.sequence_length)
            for document in text.find_documents(name):
                end = document.first_token + document.tokens
                for owner in owners:
                    documents.append(
                        {
                            "source": owner,
                            "text": dataset,
                            "split": split,
                            "shard": document.shard,
                            "document": document.document,
                            "tokens": document.tokens,
                        }
                    )
                    if split == TRAIN:
                        locations.append(Location(owner, document.shard, document.first_token, end, as_target=True))
            if not documents:
                near += text.ids_like(name)
    if not documents:
        similar = ", ".join(f"`{each}`" for each in dict.fromkeys(near[:8]))
        unprepared = f"; not prepared yet: {', '.join(missing)}" if missing else ""
        raise NotFound(
            f"no document `{name}` in the text of {', '.join(f'`{each}`' for each in datasets)}{unprepared}",
            hint=f"like it: {similar}"
            if near
            else f"`curriculum prepare {compiled[0].curriculum}` makes the text whose documents can be found"
            if missing
            else f"`curriculum batch {compiled[0].curriculum} --step 0` shows some ids",
        )
    return locations, documents


def _window_range(texts: PreparedText, stages: Sequence[SharedStage], source: str, span: str) -> list[Location]:
    plan = sources_of(stages, source)[source]
    shards = tokens_of_shards(texts, plan, source)
    first, stop, in_tokens = parse_span(span)
    length = plan.sequence_length
    most = sum(shards) if in_tokens else sum(windows_in(tokens, length) for tokens in shards)
    if not first < stop <= most:
        unit = "tokens" if in_tokens else f"windows of {length}"
        raise NotFound(
            f"`{source}` has no {unit} {first:,} to {stop:,}",
            hint=f"it has {most:,}, counted from 0; as in `--range 0:{min(most, 100)}{' tokens' * in_tokens}`",
        )
    locations: list[Location] = []
    before = 0
    for shard, tokens in enumerate(shards):
        size = tokens if in_tokens else windows_in(tokens, length)
        low, high = max(first - before, 0), min(stop - before, size)
        if low < high:
            scale = 1 if in_tokens else length
            locations.append(Location(source, shard, low * scale, high * scale))
        before += size
    return locations


def parse_span(text: str) -> tuple[int, int, bool]:
    """`a:b` in windows or `a:b tokens`: first, stop (exclusive), whether in tokens; PlanError when it is neither."""
    words = text.split()
    ends = words[0].split(":") if words else []
    try:
        if len(ends) != 2 or words[1:] not in ([], ["windows"], ["tokens"]):
            raise ValueError("it is `FIRST:END`, the end not included, and a unit")
        return parse_count(ends[0]), parse_count(ends[1]), words[1:] == ["tokens"]
    except ValueError as error:
        raise PlanError(
            f"`--range {text}` cannot be read: {error}",
            hint='as in `--range 1200:1300` (windows) or `--range "1.2B:1.3B tokens"`',
        ) from None


def sources_of(stages: Sequence[SharedStage], only: str | None) -> dict[str, StagePlan]:
    """The sources of all lineages, each with the last plan that reads it; of `only` that one, NotFound without it."""
    plans = {name: shared.stage.plan for shared in stages for name in shared.stage.plan.sources}
    if only is None:
        return plans
    if only not in plans:
        raise NotFound(f"no stage here reads a source `{only}`", hint=did_you_mean(only, plans))
    return {only: plans[only]}
