"""`curriculum status STUDY`: how far every arm is, and the held-out losses at the end of those that are done."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view.status import STYLES
from curriculum.cli.view.tables import table
from curriculum.runs import status
from curriculum.studies.status import ArmStatus
from curriculum.units import show_count


def arms_view(
    study: str, arms: Sequence[ArmStatus], follows: str | None = None, changed: str | None = None
) -> RenderableType:
    """A row for each arm; `follows` is what the queue says of the job behind them, `changed` of arms of other plans."""
    sources = sorted({source for arm in arms for source in arm.losses})
    drawn = table(study, "", "#", "#tokens", *(f"#{source}" for source in sources))
    for arm in arms:
        drawn.add_row(
            arm.address.partition("/")[2],
            Text(arm.state, style=STYLES[arm.state]),
            "" if arm.state == status.DONE else f"{arm.share:.0%}",
            show_count(arm.position - arm.starts_at),
            *(f"{arm.losses[source]:.4f}" if source in arm.losses else "" for source in sources),
        )
    done = sum(arm.state == status.DONE for arm in arms)
    lines = [Text(f"{done} of {len(arms)} runs are done")]
    lines += [Text(changed)] if changed is not None else []
    lines += [Text(f"{arm.address}: {arm.job}") for arm in arms if arm.job is not None]
    lines += [Text(f"what follows: {follows}")] if follows is not None and done < len(arms) else []
    return Group(drawn, *lines)
