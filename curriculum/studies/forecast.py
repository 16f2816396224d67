"""The question of a study of schedules: `arms:` that ran, and `forecast:` of schedules that no run has."""

from __future__ import annotations

from dataclasses import replace

from curriculum import config
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.resolve import ResolvedCurriculum
from curriculum.compiler.schedules import highest, warmup_of
from curriculum.config.project import Project
from curriculum.config.studies import ForecastEntry, StudyFile
from curriculum.config.yaml import Document
from curriculum.errors import ConfigError, NotFound, PlanError, did_you_mean
from curriculum.plan.learning_rate import LearningRate
from curriculum.studies.decision import Forecast, LawOfSchedules, Question, Schedule
from curriculum.studies.evidence import Evidence
from curriculum.studies.training_curves import TrainedSchedule, remarks, training_curves, training_of, unit_steps
from curriculum.units import show_count

MOST_TIMES = 3
"""A law of schedules is not asked beyond so many times what was seen."""
_LAWS: tuple[LawOfSchedules, ...] = ("annealing", "multi-power")


def question_of_schedules(
    project: Project, name: str, size: str, file: StudyFile, document: Document
) -> tuple[Question, Evidence, dict[str, str], tuple[str, ...]]:
    """The question, its curves, digests of what they were read from, and remarks on curves that do not count.

    Raises ConfigError, NotFound or PlanError for what cannot be asked.
    """
    assert file.arms is not None, "the study asks of curricula that ran"
    if not file.forecast:
        raise PlanError(
            f"study `{name}` names no schedule to forecast, and nothing else is asked of runs that are there",
            place=document.place(("arms",)),
            hint=f"`curriculum compare {' '.join(file.arms)}` shows what was measured of them",
        )
    for source in file.goal.keep:
        raise PlanError(
            f"`keep` limits `{source}`: no loss is predicted of a schedule that was not trained",
            place=document.key_place(("goal", "keep", source)),
            hint="leave `keep` out; only the order of `lower` is forecast",
        )
    names = project.names("stages")
    texts = []
    for number, arm in enumerate(file.arms):
        if arm not in names:
            raise NotFound(
                f"study `{name}` asks of `{arm}`, which does not exist",
                place=document.place(("arms", number)),
                hint=did_you_mean(arm, names),
            )
        texts.append(PreparedText.open(project, arm, size))
    _check_alike(texts, document)
    root = texts[0].compiled.stages[0]
    for source in file.goal.lower:
        if source not in root.shares:
            raise PlanError(
                f"`{texts[0].compiled.curriculum}` does not train on `{source}`: it has no training curve of it",
                place=document.key_place(("goal", "lower", source)),
                hint=f"it trains on: {', '.join(root.shares)}",
            )
    runs = [training_of(project, arm, text.compiled) for arm, text in zip(file.arms, texts, strict=True)]
    _check_seen(project, name, size, runs, document)
    schedules = tuple(
        _schedule(texts[0].curriculum, key, entry, max(run.seen for run in runs), document)
        for key, entry in file.forecast.items()
    )
    step = root.plan.batch_tokens
    steps = unit_steps(max(schedule.end for schedule in schedules), step)
    weights = {source: float(weight) for source, weight in file.goal.lower.items() if weight}
    question = Question(
        name=name,
        kind="schedules",
        lower=weights,
        keep={},
        all_trunks=False,
        forecast=Forecast(schedules, step * steps, steps, (file.law,) if file.law is not None else _LAWS),
    )
    files = {
        path.with_name("plan.json").relative_to(project.root).as_posix(): plan.fingerprint
        for run in runs
        for _, plan, path in run.stages
    }
    missing = [f"`{run.name}` has not run at size {size}" for run in runs if not run.seen]
    return question, Evidence((), training_curves(runs, weights, step, steps)), files, (*missing, *remarks(runs))


def _check_alike(texts: list[PreparedText], document: Document) -> None:
    """PlanError for an arm that differs from the first one in more than its rate, from its first step on."""
    first = texts[0].compiled
    for number, text in enumerate(texts[1:], 1):
        root, own = first.stages[0], text.compiled.stages[0]
        pairs = {
            "model": (root.plan.model, own.plan.model),
            "batch": (root.plan.batch_tokens, own.plan.batch_tokens),
            "mixture": (root.shares, own.shares),
            "optimizer": (root.plan.optimizer, own.plan.optimizer),
            "tokenizer": (first.tokenizer, text.compiled.tokenizer),
        }
        other = [key for key, (one, another) in pairs.items() if one != another]
        if other:
            raise PlanError(
                f"`{text.compiled.curriculum}` differs from `{first.curriculum}` in more than its schedule: "
                f"the {other[0]} is another one from the first step on",
                place=document.place(("arms", number)),
                hint="the arms of a forecast have one model, batch, mixture and optimizer",
            )


def _check_seen(project: Project, name: str, size: str, runs: list[TrainedSchedule], document: Document) -> None:
    if any(run.seen for run in runs):
        return
    names = [run.name for run in runs]
    others = [
        folder.name
        for folder in sorted(project.runs.glob("*"))
        if folder.name != size and any((folder / arm).is_dir() for arm in names)
    ]
    if others:
        hint = f"they ran at size {others[0]}, and a law holds within one size: `--size {others[0]}`"
    else:
        hint = f"`curriculum run {' '.join(names)}{project.options(size)}` trains them"
    raise PlanError(f"no arm of study `{name}` has run at size {size}", place=document.place(("arms",)), hint=hint)


def _schedule(
    curriculum: ResolvedCurriculum, name: str, entry: ForecastEntry, seen: int, document: Document
) -> Schedule:
    """A forecast at the curriculum's size. What it does not state is as in the curriculum's root."""
    root = curriculum.stages[0].setting
    stated = root.learning_rate
    drafted = config.LearningRateEntry.model_construct(
        shape=entry.shape,
        max=entry.max if entry.max is not None else highest(stated),
        min=entry.min if entry.min is not None else stated.min,
        warmup=warmup_of(stated),
        horizon=entry.horizon,
        decay=entry.decay,
    )
    scaler = curriculum.scaler
    try:
        rate: LearningRate = scaler.learning_rate(replace(root, learning_rate=drafted))[0]
        end = scaler.length(root, entry.horizon, "learning_rate")
    except ValueError as error:
        raise ConfigError(
            str(error), place=document.place(("forecast", name)), hint="`max`, `min` and the warm-up are the arms' own"
        ) from None
    if end > MOST_TIMES * seen:
        times = f"{end / seen:.3g}"
        raise PlanError(
            f"`{name}` ends at {show_count(end)} tokens, {times} times what was seen: {show_count(seen)}",
            place=document.place(("forecast", name, "horizon")),
            hint=f"a law is asked up to {MOST_TIMES} times what was seen: a shorter horizon, or let the arms run on",
        )
    return Schedule(name, rate, end)
