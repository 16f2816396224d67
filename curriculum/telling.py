"""What an attempt turns out to be while it runs, said once: another environment, a grace too short to save in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from curriculum import fs, stopping

ENVIRONMENT = "environment.json"


class Teller:
    """Looks into the folder of each attempt for what its trainer has found out; `say` gets a line of each, once."""

    def __init__(self, stage: str, folder: Path, grace: float | None, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._say = say
        self._grace = grace
        self._said: set[str] = set()
        self._attempt: Path | None = None
        if (known := stopping.measured(folder)) is not None:
            self._short(known)

    def begins(self, attempt: Path) -> None:
        """An attempt was launched."""
        self._attempt = attempt
        self._environment = attempt / ENVIRONMENT
        self._pace = attempt / stopping.PACE

    def look(self) -> None:
        if self._attempt is None:
            return
        if "environment" not in self._said and self._environment.exists():
            self._said.add("environment")
            changed = fs.parsed(fs.read_bytes(self._environment)).get("changed", {})
            if changed:
                self._say(f"{self._stage}: otherwise than in the attempt before: {differences(changed)}")
        if "short" not in self._said and self._pace.exists() and (pace := stopping.of_attempt(self._attempt)):
            self._short(pace)

    def _short(self, pace: stopping.Pace) -> None:
        if (words := pace.shortfall(self._grace)) is not None:
            self._said.add("short")
            self._say(f"{self._stage}: {words}")


def differences(changed: dict[str, list[Any]]) -> str:
    """`{name: [then, now]}` in words; digests by their first digits."""

    def shown(value: Any) -> str:
        return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)

    return ", ".join(f"{name} {shown(then)} -> {shown(now)}" for name, (then, now) in sorted(changed.items()))
