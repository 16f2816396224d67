"""The verb `stop`: ask a running curriculum to save and end."""

from __future__ import annotations

from curriculum.cli.options import Name, Size, open_project


def stop(name: Name, size: Size = "") -> None:
    """Ask a running curriculum to save and end."""
    from curriculum.execution.stop import stop as stop_lineage

    lines = stop_lineage(open_project(), name, size)
    print("\n".join(lines) or f"`{name}` is not running at size {size}")
