"""The proposal of a study: the mixture that its law preferred once its other arms had ended, fixed before it runs.

It stands in `runs/<size>/<study>/proposal.json`, sealed, and stays as long as the arms that it rests on are those of
the files: its runs judge the law that made it, and a law that has seen them proposes something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

from curriculum import fs
from curriculum.config.project import Project
from curriculum.errors import DataError

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
    path = path_of(project, study, size)
    if not path.exists():
        return None
    try:
        value = fs.read_sealed(path, ("weights", "plans"))
        weights = {source: Fraction(int(weight)) for source, weight in value["weights"].items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"`{path}` is no proposal: {error}",
            hint="put the file back; or move it away with the runs of the proposal, and `curriculum run` makes one",
        ) from None
    return weights if value["plans"] == dict(plans) else None


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
