"""What `curriculum decide` prints of schedules that were not trained: their order, and the confidence of each pair."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from curriculum.cli.view.tables import table
from curriculum.studies.decision import ScheduleOrder


def order_view(order: ScheduleOrder) -> list[RenderableType]:
    """The order from the lowest end up, and a row for each pair."""
    rows = ((pair.first, "before", pair.second, f"{pair.confidence:.1%}", pair.word) for pair in order.pairs)
    return [
        Text.assemble(("order    ", "bold"), ", ".join(order.names)),
        Text(),
        table("ends lower", "", "than", "#confidence", "", rows=rows),
    ]
