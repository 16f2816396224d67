"""The mixture file of a decision: `mixtures/NAME.yaml` with the weights that were proposed, and their evidence."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Final

from curriculum import fs
from curriculum.config.fields import is_name
from curriculum.config.project import Project
from curriculum.errors import ConfigError, NotFound, PlanError, did_you_mean
from curriculum.studies.decision import Decision
from curriculum.studies.mixtures import exact
from curriculum.studies.record import Record

NO_PASSES: Final[Mapping[str, Fraction]] = MappingProxyType({})


def check_may_be_written(project: Project, name: str, decision: Decision, *, although_not_shown: bool) -> None:
    """Raises unless `mixtures/<name>.yaml` is new and the decision proposes a mixture that was shown."""
    if not is_name(name):
        raise ConfigError(
            f"`{name}` cannot be the name of a mixture", hint="a name is a-z, then a-z, 0-9, `.` and `-`; no `..`"
        )
    if name in project.names("mixtures"):
        raise ConfigError(
            f"`mixtures/{name}.yaml` exists already; nothing was written", hint="take another name, or edit that file"
        )
    if decision.proposal is None or not decision.proposal.shares:
        raise PlanError("the decision proposes no mixture", hint="`curriculum decide` shows what it proposes")
    sources = project.sources.sources
    for source in decision.proposal.shares:
        if source not in sources:
            raise NotFound(
                f"the proposal has a share of `{source}`, which sources.yaml does not name; nothing was written",
                hint=f"name the table's columns as the sources; {did_you_mean(source, sources)}",
            )
    if not decision.shown and not although_not_shown:
        raise PlanError(
            f"the verdict is `{decision.word}`: nothing was written",
            hint="--although-not-shown writes the mixture all the same, and says so in its `about:`",
        )


def text_of(decision: Decision, record: Record, day: date, passes: Mapping[str, Fraction]) -> str:
    """The text of the mixture file; `passes` are how often the mixture that the arms are around allows each source."""
    assert decision.proposal is not None
    about = f"proposed by study {decision.name}, {day.isoformat()}"
    if not decision.shown:
        about += f", although {decision.word}"
    weights = {name: percent(share) for name, share in decision.proposal.shares.items() if share > 5e-5}
    shown = "; ".join(
        f"{verdict.goal} {verdict.source or ''}".strip()
        + (f" {verdict.difference.mean:+.3f} against {verdict.against}" if verdict.difference else "")
        + f": {verdict.word}"
        for verdict in decision.verdicts
    )
    pairs = ", ".join(f"{name}: {weight}" for name, weight in weights.items())
    allowed = ", ".join(f"{name}: {exact(passes[name])}" for name in weights if name in passes)
    return (
        "# yaml-language-server: $schema=../.schema/mixtures.json\n"
        f"about: {about}\n"
        f"weights: {{{pairs}}}\n"
        + (f"passes: {{{allowed}}}\n" if allowed else "")
        + f"evidence: {record.address} # {shown}\n"
    )


def write(
    project: Project, name: str, decision: Decision, record: Record, passes: Mapping[str, Fraction] = NO_PASSES
) -> Path:
    """Write the proposal as `mixtures/<name>.yaml`, which must not exist; `passes` as in `text_of`."""
    path = project.root / "mixtures" / f"{name}.yaml"
    fs.write_bytes(path, text_of(decision, record, date.today(), passes).encode())
    return path


def percent(share: float) -> str:
    """A share in percent, in at most two decimals: `63.5`."""
    hundredths = round(Fraction(share) * 10_000)
    return f"{float(Fraction(hundredths, 100)):g}"
