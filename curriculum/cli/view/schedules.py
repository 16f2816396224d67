"""What `curriculum decide` prints of schedules that were not trained: their order, and the confidence of each pair."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from curriculum.cli.view.tables import table
from curriculum.studies.decision import LawReport, ScheduleOrder


def order_view(order: ScheduleOrder, laws: tuple[LawReport, ...]) -> list[RenderableType]:
    """The laws, the order from the lowest end up, and a row for each pair."""
    errors = (
        (
            law.name,
            "-" if law.left_out_error is None else f"{law.left_out_error:.4f}",
            "-" if law.rank is None else f"{law.rank:.2f}",
        )
        for law in laws
    )
    rows = ((pair.first, "before", pair.second, f"{pair.confidence:.1%}", pair.word) for pair in order.pairs)
    return [
        table("law of schedules", "#left-out error", "#rank", rows=errors),
        Text(),
        Text.assemble(("order    ", "bold"), ", ".join(order.names)),
        Text(),
        table("ends lower", "", "than", "#confidence", "", rows=rows),
    ]
