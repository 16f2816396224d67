"""The lineage of a curriculum: the stages before its branch point, then its own, each with every setting resolved.

A stage keeps what it does not change: every unstated key comes from the stage before it, through branch points
up to the root. Never inherited are `ramp`, `skip`, `positions`, `data_seed`, `rewarm` and `optimizer: reset`, which are
events, not settings; an unfinished ramp is followed to its end all the same, and the events of a stage that is left
before its first step happen in the next one (`resolve`). Excluded shards (`leave_out`) stay excluded. Every length is
at full size; `scaling` applies a size.
"""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

from curriculum import config
from curriculum.artifacts import huggingface
from curriculum.compiler.address import Address as Address, parse_address as parse_address
from curriculum.compiler.setting import (
    AverageMember as AverageMember,
    BatchLevel as BatchLevel,
    LineageStage as LineageStage,
    Setting as Setting,
    batch_sequences as batch_sequences,
    kept_tokens,
    length_in_tokens as length_in_tokens,
    with_batch_levels,
)
from curriculum.config.layout import PREFIX, directory_of
from curriculum.config.project import Project
from curriculum.config.yaml import Document
from curriculum.errors import ConfigError, DataError, NotFound, Place, PlanError, did_you_mean
from curriculum.units import Length, show_count

AVERAGE = "average"
"""The name of the stage that an average is."""

LARGEST_UNTIL = 10**18
"""In tokens; with it every position of a plan fits a signed 64-bit integer."""


def lineage(project: Project, name: str) -> tuple[LineageStage, ...]:
    """Every stage from the root to the last stage of curriculum `name`, each with every setting stated."""
    return _stages(project, name, ())


def stages_to(project: Project, address: Address) -> tuple[LineageStage, ...]:
    """The lineage that ends at `address`: at a stage's end, at a position, or at the curriculum's end."""
    return _cut(lineage(project, address.curriculum), address, None)


def _stages(project: Project, name: str, below: tuple[str, ...]) -> tuple[LineageStage, ...]:
    file, document = project.curriculum(name)
    imported = None
    if file.from_ is None or (isinstance(file.from_, str) and file.from_.startswith(PREFIX)):
        stages: tuple[LineageStage, ...] = ()
        if file.from_ is not None:
            imported = _imported(project, file.from_, document)
    else:
        chain = (*below, name)
        if isinstance(file.from_, str):
            _, stages = _stages_from(project, file.from_, chain, document.place(("from",)))
        else:
            stages = _averaged(project, file.from_, chain, document)
    for number, stage in enumerate(file.stages):
        before = stages[-1] if stages else None
        stages = (*stages, LineageStage(_setting(name, file, document, number, stage, before, imported)))
    _check_keep(file, document, stages)
    return stages


def _stages_from(
    project: Project, text: str, chain: tuple[str, ...], place: Place
) -> tuple[Address, tuple[LineageStage, ...]]:
    """An address that `from:` of the last of `chain` names, and the lineage up to there."""
    try:
        address = parse_address(text)
    except NotFound as error:
        raise ConfigError(error.what, place=place, hint=error.hint) from None
    if address.curriculum in chain:
        circle = " -> ".join((*chain[chain.index(address.curriculum) :], address.curriculum))
        raise PlanError(
            f"`from:` is circular: {circle}", place=place, hint="one of them must be a root, without `from:`"
        )
    if address.curriculum not in project.names("stages"):
        raise NotFound(
            f"`{chain[-1]}` branches from `{address.curriculum}`, which does not exist",
            place=place,
            hint=did_you_mean(address.curriculum, project.names("stages")),
        )
    return address, _cut(_stages(project, address.curriculum, chain), address, place)


