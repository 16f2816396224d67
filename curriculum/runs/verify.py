"""Reads back every file of a lineage and compares it with the digest that was written with it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from curriculum import fs, units
from curriculum.artifacts import checkpoints, ledger
from curriculum.artifacts.evaluations import read_evaluation
from curriculum.artifacts.stage_folder import StageFolder, checkpoint_name
from curriculum.compiler import imported_models
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.tokenizers import tokenizer_file
from curriculum.config.project import Project
from curriculum.data.damage import find_damage
from curriculum.errors import CheckpointError, CurriculumError, DataError
from curriculum.plan.stage import StagePlan
from curriculum.runs import folders
from curriculum.runs.tokenizer import check_tokenizer, trained_with

Detail = str | None


@dataclass(frozen=True, slots=True)
class Findings:
    """What was checked, with a detail of each; what is not here, and what makes it; the errors of what is wrong."""

    checked: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    wrong: list[CurriculumError] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        """What `other` found, after what was found here."""
        self.checked.extend(other.checked)
        self.absent.extend(other.absent)
        self.wrong.extend(other.wrong)

    def check(self, what: str, check: Callable[[], Detail], way_out: str | None = None) -> None:
        """Do one check; `way_out` replaces the hint of what it finds wrong, which may name another command."""
        try:
            detail = check()
        except CurriculumError as error:
            error.hint = way_out or error.hint
            self.wrong.append(error)
        else:
            self.checked.append(what + (f": {detail}" if detail else ""))


def verify(project: Project, compiled: Compiled, texts: PreparedText, skip: Collection[str] = ()) -> Findings:
    """Check every file of a lineage that training continues from; nothing is changed, and no fault ends it.

    With `skip`, stages that were checked with another lineage, text and import were checked with it too.

    The tokenizer, prepared text, an import, and of every started stage its plans, checkpoints, ledger, metrics,
    evaluations, pins, its end and whether it continues from the checkpoint that its parent has. Text that is not here
    is no fault where the tokenizer is the one that it was made with: preparing gives the same again.
    """
    findings = Findings()
    imported: list[Path] = []
    if not skip:
        _texts(findings, project, compiled, texts)
    if not skip and compiled.stages[0].plan.parent is not None:
        findings.check("what is imported", lambda: imported.extend(_imported(project, compiled)))
    for path in imported:
        way_out = f"remove the folder `{path}`, and `{texts.prepare_command}` imports it again"
        findings.check(f"import {path.name}", partial(checkpoints.verify, path), way_out)
    for stage in compiled.stages:
        if stage.name in skip:
            continue
        try:
            folder = folders.stage_folder(project, compiled, stage)
        except CurriculumError as error:
            findings.wrong.append(error)
            continue
        if folder.plan.exists() or _checkpoint_folders(folder) or folder.ledger.exists():
            _stage(findings, project, compiled, stage, folder)
            _members(findings, project, stage)
    return findings


def _texts(findings: Findings, project: Project, compiled: Compiled, texts: PreparedText) -> None:
    """The tokenizer, and all text by the tokenizer that the lineage was trained with, whatever its file is now."""
    trained = [digest for _, digest in trained_with(texts) if digest is not None]
    loaded = texts.loaded_tokenizer
    if loaded is not None:
        findings.check(f"tokenizer {compiled.tokenizer}", partial(check_tokenizer, texts))
    elif texts.faults:  # it cannot be read
        findings.wrong.extend(texts.faults)
    elif trained and texts.tokenizer_is_made:
        path = tokenizer_file(project, compiled.tokenizer)
        what = f"the tokenizer `{path}`, which the started stages were trained with, is not here"
        findings.wrong.append(DataError(what, hint=f"`{texts.prepare_command}` makes it again from the same text"))
    digest = trained[0] if trained else loaded.digest if loaded else None
    read = _digests_read(project, compiled)
    for dataset in texts.datasets():
        if digest is None or not texts.folder(dataset, digest).is_dir():
            findings.absent.append(f"text of {dataset}: `{texts.prepare_command}` makes it")
            continue
        results = list(_text(texts, texts.folder(dataset, digest), read.get(dataset, {})))
        faults = [error for error in results if isinstance(error, CurriculumError)]
        findings.wrong.extend(faults)
        if not faults:
            findings.checked.append(
                f"text of {dataset}: {sum(size for size in results if isinstance(size, int)):,} bytes"
            )


def _digests_read(project: Project, compiled: Compiled) -> dict[str, dict[str, str]]:
    """By dataset, the digests of the text that stages with a checkpoint were trained on, each with such a stage."""
    read: dict[str, dict[str, str]] = {}
    for stage in compiled.stages:
        with contextlib.suppress(CurriculumError):
            folder = folders.stage_folder(project, compiled, stage)
            if folder.plan.exists() and checkpoints.latest(folder):
                for source in StagePlan.load(folder.plan).sources.values():
                    for segment in source.segments:
                        if segment.digest is not None:
                            read.setdefault(source.dataset, {}).setdefault(segment.digest, stage.name)
    return read


def _text(texts: PreparedText, folder: Path, read: Mapping[str, str]) -> Iterator[int | CurriculumError]:
    """The bytes of every sound file, and the errors; `read` are digests of the text that stages were trained on."""
    try:
        manifest = texts.read_manifest(folder)
    except CurriculumError as error:
        yield error
        return
    assert manifest is not None
    states = {state.digest for state in manifest.states}
    for digest, stage in read.items():
        if digest not in states:
            yield DataError(
                f"the text in `{folder}` is not the one that `{stage}` was trained on: that had the digest "
                f"{digest[:12]}…",
                hint="put the folder back from a copy; text that was prepared again from changed files is another",
            )
    yield from find_damage(folder, manifest, texts.prepare_command)


def _stage(findings: Findings, project: Project, compiled: Compiled, stage: CompiledStage, folder: StageFolder) -> None:
    name, check, options = stage.name, findings.check, project.options(compiled.size_name)
    run = f"curriculum run {compiled.curriculum}{options}"
    plans: list[StagePlan] = []
    way_out = f"{_away(folder.plan)}`{run}` writes it again, as long as the files describe what was trained"
    check(f"plan of {name}", partial(_plan, folder.plan, plans), way_out)
    for path in folder.replaced_plans():
        way_out = f"put it back from a copy, or remove `{path}`: no training reads it"
        check(f"{path.stem.replace('-', ' ')} of {name}", partial(_plan, path, plans), way_out)
    kept = _checkpoint_folders(folder)
    for path in kept:
        passed = checkpoints.position_of(path) == stage.stop < stage.plan.end and path != kept[-1]
        way_out = (
            f"put `{path}` back from a copy: `{compiled.curriculum}` branches there, and `{name}` was trained past it"
            if passed
            else f"move `{path}` away; `{run}` then trains again what is missing after the one before it, if anything"
        )
        check(f"checkpoint {name} {path.name}", partial(_checkpoint, path, plans), way_out)
    plan = plans[0] if plans else None
    way_out = f"{_away(folder.ledger)}`{run}` writes the lines of the kept checkpoints again"
    check(f"ledger of {name}", lambda: _ledger(folder, stage, plan), way_out)
    for path in (folder.metrics, folder.events):
        if path.exists():
            way_out = f"put it back from a copy, or move `{path}` away: it is a log, which no training continues from"
            check(f"{path.stem} of {name}", partial(_lines, path), way_out)
    for path in folder.evaluation_files():
        way_out = _measured_again(project, compiled, stage, folder, path)
        check(f"evaluation of {name} {path.stem}", partial(_evaluation, path), way_out)
    for path in sorted(folder.pins.glob("*/*.json")):
        way_out = f"`curriculum run {path.stem}{options}` writes `{path}` again, or remove it if nothing branches there"
        check(f"pin of {name} by {path.stem}", partial(_pin, path), way_out)
    if plan is not None and plan.parent is not None and stage.parent is not None:
        check(f"lineage of {name}", lambda: _continues(project, compiled, stage, plan))
    if folder.done.exists():
        way_out = f"remove `{folder.done}`, and `{run}` writes it again"
        check(f"end of {name}", lambda: _done(folder, plan), way_out)


def _members(findings: Findings, project: Project, stage: CompiledStage) -> None:
    """The checkpoints that an average is of: their bytes, and that they are those of the average's plan."""
    for member, planned in zip(stage.members, stage.plan.average, strict=True):
        lineage, point = member.compiled, member.stage
        what = f"{point.name} at {point.stop:,} tokens, averaged in {stage.name}"
        checkpoint = folders.checkpoint_at(folders.stage_folder(project, lineage, point), point.stop)
        if checkpoint is None:
            options = project.options(lineage.size_name)
            findings.absent.append(f"{what}: `curriculum run {lineage.curriculum}{options}` trains it")
            continue
        findings.check(what, partial(_member, checkpoint.path, planned.fingerprint))


