"""A project as tables, for a notebook or a script: `project = curriculum.open(".")`.

A table is a list of flat dicts, one a row, all rows with the same keys: `pandas.DataFrame(table)` and
`pyarrow.Table.from_pylist(table)` take it as it is. Positions and lengths are in tokens at the given size (the
project's default if None), losses in nats a token. Every call reads the files as they are now; nothing is written.
A study's arm, `STUDY/ARM`, is taken wherever a curriculum is.
Errors are `curriculum.errors.CurriculumError`.
"""

from __future__ import annotations

import operator
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from curriculum.analysis import batch, diff_sides, trace
from curriculum.artifacts.anomalies import read_anomalies
from curriculum.artifacts.metrics import read_metrics
from curriculum.compiler import prepared_text, summary
from curriculum.compiler.compile import Compiled
from curriculum.compiler.overlap import with_overlap
from curriculum.config.project import Project
from curriculum.errors import CurriculumError, DataError, NotFound, PlanError, did_you_mean
from curriculum.plan.diff.compare import PlanDiff, compare
from curriculum.runs import drift, folders, held_out
from curriculum.runs.status import project_status
from curriculum.stream.stream import Stream, StreamStage

if TYPE_CHECKING:
    from curriculum.studies.tables import RunTables, StudyTables

Row: TypeAlias = dict[str, Any]
Table: TypeAlias = list[Row]


