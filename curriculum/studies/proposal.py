"""The proposal of a study: the mixture that its law preferred once its other arms had ended, fixed before it runs.

It stands in `runs/<size>/<study>/proposal.json`, sealed, and is never replaced: its runs judge the law that made it,
and a law that has seen them proposes something else.
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
"""Weights are whole numbers of this many parts where they sum to that: people like round numbers."""


def path_of(project: Project, study: str, size: str) -> Path:
    return project.runs / size / study / FILE


def read(project: Project, study: str, size: str) -> dict[str, Fraction] | None:
    """The weights by source; None before there is a proposal. DataError for a file that was changed."""
    path = path_of(project, study, size)
    if not path.exists():
        return None
    try:
        value = fs.unseal(fs.parse_json(fs.read_bytes(path)), ("study", "weights"))
        return {source: Fraction(int(weight)) for source, weight in value["weights"].items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"the proposal `{path}` cannot be used: {error}",
            hint="put the file back; or move it away with the runs of the proposal, and `curriculum decide` makes one",
        ) from None


def write(project: Project, study: str, size: str, shares: Mapping[str, float]) -> dict[str, Fraction]:
    """Fix the proposal at these shares, in whole parts by largest remainders; what is fixed already stays."""
    known = read(project, study, size)
    if known is not None:
        return known
    weights = rounded(shares)
    path = path_of(project, study, size)
    fs.make_directory(path.parent)
    fs.write_json(path, fs.seal({"study": study, "weights": weights}))
    return {source: Fraction(weight) for source, weight in weights.items()}


def rounded(shares: Mapping[str, float]) -> dict[str, int]:
    """Shares as whole numbers that sum to `PARTS`, by source in order; without those that come to none."""
    total = sum(shares.values())
    exact = {source: share / total * PARTS for source, share in sorted(shares.items())}
    whole = {source: int(value + 1e-9) for source, value in exact.items()}
    missing = PARTS - sum(whole.values())
    for source in sorted(exact, key=lambda name: (whole[name] - exact[name], name))[:missing]:
        whole[source] += 1
    return {source: weight for source, weight in whole.items() if weight}
