"""Installed packages by name, and the extra that brings a missing one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from curriculum.errors import DataError


def distributions(read: Mapping[str, Any]) -> list[tuple[str, metadata.Distribution]]:
    named = read["installed"]
    return [(name, _package(name)) for name in ([named] if isinstance(named, str) else named)]


def _package(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        extra = _extra_with(name)
        install = f"python -m pip install {name}"
        if extra is not None:
            install = f'python -m pip install "curriculum[{extra}]"'
        raise DataError(
            f"its text comes with the package `{name}`, which is not installed", hint=install
        ) from None


def _extra_with(name: str) -> str | None:
    """The extra of this project that brings the package `name`, if one does."""
    try:
        needs = metadata.requires("curriculum") or []
    except metadata.PackageNotFoundError:
        return None
    for need in needs:
        project = re.match(r"[A-Za-z0-9._-]+", need)
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", need)
        if project and extra and _normal(project.group()) == _normal(name):
            return extra.group(1)
    return None


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