def _averaged(
    project: Project, stated: config.AverageEntry, chain: tuple[str, ...], document: Document
) -> tuple[LineageStage, ...]:
    """The lineage of the first of the averaged checkpoints, and after it the average, a stage without a step.

    The moving average that one checkpoint keeps is taken in the same way.
    """
    name, average = chain[-1], stated.average
    members: list[tuple[Address, tuple[LineageStage, ...]]] = []
    if average is None:
        members.append(_moving_average(project, stated, chain, document))
    elif isinstance(average, config.LastEntry):
        place = document.place(("from", "average", "of"))
        address, stages = _stages_from(project, average.of, chain, place)
        for position in _last_positions(stages, average.last, place):
            one = replace(address, position=position)
            members.append((one, _cut(stages, one, place)))
    else:
        for number, text in enumerate(average):
            path = ("from", "average", number)
            place = document.place(path if path in document else ("from", "average"))
            members.append(_stages_from(project, text, chain, place))
    weights = stated.weights or (Fraction(1),) * len(members)
    stages = members[0][1]
    before, end = stages[-1].setting, stages[-1].left_at
    due = [level for level in before.batch_levels if level.position <= end]
    setting = replace(
        before,
        curriculum=name,
        stage=AVERAGE,
        until=end,
        keep=(),
        own_mixture=False,
        batch=due[-1].batch if due else before.batch,
        batch_levels=tuple(level for level in before.batch_levels if level.position > end),
        own_rate_exponent=None,
        ramp=None,
        skip=(),
        data_seeds=(),
        earlier_data_seeds=(*before.earlier_data_seeds, *before.data_seeds),
        leave_out=(),
        left_out=(*before.left_out, *before.leave_out),
        positions=None,
        reset_optimizer=True,
        own_learning_rate=False,
        rewarm=None,
        average=tuple(
            AverageMember(address, lineage, weight, stated.ema is not None)
            for (address, lineage), weight in zip(members, weights, strict=True)
        ),
        document=document,
        path=("from",),
    )
    return (*stages, LineageStage(setting))


def _moving_average(
    project: Project, stated: config.AverageEntry, chain: tuple[str, ...], document: Document
) -> tuple[Address, tuple[LineageStage, ...]]:
    """The checkpoint whose moving average is taken, with its lineage; PlanError for one that keeps none."""
    assert stated.ema is not None
    place = document.place(("from", "ema"))
    address, stages = _stages_from(project, stated.ema, chain, place)
    if stages[-1].setting.optimizer.ema is None:
        raise PlanError(
            f"`{address}` keeps no moving average of its weights",
            place=place,
            hint="what trains it says how fast the average forgets: `optimizer: {…, ema: 700 steps}`; "
            "what is trained already has none, and `average: {last: 5, of: …}` is of its checkpoints",
        )
    return address, stages


