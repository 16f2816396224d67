"""The sides of `curriculum diff A B`: a curriculum, an address, a stage file or a stored plan, as a lineage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from curriculum import config
from curriculum.artifacts import checkpoints
from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.compile import spans
from curriculum.compiler.lineage import parse_address, stages_to
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.project import Project
from curriculum.config.yaml import load_yaml
from curriculum.errors import NotFound, PlanError
from curriculum.plan.diff.timeline import Lineage, Span
from curriculum.plan.stage import StagePlan
from curriculum.runs import folders


@dataclass(frozen=True, slots=True)
class Side:
    """One of two lineages to compare, with the argument that names it."""

    label: str
    lineage: Lineage


def side(project: Project, argument: str, size: str) -> Side:
    """Read one side; NotFound, or the errors of its files."""
    path = Path(argument)
    if path.is_dir() and StageFolder(path).plan.is_file():
        path = StageFolder(path).plan
    if path.suffix == ".json":
        plan = StagePlan.load(path)
        name = "/".join(str(plan.labels[key]) for key in ("curriculum", "stage") if key in plan.labels)
        return Side(argument, (Span(name or path.stem, plan, plan.end),))
    if path.suffix in (".yaml", ".yml") or ("/" in argument and path.is_file()):
        if not path.is_file():
            raise NotFound(f"there is no file `{argument}`", hint="a curriculum of this project goes by its name")
        name = path.stem if config.is_name(path.stem) else "given"
        document = load_yaml(path.resolve(), root=project.root)
        texts = PreparedText.open(project.with_stage_file(name, document), name, size)
    else:
        address = parse_address(argument)
        texts = PreparedText.open(project, address.curriculum, size, stages_to(project, address))
    return Side(argument, spans(texts.compiled.stages))


@dataclass(frozen=True, slots=True)
class SavedStage:
    """A started stage: the position of its last checkpoint in tokens, None without one.

    `parent_retrained` is whether its parent was retrained since, so that it no longer continues from it.
    """

    stage: str
    saved: int | None
    done: bool
    parent_retrained: bool


def against_what_ran(project: Project, name: str, size: str) -> tuple[Side, Side, tuple[SavedStage, ...]] | None:
    """The stored plans of `name`'s started stages and the plans of its files; None when no stage has started."""
    compiled = PreparedText.open(project, name, size).compiled
    started = [
        plans
        for stage, plans in zip(compiled.stages, folders.started_stages(project, compiled), strict=False)
        if plans[0] is stage
    ]
    if not started:
        return None
    stages, stored, files = [], [], []
    before: dict[str, StagePlan] = {}
    for stage, plan, current in started:
        folder = folders.stage_folder(project, compiled, stage)
        last = checkpoints.latest(folder)
        parent_retrained = stage.parent is not None and _parent_retrained(plan, before.get(stage.parent.name))
        stages.append(SavedStage(stage.name, last.position if last else None, folder.done.exists(), parent_retrained))
        before[stage.name] = plan
        leaves_early = stage.stop < stage.plan.end and stage.stop <= plan.end
        stored.append(Span(stage.name, plan, stage.stop if leaves_early else plan.end))
        files.append(Span(stage.name, current, stage.stop))
    sides = Side(f"what ran of {name}", tuple(stored)), Side(f"the files of {name}", tuple(files))
    return *sides, tuple(stages)


def _parent_retrained(plan: StagePlan, before: StagePlan | None) -> bool:
    if plan.parent is None or before is None:
        return False
    try:
        return before.history(plan.start) != plan.parent.fingerprint
    except PlanError:  # the retrained parent has no step boundary there
        return True
