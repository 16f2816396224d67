"""The lineage of a curriculum: the stages before its branch point, then its own, each with every setting resolved.

A stage keeps what it does not change: every unstated key comes from the stage before it, through branch points
up to the root. Never inherited are `ramp`, `skip`, `positions`, `data_seed`, `rewarm` and `optimizer: reset`, which are
events, not settings; an unfinished ramp is followed to its end all the same, and the events of a stage that is left
before its first step happen in the next one (`resolve`). Excluded shards (`leave_out`) stay excluded. Every length is
at full size; `scaling` applies a size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from curriculum import config
from curriculum.artifacts import huggingface
from curriculum.config.layout import PREFIX, directory_of
from curriculum.config.project import Project
from curriculum.config.yaml import Document
from curriculum.errors import ConfigError, DataError, NotFound, Place, PlanError, did_you_mean
from curriculum.plan.ranks import nearest_divisors
from curriculum.units import Length, parse_count, show_count

LARGEST_UNTIL = 10**18
"""In tokens; with it every position of a plan fits a signed 64-bit integer."""


@dataclass(frozen=True, slots=True)
class BatchLevel:
    """From the first step boundary at or past the full-size `position` on, the batch in sequences."""

    position: int
    batch: Length


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One stage with every setting stated. `until` is its declared end: full-size tokens from the root.

    `rope_theta` and `rope_scaling` are those that stages state in place of the model's, if any.
    `imported` is the Hugging Face directory that the lineage starts from, whose model and tokenizer it keeps;
    `batch` is that of its first step and `batch_levels` what follows on the clock, also beyond its end.
    `held_out_windows` is 0 where no file states it; `keep` may name positions outside the stage, for other stages;
    `data_seeds` are its own, several where it also does what a stage without a step left undone.
    """

    curriculum: str
    stage: str
    seed: int
    model: config.ModelNumbers
    tokenizer: str
    optimizer: config.OptimizerEntry
    every: config.EveryEntry
    keep: tuple[Length, ...] = ()
    held_out_windows: int = 0
    sequence_length: int
    rope_theta: Fraction | None = None
    rope_scaling: config.AnyScaling | None = None
    learning_rate: config.LearningRateEntry
    mixture: str
    own_mixture: bool = True
    batch: Length
    batch_levels: tuple[BatchLevel, ...] = ()
    own_rate_exponent: float | None = None
    mask_documents: bool
    until: int
    ramp: Length | None = None
    skip: tuple[config.SkipEntry, ...] = ()
    leave_out: tuple[config.LeaveOutEntry, ...] = ()
    left_out: tuple[config.LeaveOutEntry, ...] = ()
    data_seeds: tuple[int, ...] = ()
    earlier_data_seeds: tuple[int, ...] = ()
    positions: str | None = None
    reset_optimizer: bool = False
    own_learning_rate: bool = False
    rewarm: Length | None = None
    measure: tuple[str, ...] = ()
    imported: huggingface.Directory | None = None
    document: Document = field(repr=False)
    path: tuple[str | int, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.curriculum}/{self.stage}"

    def place(self, key: str) -> Place:
        """The place of `key` in this stage, or of the same key above the stages, or of the stage itself."""
        for path in ((*self.path, key), (key,), self.path):
            try:
                return self.document.place(path)
            except KeyError:
                continue
        return self.document.place(())


@dataclass(frozen=True, slots=True)
class LineageStage:
    """A stage as far as a lineage goes through it; `cut` is the branch position (full-size tokens) or None."""

    setting: Setting
    cut: int | None = None

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def left_at(self) -> int:
        """The full-size position at which the lineage leaves the stage: the branch position or its declared end."""
        return self.setting.until if self.cut is None else self.cut


@dataclass(frozen=True, slots=True)
class Address:
    """`NAME[/STAGE][@TOKENS]`, as given on a command line or in `from:`."""

    curriculum: str
    stage: str | None = None
    position: int | None = None

    def __str__(self) -> str:
        """The address as it is written, with the exact position."""
        stage = f"/{self.stage}" if self.stage else ""
        position = f"@{Length(self.position, 'tokens')}" if self.position is not None else ""
        return f"{self.curriculum}{stage}{position}"