class ProjectTables:
    """The project in a folder or in the nearest one above it."""

    def __init__(self, folder: str | Path = ".") -> None:
        self.root = Project.find(Path(folder)).root

    def __repr__(self) -> str:
        return f"curriculum.open({str(self.root)!r}): {', '.join(self.curricula)}"

    @property
    def studies(self) -> list[str]:
        """The names of the files in studies/."""
        return self._project.names("studies")

    @property
    def curricula(self) -> list[str]:
        """The names of the files in stages/."""
        return self._project.names("stages")

    def plan(self, curriculum: str, size: str | None = None, machine: str = "local") -> PlanTables:
        """A curriculum, compiled with the text that is prepared so far."""
        project, texts = self._texts(curriculum, size)
        compiled = with_overlap(texts, texts.compiled)
        report = summary.summarise(project, compiled, machine, project.machine(machine))
        return PlanTables(project, compiled, texts, report)

    def status(self, curriculum: str | None = None, size: str | None = None) -> Table:
        """A row for every stage of the project, or of one lineage: its state and how far it is."""
        project = self._project
        return [
            {
                "stage": stage.name,
                "from": branch.parent,
                "state": stage.state,
                "starts_at": stage.starts_at,
                "position": stage.position,
                "ends_at": stage.ends_at,
                "checkpoints": len(stage.checkpoints),
            }
            for branch in project_status(project, size or project.default_size, curriculum).branches
            for stage in branch.stages
        ]

    def metrics(self, curriculum: str, size: str | None = None) -> Table:
        """A row for every logged step of the lineage, root first; a column `loss/SOURCE` for every source."""
        project, texts = self._texts(curriculum, size)
        return [
            {"stage": stage.name, **_metrics(line, texts.compiled)}
            for stage in texts.compiled.stages
            for line in read_metrics(folders.stage_folder(project, texts.compiled, stage).metrics)
            if line["position"] <= stage.stop
        ]

    def anomalies(self, curriculum: str, size: str | None = None) -> Table:
        """A row for every loss spike and every gradient that was not finite along the lineage.

        `documents` are those of the step's worst sequences; the stage file of a branch leaves the step out with
        `skip: [{from: skip_from, to: skip_to}]` (full-size tokens; None for the first step).
        """
        project, texts = self._texts(curriculum, size)
        rows = []
        for stage in texts.compiled.stages:
            for anomaly in read_anomalies(folders.stage_folder(project, texts.compiled, stage), stage.stop):
                row = {"stage": stage.name, **asdict(anomaly), "documents": ", ".join(anomaly.documents)}
                skip = row.pop("skip") or {}
                rows.append({**row, "skip_from": skip.get("from"), "skip_to": skip.get("to")})
        return rows

    def evaluations(self, curriculum: str, size: str | None = None) -> Table:
        """A row for every held-out loss measured along the lineage, by source and position."""
        project, texts = self._texts(curriculum, size)
        return [
            {"curriculum": curriculum, "source": source, "position": position, "loss": loss}
            for source, curve in held_out.curves(project, texts.compiled).items()
            for position, loss in curve
        ]

    def dataset(
        self,
        source: str,
        split: str = "train",
        *,
        curriculum: str | None = None,
        size: str | None = None,
        verify: bool = True,
    ) -> Any:
        """The prepared text of a source as a `datasets.Dataset`: a row a document, with `id` and `tokens`.

        All its bytes are compared with their digests first, unless `verify` is false, for a quick look at a large one.
        NotFound where no curriculum reads the source; DataError where it is not prepared, and where curricula with
        other tokenizers read it too and none is named.
        """
        from curriculum.integrations.datasets import prepared_dataset

        names: dict[Path, str] = {}
        readers = []
        faulty: CurriculumError | None = None
        for name in [curriculum] if curriculum else self.curricula:
            try:
                _, texts = self._texts(name, size)
            except CurriculumError as error:  # another curriculum's fault, where one can be read
                faulty = faulty or error
                continue
            dataset = texts.curriculum.datasets.get(source, source)
            if dataset in texts.datasets():
                readers.append(name)
                if texts.manifest(dataset) is not None:
                    names.setdefault(texts.folder(dataset), name)
        if not readers and faulty is not None:
            raise faulty
        if not readers:
            raise NotFound(
                f"no curriculum here reads a source `{source}`",
                hint=did_you_mean(source, self._project.sources.sources),
            )
        if len(names) != 1:
            raise DataError(
                f"`{source}` is prepared for several tokenizers: those of {', '.join(names.values())}"
                if names
                else f"`{source}` is not prepared yet",
                hint='name one, as in `dataset(…, curriculum="NAME")`'
                if names
                else f"`curriculum prepare {readers[0]}`",
            )
        return prepared_dataset(next(iter(names)), split, verify=verify)

    def stream(self, curriculum: str, stage: str | None = None, size: str | None = None) -> Stream:
        """The tokens and learning rates of a lineage, or of one of its stages, for any training loop.

        Of started stages it takes the plans that trained them. DataError while a source is not prepared.
        """
        project, texts = self._texts(curriculum, size)
        trained, lines = drift.as_trained(project, texts.compiled)
        for line in lines:
            warnings.warn(line, stacklevel=2)
        stages = []
        for each in trained.stages:
            datasets = {name: source.dataset for name, source in each.plan.sources.items()}
            missing = [name for name, dataset in datasets.items() if texts.manifest(dataset) is None]
            if missing:
                raise DataError(
                    f"the text of `{missing[0]}` is not prepared, so there are no tokens to read",
                    hint=f"`curriculum prepare {curriculum} --size {texts.curriculum.size_name}` prepares it",
                )
            folders = {name: str(texts.folder(dataset)) for name, dataset in datasets.items()}
            last_step = each.plan.first_step + each.steps_run
            stages.append(StreamStage(each.name, each.plan, last_step, folders))
        lineage_stream = Stream(tuple(stages))
        return lineage_stream if stage is None else lineage_stream.stage(stage)

    def diff(self, old: str, new: str, size: str | None = None) -> Table:
        """A row for everything in which two curricula differ, the first first; empty where they are the same.

        `old` and `new` are names, addresses (NAME[/STAGE][@TOKENS]), stage files or plan.json files.
        """
        compared = self._compared(old, new, size)
        return [asdict(part) for part in sorted(compared.parts, key=lambda part: part.position)]

    def moved(self, old: str, new: str, size: str | None = None) -> Table:
        """A row for every source: the tokens that either curriculum reads of it after they differ."""
        compared = self._compared(old, new, size)
        return [{**asdict(moved), "difference": moved.difference} for moved in compared.moved]

    def study(self, name: str, size: str | None = None) -> StudyTables | RunTables:
        """A study with its arms: their state, what they measured, laws, and the newest decision.

        Of a study of runs that are there (`arms:`, `table:`) the arms are those runs.
        """
        from curriculum.studies.arms import compile_study
        from curriculum.studies.tables import RunTables, StudyTables

        project = self._project
        size = size or project.default_size
        if project.study(name)[0].subject in ("arms", "table"):
            return RunTables(project, name, size)
        return StudyTables(compile_study(project, name, size))

    def _compared(self, old: str, new: str, size: str | None) -> PlanDiff:
        project = self._project
        sides = (diff_sides.side(project, name, size or project.default_size) for name in (old, new))
        return compare(*(side.lineage for side in sides))

    def _texts(self, curriculum: str, size: str | None) -> tuple[Project, prepared_text.PreparedText]:
        project = self._project
        size = size or project.default_size
        if project.is_arm(curriculum):
            from curriculum.studies.arms import find_arm

            arm = find_arm(project, curriculum, size)
            return arm.project, arm.texts
        return project, prepared_text.PreparedText.open(project, curriculum, size)

    @property
    def _project(self) -> Project:
        """The project with its files as they are now."""
        return Project(self.root)


