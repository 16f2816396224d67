"""The provenance of a source: version and licence of its packages, its folder, or its repository and revision."""

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
    """Version and licence of the source `read`; DataError with the command that installs an absent package."""
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
    if kind == "dataset":
        options = {key: read[key] for key in ("config", "split", "revision") if read.get(key)}
        return {"kind": kind, "dataset": str(read["dataset"]), **options}
    if kind in ("folder", "tokenised"):
        return {"kind": kind, "folder": str(read[kind])}
    return {"kind": kind, "repository": str(read["hub"]), "revision": read.get("revision")}


def describe(record: Mapping[str, Any]) -> str:
    """One provenance as text, such as `sympy 1.14.0 (BSD), mpmath 1.3.0 (BSD)`."""
    if "packages" in record:
        return ", ".join(f"{p['name']} {p['version']} ({p['licence']})" for p in record["packages"])
    if record["kind"] == "folder":
        return f"folder {record['folder']}"
    if record["kind"] == "dataset":
        named = " ".join(str(record[key]) for key in ("dataset", "config", "split") if record.get(key))
        return f"dataset {named}" + (f" at {record['revision']}" if record.get("revision") else "")
    if record["kind"] == "tokenised":
        return f"in place: {record['folder']}"
    return f"hub {record['repository']}" + (f" at {record['revision']}" if record.get("revision") else "")


def licence(package: metadata.Distribution) -> str:
    """The licence a distribution states: its expression, else its short name, else its classifiers."""
    fields = package.metadata
    statements = [*fields.get_all("License-Expression", []), *fields.get_all("License", [])]
    name = next(iter(statements), "")
    if not name or "\n" in name.strip() or len(name) > 60:
        classifiers = [c for c in fields.get_all("Classifier", []) if c.startswith("License ::")]
        names = [classifier.rsplit(" :: ", 1)[-1] for classifier in classifiers]
        return " and ".join(_LICENCES.get(name, name) for name in names) or "not stated"
    return _LICENCES.get(name.strip(), name.strip())
