"""The evidence of a study's own arms: what their evaluations say, which are missing, and which no longer apply.

An arm counts when its run ended by the plan that the files describe now, and was measured on the same held-out windows
as the others. What does not is set aside by name, never mixed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from curriculum.analysis.measured_windows import HeldOutWindows, documents, windows_of
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.data.manifest import HELD_OUT
from curriculum.errors import CurriculumError
from curriculum.plan.stage import StagePlan
from curriculum.runs.drift import find_drift
from curriculum.runs.folders import stage_folder
from curriculum.runs.measurements import Point, by_point
from curriculum.studies.arm import Arm
from curriculum.studies.arms import CompiledStudy
from curriculum.studies.evidence import Evidence, Role, Row, Settings
from curriculum.studies.mixture_evidence import text_key
from curriculum.units import Length

BEFORE = "before"
"""The name of the branch point among the arms of the evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An arm whose run is no evidence, by its address, and the reason."""

    arm: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ArmEvidence:
    """What the runs of a study say.

    `missing` are the addresses of arms that did not end or were not measured there; `windows` is the identity of the
    held-out windows of each source; `plans` has the fingerprint of the plan that trained each arm, by address;
    `earlier` the evidence at positions (tokens) before the arms' end, in order.
    """

    evidence: Evidence
    missing: tuple[str, ...]
    set_aside: tuple[SetAside, ...]
    windows: Mapping[str, HeldOutWindows]
    plans: Mapping[str, str]
    earlier: tuple[tuple[int, Evidence], ...]

    @property
    def complete(self) -> bool:
        return not self.missing and not self.set_aside


@dataclass(frozen=True, kw_only=True)
class _Ended:
    """An arm whose end was measured: its sets by position, and the plan that trained it."""

    arm: Arm
    sets: Mapping[int, Mapping[str, Any]]
    fingerprint: str

    @property
    def end(self) -> Mapping[str, Any]:
        return self.sets[self.arm.stage.stop]


def measure(compiled: CompiledStudy) -> ArmEvidence:
    """The evidence of the arms that ran; DataError for a damaged evaluation."""
    ended: list[_Ended] = []
    missing: list[str] = []
    set_aside: list[SetAside] = []
    for arm in compiled.arms:
        one = _ended(compiled, arm)
        if isinstance(one, _Ended):
            ended.append(one)
        elif one is None:
            missing.append(arm.address)
        else:
            set_aside.append(one)
    windows = _windows(compiled, ended)
    kept: list[_Ended] = []
    for each in ended:
        other = [source for source in compiled.sources if windows_of(each.end[source]) != windows[source]]
        if other:
            reason = f"`{other[0]}` was measured on other held-out windows than in the other arms"
            set_aside.append(SetAside(arm=each.arm.address, reason=reason))
        else:
            kept.append(each)
    numbers = _documents(kept)
    rows = [row for one in kept for row in _rows(compiled, one, one.end, numbers)]
    before = list(_before(compiled, kept, windows, numbers))
    return ArmEvidence(
        evidence=Evidence((*before, *rows)),
        missing=tuple(missing),
        set_aside=tuple(set_aside),
        windows=windows,
        plans={one.arm.address: one.fingerprint for one in kept},
        earlier=tuple(_earlier(compiled, kept, before, numbers)),
    )


def _ended(compiled: CompiledStudy, arm: Arm) -> _Ended | SetAside | None:
    """The arm's measurements; None where it has not ended; or why they do not count."""
    folder = stage_folder(arm.project, arm.compiled, arm.stage)
    if not folder.plan.exists():
        return None
    try:
        for drift in find_drift(arm.project, arm.compiled):  # also of an arm whose checkpoints were deleted since
            return SetAside(arm=arm.address, reason=f"`{drift.stage.name}` {drift.words()}")
    except CurriculumError as error:
        return SetAside(arm=arm.address, reason=error.what)
    sets = read_evaluations(folder)
    end = sets.get(arm.stage.stop)
    if end is None or any(source not in end for source in compiled.sources):
        return None
    return _Ended(arm=arm, sets=sets, fingerprint=StagePlan.load(folder.plan).fingerprint)


def _windows(compiled: CompiledStudy, ended: list[_Ended]) -> dict[str, HeldOutWindows]:
    """The held-out windows of each source that count: those of the text that is prepared, else the most frequent."""
    common: dict[str, HeldOutWindows] = {}
    if not ended:
        return common
    texts = ended[0].arm.texts
    for source in compiled.sources:
        seen = Counter(windows_of(one.end[source]) for one in ended)
        manifest = texts.manifest(texts.compiled.sources[source].dataset)
        if manifest is not None and HELD_OUT in manifest.splits:
            current = {windows: count for windows, count in seen.items() if windows[0] == manifest.digest}
            seen = Counter(current) or seen
        common[source] = seen.most_common(1)[0][0]
    return common


