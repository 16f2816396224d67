"""All figures in their order; a module that is not named here is not measured."""

from __future__ import annotations

import importlib

MODULES = (
    "power_cuts",
    "kills",
    "corruption",
    "order",
    "configs",
    "races",
    "numbers",
    "keeping",
    "defects",
    "drift",
)


def load() -> None:
    for name in MODULES:
        importlib.import_module(f"tests.torture.{name}")