def parse_address(text: str) -> Address:
    """Read `NAME[/STAGE][@TOKENS]`; NotFound when it is not of that form."""
    name, at, position = text.partition("@")
    curriculum, slash, stage = name.partition("/")
    if not config.is_name(curriculum) or (slash and not config.is_name(stage)):
        raise NotFound(f"`{text}` is not an address", hint="an address is NAME[/STAGE][@TOKENS]")
    try:
        tokens = parse_count(position) if at else None
    except ValueError as error:
        raise NotFound(f"`{text}` is not an address: {error}", hint=f"as in {name}@1.2T") from None
    return Address(curriculum, stage or None, tokens)


def lineage(project: Project, name: str) -> tuple[LineageStage, ...]:
    """Every stage from the root to the last stage of curriculum `name`, each with every setting stated."""
    return _stages(project, name, ())


def stages_to(project: Project, address: Address) -> tuple[LineageStage, ...]:
    """The lineage that ends at `address`: at a stage's end, at a position, or at the curriculum's end."""
    return _cut(lineage(project, address.curriculum), address, None)


def _stages(project: Project, name: str, below: tuple[str, ...]) -> tuple[LineageStage, ...]:
    file, document = project.curriculum(name)
    imported = None
    if file.from_ is None or file.from_.startswith(PREFIX):
        stages: tuple[LineageStage, ...] = ()
        if file.from_ is not None:
            imported = _imported(project, file.from_, document)
    else:
        place = document.place(("from",))
        try:
            address = parse_address(file.from_)
        except NotFound as error:
            raise ConfigError(error.what, place=place, hint=error.hint) from None
        chain = (*below, name)
        if address.curriculum in chain:
            circle = " -> ".join((*chain[chain.index(address.curriculum) :], address.curriculum))
            raise PlanError(
                f"`from:` is circular: {circle}", place=place, hint="one of them must be a root, without `from:`"
            )
        if address.curriculum not in project.names("stages"):
            raise NotFound(
                f"`{name}` branches from `{address.curriculum}`, which does not exist",
                place=place,
                hint=did_you_mean(address.curriculum, project.names("stages")),
            )
        stages = _cut(_stages(project, address.curriculum, chain), address, place)
    for number, stage in enumerate(file.stages):
        before = stages[-1] if stages else None
        stages = (*stages, LineageStage(_setting(name, file, document, number, stage, before, imported)))
    _check_keep(file, document, stages)
    return stages


def _check_keep(file: config.CurriculumFile, document: Document, stages: tuple[LineageStage, ...]) -> None:
    """PlanError for a position that `keep:` names outside the stages that it holds for."""
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
    if not 0 < address.position <= end:
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
    if before and optimizer and optimizer.name != before.optimizer.name and stage.optimizer != "reset":
        raise PlanError(
            f"`{name}` goes on with `{optimizer.name}` from the state of `{before.optimizer.name}`",
            place=document.place(("optimizer",)),
            hint="say `optimizer: reset` in its first stage: another optimizer begins with fresh state",
        )
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
    setting = _with_batch_levels(setting, stage.batch, before, end)
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
    return replace(setting, until=until)


def _batch(
    stated: Length | config.BatchEntry, stage: config.StageEntry, before: Setting | None, sequence_length: int
) -> Length:
    """The batch of a stage's first step."""
    if isinstance(stated, config.BatchEntry):
        return stated.from_
    return stated if stage.batch is not None or before is None else _kept_tokens(stated, before, sequence_length)


def _kept_tokens(batch: Length, before: Setting, sequence_length: int) -> Length:
    """A batch that is inherited: in its tokens where windows take another length."""
    if before.sequence_length == sequence_length or batch.unit == "tokens":
        return batch
    return Length(batch.amount * before.sequence_length, "tokens")


def _with_batch_levels(
    setting: Setting, stated: Length | config.BatchEntry | None, before: Setting | None, start: int
) -> Setting:
    """The setting with the batch that is in force at its `start` (full-size tokens), and those that follow."""
    if stated is None and before is not None:
        due = [level for level in before.batch_levels if level.position <= start]
        ahead = tuple(level for level in before.batch_levels if level.position > start)
        batch = _kept_tokens(due[-1].batch if due else before.batch, before, setting.sequence_length)
        ahead = tuple(
            replace(level, batch=_kept_tokens(level.batch, before, setting.sequence_length)) for level in ahead
        )
        return replace(setting, batch=batch, batch_levels=ahead)
    if not isinstance(stated, config.BatchEntry):
        return setting
    exponent = float(stated.rate_exponent) if stated.rate_exponent is not None else None
    levels = _even_levels(setting, stated, start) if stated.to is not None else _stated_levels(setting, stated, start)
    return replace(setting, batch_levels=levels, own_rate_exponent=exponent)