def _member(path: Path, history: str) -> None:
    checkpoints.verify(path)
    if checkpoints.state(path)["history"] != history:
        raise CheckpointError(
            f"checkpoint `{path}` is not the one that the average was planned of",
            hint="its run was changed since; average it again under a new name",
        )


def _measured_again(project: Project, compiled: Compiled, stage: CompiledStage, folder: StageFolder, path: Path) -> str:
    """The way out for a damaged evaluation: a comparison measures those of kept checkpoints again."""
    own = compiled.stages[-1].setting.curriculum
    others = dict.fromkeys(each.setting.curriculum for each in compiled.stages)
    other = next((name for name in others if name != own), None)
    is_kept = (folder.checkpoints / path.stem).is_dir()
    if stage.setting.curriculum == own and other is not None and is_kept:
        command = f"curriculum compare {own} {other}{project.options(compiled.size_name)}"
        return f"move `{path}` away, and `{command}` measures it again"
    return f"put it back from a copy, or move `{path}` away: the losses of that position are then not known any more"


def _away(path: Path) -> str:
    return f"move `{path}` away, and " if path.exists() else ""


def _checkpoint_folders(folder: StageFolder) -> list[Path]:
    """Every folder that a checkpoint was published as, oldest first, also one that lost its manifest since."""
    paths = folder.checkpoints.iterdir() if folder.checkpoints.is_dir() else ()
    return sorted(path for path in paths if checkpoints.position_of(path) is not None)