def _last_positions(stages: tuple[LineageStage, ...], number: int, place: Place) -> list[int]:
    """The full-size positions of a stage's last checkpoints, the newest first; PlanError where it has fewer."""
    setting, end = stages[-1].setting, stages[-1].left_at
    start = stages[-2].left_at if len(stages) > 1 else 0
    every = setting.every.checkpoint
    cadence = length_in_tokens(setting, every, "every") if every is not None else end
    positions = [end, *range((end - 1) // cadence * cadence, start, -cadence)][:number]
    if len(positions) < number:
        raise PlanError(
            f"stage `{setting.name}` has {len(positions)} checkpoints up to there, not {number}: one every "
            f"{every or 'stage'}",
            place=place,
            hint="average fewer, or take checkpoints more often, as in `every: {checkpoint: 10B}`",
        )
    return positions


def _check_keep(file: config.CurriculumFile, document: Document, stages: tuple[LineageStage, ...]) -> None:
    """PlanError for a position that `keep:` names outside the stages that it holds for."""
    if not file.stages:
        return
    end = stages[-1].left_at
    starts = [0, *(stage.left_at for stage in stages)][-len(file.stages) - 1 : -1]
    stated = [(("stages", number, "keep"), stage.keep, starts[number]) for number, stage in enumerate(file.stages)]
    for path, positions, start in [(("keep",), file.keep, starts[0]), *stated]:
        for position in positions or ():
            if not start < position.amount <= end:
                raise PlanError(
                    f"`keep` names {position}: it holds after {show_count(start)} and up to {show_count(end)} tokens",
                    place=document.place(path),
                    hint="positions count from the root; the file that a position belongs to names it",
                )


def _cut(stages: tuple[LineageStage, ...], address: Address, place: Place | None) -> tuple[LineageStage, ...]:
    if address.stage is not None:
        numbers = [at for at, stage in enumerate(stages) if stage.name == f"{address.curriculum}/{address.stage}"]
        if not numbers:
            own = [s.setting.stage for s in stages if s.setting.curriculum == address.curriculum]
            raise NotFound(
                f"curriculum `{address.curriculum}` has no stage `{address.stage}`",
                place=place,
                hint=did_you_mean(address.stage, own),
            )
        stages = stages[: numbers[0] + 1]
    if address.position is None:
        return stages
    end = stages[-1].setting.until
    if address.position == 0:
        raise PlanError(
            f"`{address}` is before the first step, where no checkpoint is",
            place=place,
            hint="give a later position; what shares no step starts with `from: hf:DIR` or without `from:`",
        )
    if address.position > end:
        raise PlanError(
            f"`{address}` is outside `{replace(address, position=None)}`, which runs from 0 to {show_count(end)} "
            "tokens",
            place=place,
            hint=f"take a position up to {show_count(end)}; they are full-size tokens at every size",
        )
    at, stage = next((at, s) for at, s in enumerate(stages) if address.position <= s.left_at)
    if stage.cut is not None or address.position < stage.left_at:
        stage = replace(stage, cut=address.position)
    return (*stages[:at], stage)


def _setting(
    name: str,
    file: config.CurriculumFile,
    document: Document,
    number: int,
    stage: config.StageEntry,
    parent: LineageStage | None,
    imported: huggingface.Directory | None,
) -> Setting:
    first = number == 0
    before, end = (parent.setting, parent.left_at) if parent else (None, 0)

    def stated(key: str, default: Any = None) -> Any:
        """The nearest statement: on the stage, at the top of the file (for its first stage), or inherited."""
        for owner in (stage, file) if first else (stage,):
            value = getattr(owner, key, None)
            if value is not None:
                return value
        if before is not None:
            return getattr(before, key)
        if default is None:
            raise ConfigError(
                f"`{name}` does not say its `{key}`, and has no parent to take it from",
                place=document.key_place(("stages",) if key in config.ROOT_KEYS else ("stages", number)),
                hint=(f"write `{key}: …` above it" if key in config.ROOT_KEYS else f"give this stage `{key}: …`")
                + f"; a root curriculum states {', '.join(f'`{k}`' for k in config.ROOT_KEYS)}, "
                "and its first stage `mixture` and `batch`",
            )
        return default

    if before is not None and first:
        _check_root_keys(name, file, document, before)
    if imported is None and before is not None:
        imported = before.imported
    own_learning_rate = stage.learning_rate is not None or (first and file.learning_rate is not None)
    # A stage's `optimizer: reset` is an event; the setting is the file's, or inherited.
    optimizer = file.optimizer if first else None
    if before and optimizer and stage.optimizer != "reset":
        _check_optimizer(name, optimizer, document, before)
    setting = Setting(
        curriculum=name,
        stage=stage.name,
        seed=stated("seed"),
        model=_model(stated("model")) if imported is None else _imported_model(imported),
        tokenizer=stated("tokenizer", file.from_ if imported else None),
        optimizer=optimizer or (before.optimizer if before else stated("optimizer")),
        every=stated("every", config.EveryEntry()),
        keep=stated("keep", ()),
        held_out_windows=stated("held_out_windows", 0),
        sequence_length=stated("sequence_length"),
        rope_theta=stage.rope_theta or (before.rope_theta if before else None),
        rope_scaling=stage.rope_scaling or (before.rope_scaling if before else None),
        learning_rate=stated("learning_rate"),
        mixture=stated("mixture"),
        own_mixture=stage.mixture is not None,
        batch=_batch(stated("batch"), stage, before, stated("sequence_length")),
        mask_documents=bool(stated("mask_documents", False)),
        until=0,
        ramp=stage.ramp,
        skip=tuple(stage.skip or ()),
        leave_out=tuple(stage.leave_out or ()),
        left_out=(*before.left_out, *before.leave_out) if before else (),
        data_seeds=() if stage.data_seed is None else (stage.data_seed,),
        earlier_data_seeds=(*before.earlier_data_seeds, *before.data_seeds) if before else (),
        positions=stage.positions,
        reset_optimizer=stage.optimizer == "reset",
        own_learning_rate=own_learning_rate and before is not None,
        rewarm=stage.rewarm,
        measure=stage.measure or (),
        imported=imported,
        document=document,
        path=("stages", number),
    )
    setting = with_batch_levels(setting, stage.batch, before, end)
    return replace(setting, until=_declared_end(setting, stage, end))


def _declared_end(setting: Setting, stage: config.StageEntry, end: int) -> int:
    """Where a stage ends, in full-size tokens from the root; PlanError unless that is past `end`, where it starts."""
    key, length = ("until", stage.until) if stage.until is not None else ("tokens", stage.tokens)
    assert length is not None
    until = length_in_tokens(setting, length, key) + (end if key == "tokens" else 0)
    if until > LARGEST_UNTIL:
        raise PlanError(
            f"stage `{stage.name}` would end at {show_count(until)} tokens, beyond 10^18",
            place=setting.place(key),
            hint="shorten it: `until:` is a position counted from the root, as in `until: 2T`",
        )
    if until <= end:
        raise PlanError(
            f"stage `{stage.name}` ends at {show_count(until)}, where what comes before it already ends at "
            f"{show_count(end)}",
            place=setting.place(key),
            hint="`until:` is a position counted from the root; `tokens:` gives the stage's own length",
        )
    return until


def _batch(
    stated: Length | config.BatchEntry, stage: config.StageEntry, before: Setting | None, sequence_length: int
) -> Length:
    """The batch of a stage's first step."""
    if isinstance(stated, config.BatchEntry):
        return stated.from_
    return stated if stage.batch is not None or before is None else kept_tokens(stated, before, sequence_length)


def _check_optimizer(name: str, optimizer: config.OptimizerEntry, document: Document, before: Setting) -> None:
    """PlanError when a variant takes the state of another optimizer than its own."""
    if optimizer.name != before.optimizer.name:
        raise PlanError(
            f"`{name}` continues with `{optimizer.name}` from the state of `{before.optimizer.name}`",
            place=document.place(("optimizer",)),
            hint="say `optimizer: reset` in its first stage: another optimizer begins with fresh state",
        )


def _check_root_keys(name: str, file: config.CurriculumFile, document: Document, before: Setting) -> None:
    """PlanError when a variant states another seed, model or tokenizer than the curriculum it branches from."""
    model = None if file.model is None else _model(file.model)
    for key, value in {"seed": file.seed, "model": model, "tokenizer": file.tokenizer}.items():
        if value is not None and value != getattr(before, key):
            raise PlanError(
                f"`{name}` states another `{key}` than the curriculum it branches from",
                place=document.place((key,)),
                hint=f"leave `{key}` out: it comes from the branch point; another {key} needs a root of its own"
                + (", other rotations `rope_theta` or `rope_scaling` in a stage" if key == "model" else ""),
            )


def _imported(project: Project, text: str, document: Document) -> huggingface.Directory:
    folder = directory_of(project.root, text)
    try:
        return huggingface.read(folder)
    except DataError as error:
        # Shown as it is written, not by its path on this machine.
        what, place = error.what.replace(f"`{folder}`", f"`{text}`"), document.place(("from",))
        if error.place is not None:
            shown = error.place.file.replace(str(folder), text.removeprefix(PREFIX).strip(), 1)
            place = replace(error.place, file=shown)
        raise DataError(what, place=place, hint=error.hint) from None


def _imported_model(imported: huggingface.Directory) -> config.ModelNumbers:
    stated = {key: imported.model[key] for key in config.ModelNumbers.model_fields if key in imported.model}
    exact = json.loads(json.dumps(stated), parse_float=str)  # text keeps a decimal exact
    return config.ModelNumbers.model_validate(exact)


def _model(stated: str | config.ModelNumbers) -> config.ModelNumbers:
    """The numbers of a model that is stated by its name in the catalogue, or by themselves."""
    return config.MODELS[stated] if isinstance(stated, str) else stated