def _even_levels(setting: Setting, stated: config.BatchEntry, start: int) -> tuple[BatchLevel, ...]:
    assert stated.to is not None
    assert stated.over is not None
    assert stated.in_ is not None
    first, last, number = batch_sequences(setting, stated.from_), batch_sequences(setting, stated.to), stated.in_
    place = setting.document.place((*setting.path, "batch", "in"))
    if last <= first:
        raise PlanError(
            f"the batch is to grow from {first:,} to {last:,} sequences",
            place=setting.document.place((*setting.path, "batch", "to")),
            hint="`to` is above `from`; a batch that shrinks is written with `at: {POSITION: BATCH}`",
        )
    if (last - first) % number:
        raise PlanError(
            f"from {first:,} to {last:,} sequences are not {number} equal steps: {last - first:,} are to be added",
            place=place,
            hint=f"the nearest that fit: `in: {nearest_divisors(last - first, number)}`",
        )
    over = length_in_tokens(setting, stated.over, "batch")
    return tuple(
        BatchLevel(start - (-over * k // number), Length(first + (last - first) // number * k, "sequences"))
        for k in range(1, number + 1)
    )


def _stated_levels(setting: Setting, stated: config.BatchEntry, start: int) -> tuple[BatchLevel, ...]:
    assert stated.at is not None
    levels = [BatchLevel(at, Length(batch_sequences(setting, batch), "sequences")) for at, batch in stated.at.items()]
    levels.sort(key=lambda level: level.position)
    if levels[0].position <= start:
        raise PlanError(
            f"the batch is to change at {show_count(levels[0].position)} tokens, where stage `{setting.stage}` has "
            f"not started: it does at {show_count(start)}",
            place=setting.document.place((*setting.path, "batch", "at")),
            hint="positions count from the root; what holds at the stage's start is `from`",
        )
    return tuple(levels)


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


def length_in_tokens(setting: Setting, length: Length, key: str) -> int:
    """A full-size length in tokens, steps being those of the stage's own batch; `key` is where it is written."""
    try:
        return length.tokens(
            sequence_length=setting.sequence_length, batch_sequences=batch_sequences(setting, setting.batch)
        )
    except ValueError as error:
        raise PlanError(str(error), place=setting.place(key), hint="shorten it") from None


def batch_sequences(setting: Setting, batch: Length | None = None) -> int:
    """A full-size batch, else the stage's first, in sequences; PlanError naming the nearest whole number of them."""
    batch = setting.batch if batch is None else batch
    if batch.unit == "sequences":
        return batch.amount
    if batch.unit == "tokens":
        sequences, rest = divmod(batch.amount, setting.sequence_length)
        if rest == 0:
            return sequences
        near = [f"{n} sequences ({n * setting.sequence_length:,} tokens)" for n in (sequences, sequences + 1) if n]
        raise PlanError(
            f"a batch of {batch.amount:,} tokens is not a whole number of sequences of {setting.sequence_length:,}",
            place=setting.place("batch"),
            hint=f"the nearest that fit: {' or '.join(near)}",
        )
    raise PlanError(
        f"a batch is given in sequences or tokens, not `{batch}`",
        place=setting.place("batch"),
        hint="as in `batch: 896 sequences`",
    )


def _imported(project: Project, text: str, document: Document) -> huggingface.Directory:
    folder = directory_of(project.root, text)
    try:
        return huggingface.read(folder)
    except DataError as error:
        # Shown as it is written, not by its path on this machine.
        what = error.what.replace(f"`{folder}`", f"`{text}`")
        raise DataError(what, place=document.place(("from",)), hint=error.hint) from None


def _imported_model(imported: huggingface.Directory) -> config.ModelNumbers:
    stated = {key: imported.model[key] for key in config.ModelNumbers.model_fields if key in imported.model}
    exact = json.loads(json.dumps(stated), parse_float=str)  # text keeps a decimal exact
    return config.ModelNumbers.model_validate(exact)


def _model(stated: str | config.ModelNumbers) -> config.ModelNumbers:
    """The numbers of a model that is stated by its name in the catalogue, or by themselves."""
    return config.MODELS[stated] if isinstance(stated, str) else stated
