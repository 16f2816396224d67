"""Version and licence of what a source reads."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from curriculum.data.listing import kind_of
from curriculum.data.packages import distributions

_LICENCES = {
    "MIT License": "MIT",
    "BSD License": "BSD",
    "Apache Software License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "ISC License (ISCL)": "ISC",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def provenance(read: Mapping[str, Any]) -> dict[str, Any]:
    """Version and licence of what `read` names; DataError, with what to install, when a package is absent."""
    kind = kind_of(read)
    if kind == "installed":
        packages = [
            {"name": name, "version": package.version, "licence": licence(package)}
            for name, package in distributions(read)
        ]
        return {"kind": kind, "packages": packages}
    if kind == "stdlib":
        python = {"name": platform.python_implementation().lower(), "version": platform.python_version()}
        return {"kind": kind, "packages": [{**python, "licence": "PSF-2.0"}]}
    if kind == "folder":
        return {"kind": kind, "folder": str(read["folder"])}
    if kind == "tokenised":
        return {"kind": kind, "folder": str(read["tokenised"])}
    return {"kind": kind, "repository": str(read["hub"]), "revision": read.get("revision")}


def describe(where: Mapping[str, Any]) -> str:
    """One provenance in words, such as `sympy 1.14.0 (BSD), mpmath 1.3.0 (BSD)`."""
    if "packages" in where:
        return ", ".join(f"{p['name']} {p['version']} ({p['licence']})" for p in where["packages"])
    if where["kind"] == "folder":
        return f"folder {where['folder']}"
    if where["kind"] == "tokenised":
        return f"in place: {where['folder']}"
    return f"hub {where['repository']}" + (f" at {where['revision']}" if where.get("revision") else "")


def licence(package: metadata.Distribution) -> str:
    """The licence a distribution states: its expression, else its short name, else its classifiers."""
    fields = package.metadata
    said = [*fields.get_all("License-Expression", []), *fields.get_all("License", [])]
    stated = next(iter(said), "")
    if not stated or "\n" in stated.strip() or len(stated) > 60:
        classified = [
            c.rsplit(" :: ", 1)[-1] for c in fields.get_all("Classifier", []) if c.startswith("License ::")
        ]
        return " and ".join(_LICENCES.get(name, name) for name in classified) or "not stated"
    return _LICENCES.get(stated.strip(), stated.strip())
