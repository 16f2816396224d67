"""Installed packages by name, and the extra that installs an absent one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from curriculum.errors import DataError


def distributions(read: Mapping[str, Any]) -> list[tuple[str, metadata.Distribution]]:
    """The installed packages that `read` names; DataError with the command that installs an absent one."""
    names = read["installed"]
    return [(name, _distribution(name)) for name in ([names] if isinstance(names, str) else names)]


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        extra = _extra_with(name)
        requirement = name if extra is None else f'"curriculum[{extra}]"'
        raise DataError(
            f"its text comes with the package `{name}`, which is not installed",
            hint=f"python -m pip install {requirement}",
        ) from None


def _extra_with(name: str) -> str | None:
    """The extra of this project that requires the package `name`; None without one."""
    try:
        requirements = metadata.requires("curriculum") or []
    except metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        project = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"""extra\s*==\s*["']([^"']+)["']""", requirement)
        if project and extra and _normal_form(project.group()) == _normal_form(name):
            return extra.group(1)
    return None


def _normal_form(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