def _documents(ended: list[_Ended]) -> dict[HeldOutWindows, tuple[int, ...]]:
    if not ended:
        return {}
    point = Point(ended[0].arm.address, 0)
    numbered = documents([ended[0].arm.texts], {point: ended[0].end})
    return {windows: tuple(int(number) for number in array) for windows, array in numbered.items()}


def _rows(
    compiled: CompiledStudy, one: _Ended, sets: Mapping[str, Any], numbers: Mapping[HeldOutWindows, tuple[int, ...]]
) -> Iterator[Row]:
    arm = one.arm
    for source in compiled.sources:
        entry = sets[source]
        yield Row(
            arm=arm.point.name,
            replicate=arm.replicate,
            seed=arm.seed,
            role=_role(compiled, arm),
            settings=settings_of(arm),
            source=source,
            loss=float(entry["loss"]),
            windows=tuple(float(loss) for loss in entry["per_window"]),
            documents=numbers.get(windows_of(entry)),
        )


def _role(compiled: CompiledStudy, arm: Arm) -> Role:
    """What an arm is in a decision: where all that is varied is controls, those after the first are the candidates."""
    controls = compiled.of_role("control")
    if compiled.of_role("swarm") or arm.role != "control" or arm.point.name == controls[0].point.name:
        return arm.role
    return "swarm"


def settings_of(arm: Arm) -> Settings:
    """What was varied, for a law: the shares of sources, or the numbers of a grid."""
    varied = {key: value for key, value in arm.point.settings.items() if key not in ("mixture", "share", "add", "list")}
    if not varied:
        return {source: float(share) for source, share in arm.point.mixture.shares.items()}
    return {key: _number(arm, key, value) for key, value in varied.items()}


def _number(arm: Arm, key: str, value: Any) -> float | str:
    if key == "batch":
        return float(arm.stage.plan.batch_sequences)
    if isinstance(value, Length):
        return str(value)
    return str(value).lower() if isinstance(value, bool) else value if isinstance(value, str) else float(value)


def _before(
    compiled: CompiledStudy,
    ended: list[_Ended],
    windows: Mapping[str, HeldOutWindows],
    numbers: Mapping[HeldOutWindows, tuple[int, ...]],
) -> Iterator[Row]:
    """The losses at the branch point of each trunk, from the trunk's own evaluation or where its arms start."""
    seeds = dict.fromkeys(one.arm.seed for one in ended)
    for seed in seeds:
        arms = [one.arm for one in ended if one.arm.seed == seed]
        parent = arms[0].first.parent
        if parent is None:
            continue
        measured: dict[str, Any] = {}
        for arm in arms:
            sets = by_point(arm.project, [arm.compiled], read_evaluations).get(Point(parent.name, parent.stop), {})
            measured |= {source: entry for source, entry in sets.items() if source not in measured}
            if all(source in measured for source in compiled.sources):
                break
        for source in compiled.sources:
            if source in measured and windows_of(measured[source]) == windows[source]:
                yield Row(
                    arm=BEFORE,
                    replicate=1,
                    seed=seed,
                    role="before",
                    settings={},
                    source=source,
                    loss=float(measured[source]["loss"]),
                    windows=tuple(float(loss) for loss in measured[source]["per_window"]),
                    documents=numbers.get(windows[source]),
                )


def _earlier(
    compiled: CompiledStudy, ended: list[_Ended], before: list[Row], numbers: Mapping[HeldOutWindows, tuple[int, ...]]
) -> Iterator[tuple[int, Evidence]]:
    """The evidence at each position at which all arms were measured, between their start and their end."""
    if not ended:
        return
    inside = [
        {
            position
            for position, sets in one.sets.items()
            if one.arm.stage.plan.start < position < one.arm.stage.stop
            and all(
                source in sets and windows_of(sets[source]) == windows_of(one.end[source])
                for source in compiled.sources
            )
        }
        for one in ended
    ]
    for position in sorted(set.intersection(*inside)):
        rows = [row for one in ended for row in _rows(compiled, one, one.sets[position], numbers)]
        yield position, Evidence((*before, *rows))


def read_digests(compiled: CompiledStudy, measured: ArmEvidence) -> dict[str, str]:
    """What a decision rests on, for its record: the plan that trained each arm, and the text that each source is."""
    runs = f"runs/{compiled.study.size}"
    plans = {f"{runs}/{address}/plan.json": fingerprint for address, fingerprint in sorted(measured.plans.items())}
    texts = {text_key(source): windows[0] for source, windows in sorted(measured.windows.items())}
    return plans | texts