class PlanTables:
    """A compiled curriculum; `summary` has the values of `curriculum plan --json`.

    What a step reads is that of the plans that trained it, with a warning where the files were edited since.
    """

    def __init__(self, project: Project, compiled: Compiled, texts: prepared_text.PreparedText, report: Row) -> None:
        self._project = project
        self.compiled = compiled
        self.summary = report
        self._texts = texts
        self._trained, lines = drift.as_trained(project, compiled)
        for line in lines:
            warnings.warn(line, stacklevel=3)

    def __repr__(self) -> str:
        stages = " -> ".join(stage.name for stage in self.compiled.stages)
        return f"plan of {self.compiled.curriculum}, size {self.compiled.size_name}: {stages}"

    @property
    def steps(self) -> int:
        """Optimizer updates of the whole lineage."""
        return sum(stage.steps_run for stage in self.compiled.stages)

    @property
    def stages(self) -> Table:
        """A row for every stage of the lineage: steps, batch, positions, learning rate, its ramp in tokens."""
        stages = self.summary["stages"]
        flat = [key for key in stages[0] if not any(isinstance(stage[key], dict | list) for stage in stages)]
        return [
            {
                "stage": f"{stage['curriculum']}/{stage['stage']}",
                **{key: stage[key] for key in flat if key != "stage"},
                "ramp": stage["ramp"]["tokens"] if stage["ramp"] else 0,
            }
            for stage in stages
        ]

    @property
    def sources(self) -> Table:
        """A row for every source of every stage: shares asked and got, epochs (`passes`), first repeated step."""
        return [
            {
                "stage": f"{stage['curriculum']}/{stage['stage']}",
                "source": name,
                **source,
                "first_repeat": source["first_repeat"]["step"] if source["first_repeat"] else None,
            }
            for stage in self.summary["stages"]
            for name, source in stage["sources"].items()
        ]

    def lr(self, points: int = 200) -> Table:
        """Learning rate and batch at about `points` steps, evenly spread over the lineage, its ends among them."""
        steps = sorted({at * (self.steps - 1) // max(1, points - 1) for at in range(points)})
        rows = []
        for stage in self.compiled.stages:
            plan = stage.plan
            rows += [
                {
                    "stage": stage.name,
                    "step": step,
                    "position": plan.position_after(step),
                    "lr": plan.lr(step),
                    "batch_tokens": plan.tokens_of(step),
                }
                for step in steps
                if plan.first_step <= step < plan.first_step + stage.steps_run
            ]
        return rows

    def batch(self, step: int, *, text: bool = False) -> Table:
        """A row for every slot of a step: source, pass, window, with `text` its beginning; see `documents`."""
        return [
            {**{key: value for key, value in slot.items() if key != "documents"}, "step": step}
            for slot in self._batch(step, text)["slots"]
        ]

    def documents(self, step: int) -> Table:
        """A row for every document of every slot of a step, once the text is prepared."""
        return [
            {"step": step, "slot": slot["slot"], "source": slot["source"], **document}
            for slot in self._batch(step, False)["slots"]
            for document in slot.get("documents", ())
        ]

    def trace(self, *, document: str | None = None, source: str | None = None, span: str | None = None) -> Table:
        """A row for every past or future slot that reads a document (by its id), or a range of a source.

        `span` is FIRST:END in windows of `source`. PlanError where there are too many to list.
        """
        if document is None and (source is None or span is None):
            raise PlanError("nothing to trace", hint='`document="ID"`, or `source="S", span="0:100"`')
        readings = trace.trace(self._project, [self._trained], self._texts, document=document, source=source, span=span)
        if any(stage["steps"] is None for stage in readings["stages"]):
            raise PlanError(
                f"{readings['readings']:,} readings are too many to list",
                hint="ask for a shorter range; `curriculum trace` counts them",
            )
        return [
            {
                "stage": f"{stage['curriculum']}/{stage['stage']}",
                **{key: value for key, value in reading.items() if key != "lineages"},
            }
            for stage in readings["stages"]
            for reading in stage["steps"]
        ]

    def _batch(self, step: int, text: bool) -> Row:
        return batch.batch(self._trained, self._texts, operator.index(step), text=text)


def _metrics(line: Row, compiled: Compiled) -> Row:
    """A line of metrics.jsonl, flat: numbers alone, with a column for every source of the lineage."""
    row = {key: value for key, value in line.items() if key != "sources"}
    row |= {key: float(row[key]) for key in ("loss", "grad_norm")}  # JSON has no NaN: it is written as text
    for key, default in {"skipped": False, "checkpoint_seconds": 0.0, "evaluation_seconds": 0.0}.items():
        row.setdefault(key, default)
    for name in sorted(compiled.sources):
        measured = line["sources"].get(name)
        row[f"loss/{name}"] = float(measured["loss"]) if measured else None
        row[f"tokens/{name}"] = measured["tokens"] if measured else 0
    return row