def _plan(path: Path, plans: list[StagePlan]) -> None:
    plans.append(StagePlan.load(path))


def _checkpoint(path: Path, plans: list[StagePlan]) -> None:
    """Its bytes, and that one of the stage's plans leads to it."""
    checkpoints.verify(path)
    state, position = checkpoints.state(path), checkpoints.position_of(path)
    assert position is not None
    histories = set()
    for plan in plans:
        with contextlib.suppress(CurriculumError):  # no step boundary of this plan
            histories.add(plan.history(position))
    if state.get("position") != position or (histories and state.get("history") not in histories):
        raise CheckpointError(f"checkpoint `{path.name}` is not what this stage's plan leads to")


def _lines(path: Path) -> str:
    """Every complete line is a JSON object; the last one may be cut short by a kill."""
    number = 0
    with fs.open_file(path) as file:
        for number, line in enumerate(file, 1):
            with contextlib.suppress(ValueError):
                if not line.endswith(b"\n") or isinstance(fs.parse_json(line), dict):
                    continue
            raise DataError(f"`{path}` is damaged in line {number:,}: it is not a JSON object")
    return f"{number:,} lines"


def _ledger(folder: StageFolder, stage: CompiledStage, plan: StagePlan | None) -> str:
    entries = ledger.read(folder)
    for entry in entries:
        if plan is None:
            break
        planned = {name: count for name, count in plan.windows_read(entry.position).items() if count}
        counted = {name: count for name, count in entry.windows.items() if count}
        if planned != counted:
            raise DataError(
                f"the ledger of {stage.name} counted {counted} windows at {entry.position:,} tokens, "
                f"the plan says {planned}"
            )
    kept = {checkpoint.name for checkpoint in checkpoints.list_checkpoints(folder)}
    if missing := sorted(kept - {entry.checkpoint for entry in entries}):
        raise DataError(
            f"the ledger of {stage.name} has no line for checkpoint `{missing[0]}`: `{folder.ledger}` was cut short"
        )
    reported = True
    with contextlib.suppress(CheckpointError):  # a damaged one has its own line
        newest = checkpoints.latest(folder)
        reported = newest is None or checkpoints.state(newest.path).get("counted") != "planned"
    unseen = "" if reported else "; its trainer reported no witness of what it read"
    return f"equal to the plan at {units.counted(len(entries), 'checkpoint')}{unseen}"


