"""The proposal of a study: the mixture that its law preferred once its other arms had ended, fixed before it runs.

It stands in `runs/<size>/<study>/proposal.json`, sealed, and stays as long as the arms that it rests on are those of
the files, or those that were trained: its runs judge the law that made it, and a law that has seen them proposes
something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from curriculum import fs
from curriculum.config.project import Project
from curriculum.errors import CurriculumError, DataError
from curriculum.plan.stage import StagePlan

FILE = "proposal.json"
PARTS = 1000
"""Weights are whole numbers that sum to this: people like round numbers."""


def path_of(project: Project, study: str, size: str) -> Path:
    return project.runs / size / study / FILE


def is_fixed(project: Project, study: str, size: str) -> bool:
    """Whether there is a proposal, of these arms or of others."""
    return path_of(project, study, size).exists()


def read(project: Project, study: str, size: str, plans: Mapping[str, str]) -> dict[str, Fraction] | None:
    """The weights by source; None before there is a proposal, and where it rests on other arms than `plans`.

    `plans` has the fingerprint of each arm's plan by its address. DataError for a file that was changed.
    """
    stored = _read(project, study, size)
    if stored is None or _other_arms(project, size, stored[1], plans):
        return None
    return stored[0]


def other_arms(project: Project, study: str, size: str, plans: Mapping[str, str]) -> tuple[str, ...]:
    """The addresses of arms by which a proposal that is there does not apply to `plans`; none where it applies."""
    stored = _read(project, study, size)
    return () if stored is None else _other_arms(project, size, stored[1], plans)


def _read(project: Project, study: str, size: str) -> tuple[dict[str, Fraction], dict[str, str]] | None:
    """The weights by source, and the plans that they rest on."""
    path = path_of(project, study, size)
    if not path.exists():
        return None
    try:
        value = fs.read_sealed(path, ("weights", "plans"))
        weights = {source: Fraction(int(weight)) for source, weight in value["weights"].items()}
        return weights, dict(value["plans"])
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"`{path}` is no proposal: {error}",
            hint="put the file back; or move it away with the runs of the proposal, and `curriculum run` makes one",
        ) from None


def _other_arms(project: Project, size: str, rests_on: Mapping[str, str], plans: Mapping[str, str]) -> tuple[str, ...]:
    """The arms of one of the two that are not in the other, or that neither the files nor a run has as they were.

    The run counts, too: without its text an arm has another plan, though nothing was trained again.
    """
    return tuple(
        address
        for address in sorted({*rests_on, *plans})
        if address not in plans
        or address not in rests_on
        or rests_on[address] not in (plans[address], _trained(project, size, address))
    )


def _trained(project: Project, size: str, address: str) -> str | None:
    """The fingerprint of the plan that trained an arm; None without a run, or with a plan that cannot be read."""
    study, _, arm = address.partition("/")
    try:
        return StagePlan.load(project.stage_folder(size, study, arm) / "plan.json").fingerprint
    except (CurriculumError, OSError):
        return None


def write(
    project: Project,
    study: str,
    size: str,
    shares: Mapping[str, float],
    plans: Mapping[str, str],
    least: Fraction = Fraction(0),
) -> None:
    """Fix the proposal at these shares, in whole parts; what is fixed for the same arms stays.

    A share below `least`, of which its runs would read nothing, is left out.
    """
    if read(project, study, size, plans) is not None:
        return
    path = path_of(project, study, size)
    read_shares = {source: share for source, share in shares.items() if share >= least}
    fs.make_directory(path.parent)
    fs.write_sealed(path, {"weights": rounded(read_shares), "plans": dict(plans)}, replace=True)


def rounded(shares: Mapping[str, float]) -> dict[str, int]:
    """Shares as whole numbers that sum to `PARTS`, by largest remainders; without those that come to none."""
    total = sum(shares.values())
    exact = {source: share / total * PARTS for source, share in sorted(shares.items())}
    counts = {source: int(value + 1e-9) for source, value in exact.items()}
    missing = PARTS - sum(counts.values())
    for source in sorted(exact, key=lambda name: (counts[name] - exact[name], name))[:missing]:
        counts[source] += 1
    return {source: weight for source, weight in counts.items() if weight}
