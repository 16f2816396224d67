"""Writes the stage file of a variant that branches from a curriculum at a checkpoint, and pins that checkpoint."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from decimal import Decimal
from functools import reduce
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from curriculum import fs
from curriculum.artifacts import checkpoints
from curriculum.compiler.compile import Compiled, CompiledStage
from curriculum.compiler.lineage import Address, LineageStage, Setting, length_in_tokens, lineage, stages_to
from curriculum.compiler.prepared_text import PreparedText
from curriculum.config import json_schema
from curriculum.config.project import Project
from curriculum.errors import ConfigError, PlanError
from curriculum.runs import drift, folders
from curriculum.units import Length, parse_length, show_exact

_NO_MIXTURES: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a branch does differently from its parent; None keeps the parent's. Lengths are full-size.

    With `decay` it is one stage over which the learning rate falls `to` a value (0) in a `shape` (linear).
    """

    mixture: str | None = None
    ramp: str | None = None
    until: str | None = None
    batch: str | None = None
    reset_optimizer: bool = False
    decay: str | None = None
    to: str | None = None
    shape: str | None = None


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A variant as written: its compiled lineage and its parent's, with the stored plans of what was trained.

    `mixtures` are the mixture files that were written with it, by name; `departed` has a line for each stage of the
    parent whose files changed since. A root leaves no stage: `leaves` is None, and `parent` what it repeats.
    """

    name: str
    text: str
    mixtures: Mapping[str, str]
    texts: PreparedText
    parent: Compiled
    departed: tuple[str, ...] = ()
    leaves: CompiledStage | None = None
    checkpoint: checkpoints.Checkpoint | None = None

    @property
    def compiled(self) -> Compiled:
        return self.texts.compiled

    @property
    def provenance(self) -> Mapping[str, str]:
        """Where the text of its sources is from, a line for each dataset."""
        return self.texts.provenance_lines()


def branch(project: Project, address: Address, name: str, change: Change, size: str) -> Branch:
    """Write `stages/<name>.yaml`, branching from `address`, and pin the checkpoint there at this size.

    Nothing is written when the name is taken, the variant cannot be planned, or the parent was trained past
    that position and kept no checkpoint there (CheckpointError that names the nearest).
    """
    project.check_is_new(name)
    if change.until is not None:
        _check_until(project, address, change.until, size)
    return write_branch(project, address, name, draft(project, address, name, change), size)


def write_branch(
    project: Project, address: Address, name: str, text: str, size: str, mixtures: Mapping[str, str] = _NO_MIXTURES
) -> Branch:
    """Write `text` as `stages/<name>.yaml`, and new `mixtures` by name; otherwise as `branch` does.

    ConfigError for a mixture whose name is taken.
    """
    _check_are_new(project, name, mixtures)
    texts = PreparedText.open(project.with_draft(name, text, mixtures), name, size)
    compiled = texts.compiled
    parent, departed = drift.as_trained(project, PreparedText.open(project, address.curriculum, size).compiled)
    own = next(stage for stage in compiled.stages if stage.setting.curriculum == name)
    assert own.parent is not None
    leaves = own.parent
    checkpoint = folders.branch_point(project, compiled, leaves)
    folder = folders.stage_folder(project, compiled, leaves)
    with checkpoints.pinning(folder) if folder.path.is_dir() else nullcontext():
        project.check_is_new(name)
        # the pin comes first: `discard` reads pins after it has renamed the checkpoint
        pin = checkpoints.pin(folder, leaves.stop, name) if folder.path.is_dir() else None
        try:
            checkpoint = folders.branch_point(project, compiled, leaves)
            _write_files(project, name, text, mixtures)
        except BaseException:
            if pin is not None and not _stage_file(project, name).exists():
                fs.remove(pin)
                fs.fsync(pin.parent)
            raise
    return Branch(
        name=name,
        text=text,
        mixtures=mixtures,
        texts=texts,
        parent=parent,
        departed=departed,
        leaves=leaves,
        checkpoint=checkpoint,
    )


def write_root(
    project: Project, name: str, text: str, size: str, mixtures: Mapping[str, str], like: Compiled
) -> Branch:
    """Write `text`, a root that repeats the lineage `like`, as `stages/<name>.yaml`, and new `mixtures` by name.

    Nothing is pinned: a root trains from its first step. ConfigError for a name that is taken.
    """
    _check_are_new(project, name, mixtures)
    texts = PreparedText.open(project.with_draft(name, text, mixtures), name, size)
    _ = texts.compiled  # what cannot be planned is refused before anything is written
    _write_files(project, name, text, mixtures)
    return Branch(name=name, text=text, mixtures=mixtures, texts=texts, parent=like)


def _stage_file(project: Project, name: str) -> Path:
    return project.root / "stages" / f"{name}.yaml"


def _write_files(project: Project, name: str, text: str, mixtures: Mapping[str, str]) -> None:
    """Write new `mixtures` by name, then `text` as the stage file; without the stage file no mixture is left."""
    written: list[Path] = []
    try:
        for mixture, content in mixtures.items():
            path = project.root / "mixtures" / f"{mixture}.yaml"
            fs.write_bytes(path, content.encode())
            written.append(path)
        fs.write_bytes(_stage_file(project, name), text.encode())
    except BaseException:
        if not _stage_file(project, name).exists():
            for path in written:
                fs.remove(path)
                fs.fsync(path.parent)
        raise


def _check_are_new(project: Project, name: str, mixtures: Mapping[str, str]) -> None:
    project.check_is_new(name)
    for mixture in mixtures:
        if mixture in project.names("mixtures"):
            raise ConfigError(
                f"`mixtures/{mixture}.yaml` exists already; nothing was written",
                hint="take another name for the curriculum: its mixture has the same",
            )


def draft(
    project: Project, address: Address, name: str, change: Change, added: Mapping[str, Sequence[Any]] | None = None
) -> str:
    """The stage file of a branch: the stages of its parent after `address`, with the change.

    `added` are entries for lists of its first stage, as `skip`.
    """
    before = stages_to(project, address)
    cut = before[-1].cut is not None  # the stage that the point cuts comes again
    remaining = lineage(project, address.curriculum)[len(before) - cut :]
    base = before[-1].setting
    until = _position(change.until) if change.until is not None else None
    if change.decay is None and (change.to is not None or change.shape is not None):
        option = "--to" if change.to is not None else "--shape"
        raise PlanError(
            f"`{option}` says how a rate falls, and without `--decay` none does", hint="as in `--decay 100B`"
        )
    if not remaining and until is None and change.decay is None:
        raise PlanError(
            f"`{address}` is the end of its curriculum: a branch there has no stage left",
            hint="say how far it goes, as in `--until 2.5T`, or branch earlier",
        )
    entries = stage_entries(project, remaining, cut=before[-1].cut) or [(0, {"name": "continued"})]
    if change.decay is not None:
        entries = [_decay(base, before[-1].left_at, change, entries[0][1] if cut else {})]
    stages, ends = [entry for _, entry in entries], [end for end, _ in entries]
    if until is not None:
        count = next((at + 1 for at, end in enumerate(ends) if end >= until.amount), len(ends))
        stages = [_kept_up_to(stage, until.amount) for stage in stages[:count]]
        stages[-1]["until"] = str(until)
        stages[-1].pop("tokens", None)
    replaced = []
    if change.mixture is not None:
        for stage in stages:
            own = {key: stage.pop(key) for key in ("mixture", "ramp", "skip") if key in stage}
            if own:
                stated = " ".join(flow(own).split())  # a comment has one line
                replaced.append(f"# Left out of `{stage['name']}`, where `{change.mixture}` takes its place: {stated}")
    changed = {"mixture": change.mixture, "ramp": change.ramp, "batch": change.batch}
    stages[0] |= {key: value for key, value in changed.items() if value is not None}
    if change.reset_optimizer:
        stages[0]["optimizer"] = "reset"
    for key, more in (added or {}).items():
        stages[0][key] = [*stages[0].get(key, ()), *more]
    then = f"then {change.mixture}" if change.mixture else "decayed" if change.decay else "continued"
    about = f"{address}, {then}"
    lines = [
        json_schema.modeline(f"stages/{name}.yaml"),
        f"# Branches from {address}, in stage `{base.stage}`. All that is unsaid comes from that point: weights,",
        "# optimizer state, learning rate, batch, mixture, and the position of every source.",
        f"about: {scalar(about)}",
        f"from: {address}",
        f"stages:{' ' * 31}# the parent's own, from there on; `until` counts tokens from the root",
    ]
    lines += [f"  - {flow(stage)}" for stage in stages] + replaced
    lines += [
        "# A stage may also state: batch, ramp (how long shares move), learning_rate with rewarm, optimizer: reset,",
        "# every, skip. `curriculum plan` shows what comes of it before anything runs.",
    ]
    return "\n".join(lines) + "\n"


def _decay(base: Setting, start: int, change: Change, rest: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
    """The end and the entry of one stage over which the rate falls from where it is, after full-size token `start`.

    `rest` is what a stage that the branch cuts has left: of it the ranges are skipped that the new stage reaches.
    """
    assert change.decay is not None
    try:
        length = parse_length(change.decay)
    except ValueError as error:
        raise PlanError(f"`--decay`: {error}", hint="as in `--decay 100B` or `--decay '5000 steps'`") from None
    end = start + length_in_tokens(base, length, "batch")
    fall = {"shape": "decay", "min": change.to or "0", "decay": change.decay}
    fall |= {"decay_shape": change.shape} if change.shape is not None else {}
    entry: dict[str, Any] = {"name": "decay", "tokens": change.decay, "learning_rate": fall}
    skip = [stated for stated in rest.get("skip", ()) if parse_length(stated["from"]).amount < end]
    return end, entry | ({"skip": skip} if skip else {})


def _position(text: str) -> Length:
    try:
        position = parse_length(text)
    except ValueError as error:
        raise PlanError(f"`--until`: {error}", hint="as in `--until 2T`") from None
    if position.unit != "tokens":
        raise PlanError("`--until` is a position in tokens, counted from the root", hint="as in `--until 2T`")
    return position


def _check_until(project: Project, address: Address, stated: str, size: str) -> None:
    """PlanError for an end at or before the step boundary at which a branch leaves."""
    texts = PreparedText.open(project, address.curriculum, size, stages_to(project, address))
    leaves = texts.compiled.stages[-1]
    if _position(stated).amount * texts.compiled.scale <= leaves.stop:
        raise PlanError(
            f"`--until {stated}` leaves a branch at `{address}` no step: it starts at {show_exact(leaves.stop)} tokens",
            hint="give a later end, or branch earlier, as in NAME@TOKENS",
        )


def _kept_up_to(stage: dict[str, Any], end: int) -> dict[str, Any]:
    """The stage without the positions of its `keep` past `end`."""
    kept = [position for position in stage.get("keep", ()) if parse_length(position).amount <= end]
    return {key: value for key, value in stage.items() if key != "keep"} | ({"keep": kept} if kept else {})


def _end(stage: LineageStage) -> int:
    return stage.cut if stage.cut is not None else stage.setting.until


def stage_entries(
    project: Project, stages: Sequence[LineageStage], *, cut: int | None
) -> list[tuple[int, dict[str, Any]]]:
    """Stages as their files state them, with their ends; of a first one that is `cut`, the end and the later skips."""
    entries: list[tuple[int, dict[str, Any]]] = []
    names: set[str] = set()
    for number, stage in enumerate(stages):
        setting = stage.setting
        entry = reduce(operator.getitem, setting.path, setting.document.value)
        until = entry.get("until") if stage.cut is None else None
        until = until or str(Length(_end(stage), "tokens"))
        goes_on = number == 0 and cut is not None  # all that it states is in force where it is left
        above = _of_file(project, setting.curriculum) if setting.path == ("stages", 0) and not goes_on else {}
        stated = above | {k: v for k, v in entry.items() if k not in {"name", "until", "tokens", "skip"}}
        first = cut if number == 0 and cut is not None else 0
        skips = zip(entry.get("skip", ()), setting.skip, strict=True)
        skip = [stated for stated, parsed in skips if first <= parsed.from_ < _end(stage)]
        if number and stages[number - 1].cut is not None and not stated:
            # what a branch of a branch left of a stage and the rest of it are one
            _, before = entries[-1]
            skip = [*before.pop("skip", ()), *skip]
            entries[-1] = _end(stage), before | {"until": until} | ({"skip": skip} if skip else {})
            continue
        if goes_on:
            stated = {}
        stated |= {"skip": skip} if skip else {}
        if "keep" in stated:
            stated["keep"] = [str(position) for position in setting.keep]
        name = setting.stage
        while name in names:
            name += "-again"
        names.add(name)
        entries.append((_end(stage), {"name": name, "until": until} | stated))
    return entries


def _of_file(project: Project, curriculum: str) -> dict[str, Any]:
    """What a variant's file states above its stages, which holds for its first one."""
    file, document = project.curriculum(curriculum)
    if file.from_ is None:
        return {}
    if file.optimizer is not None:
        raise PlanError(
            f"`{curriculum}` changes the optimizer, which a stage file that is written for you cannot repeat",
            place=document.place(("optimizer",)),
            hint="branch past that point, or write the stage file by hand",
        )
    keys = ("sequence_length", "learning_rate", "every", "keep", "held_out_windows")
    return {key: document.value[key] for key in keys if key in document.value}


def flow(value: Any) -> str:
    """`value`, as it is in a stage file, in YAML's flow style."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(entry) for entry in value) + "]"
    return scalar(value)


def scalar(value: Any) -> str:
    """A YAML scalar in flow style; text is quoted only where it must be."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | Decimal):
        return str(value)
    text = str(value)
    plain = text and not set(text) & set("{}[],#&*!|>'\"%@`:\\\n\t") and text == text.strip() and text[0] not in "-?"
    return text if plain else json.dumps(text, ensure_ascii=False)
