"""How a change of an attempt's environment is shown."""

from __future__ import annotations

from typing import Any


def describe_changes(changed: dict[str, list[Any]]) -> str:
    """`{name: [then, now]}` as one line; digests by their first 12 digits."""

    def shown(value: Any) -> str:
        return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)

    return ", ".join(f"{name} {shown(then)} -> {shown(now)}" for name, (then, now) in sorted(changed.items()))
