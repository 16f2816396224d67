"""The record of what an attempt ran in, and how a change of it is shown."""

from __future__ import annotations

from typing import Any


def describe_changes(changed: dict[str, list[Any]]) -> str:
    """`{name: [then, now]}` in words; digests by their first digits."""

    def shown(value: Any) -> str:
        return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)

    return ", ".join(f"{name} {shown(then)} -> {shown(now)}" for name, (then, now) in sorted(changed.items()))