def _evaluation(path: Path) -> None:
    value = read_evaluation(path)
    if path.stem != checkpoint_name(value["generation"], value["position"]):
        raise DataError(f"`{path}` has another position than its name says")


def _pin(path: Path) -> None:
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        value = fs.parse_json(fs.read_bytes(path))
        if value["by"] == path.stem and value["position"] == int(path.parent.name):
            return
    raise DataError(f"the pin `{path}` is damaged; the checkpoint is kept all the same")


def _continues(project: Project, compiled: Compiled, stage: CompiledStage, plan: StagePlan) -> str:
    """The parent's history at the branch point, by its checkpoint, is the one that this stage continued from."""
    assert stage.parent is not None
    assert plan.parent is not None
    folder = folders.stage_folder(project, compiled, stage.parent)
    checkpoint = folders.checkpoint_at(folder, plan.parent.position)
    if checkpoint is None:
        raise CheckpointError(
            f"`{stage.name}` branched from `{stage.parent.name}` at {plan.parent.position:,} tokens, where no "
            "checkpoint is kept any more",
            hint=f"put it back from a copy to branch there again; what is trained of `{stage.name}` does not need it",
        )
    if checkpoints.state(checkpoint.path).get("history") != plan.parent.fingerprint:
        raise CheckpointError(
            f"`{stage.name}` branched from another history than checkpoint `{checkpoint.name}` of "
            f"`{stage.parent.name}` now has",
            hint="one of the two was put there from elsewhere: put back from a copy what belongs together",
        )
    return f"branched from {stage.parent.name} at {plan.parent.position:,} tokens"


def _done(folder: StageFolder, plan: StagePlan | None) -> None:
    try:
        value = fs.read_sealed(folder.done, ("checkpoint", "position", "weights"))
        kept = folder.checkpoints / str(value["checkpoint"])
        sound = value["position"] == checkpoints.position_of(kept) == (plan.end if plan else value["position"])
    except (OSError, ValueError):
        sound = False
    if not sound:
        raise DataError(f"`{folder.done}` is damaged")
    if not kept.is_dir():
        raise DataError(f"`{folder.done}` names checkpoint `{kept.name}`, which is not here")


def _imported(project: Project, compiled: Compiled) -> list[Path]:
    """The checkpoint of an import: of the directory as it is now, else the one that a run started from."""
    first = compiled.stages[0]
    if first.setting.imported is None:
        return []
    digest = imported_models.digest(project, first.setting.imported)
    plan = folders.stage_folder(project, compiled, first).plan
    if digest is None and plan.exists():
        parent = StagePlan.load(plan).parent
        digest = parent.fingerprint if parent else None
    folders_of_import = [imported_models.checkpoint(project, digest)] if digest else []
    return [folder for folder in folders_of_import if folder.exists()]
