"""All figures in their order; a module that is not named here is not measured."""

from __future__ import annotations

import importlib

MODULES = (
    "kills",
    "power_cuts",
    "corruption",
    "order",
    "configs",
    "drift",
    "ranks",
    "races",
    "numbers",
    "keeping",
    "hostile",
    "soak",
    "defects",
    "cost",
)


def load() -> None:
    for name in MODULES:
        importlib.import_module(f"tests.fault_injection.{name}")
