"""What is installed by digest is what pyproject.toml asks for, in the versions of constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.promise("What `make` installs is what is locked by digest")

ROOT = Path(__file__).resolve().parents[1]
ENTRY = re.compile(r"^(?P<name>[a-z0-9][a-z0-9._-]*)==(?P<version>\S+)(?P<rest>(?: \\\n.*| ;.*\\\n.*)*)", re.MULTILINE)
GPU = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
EXTRAS = ("dev", "tensorboard", "wandb", "trackio", "eval", "s3")  # `dev` names the others


def locked(name: str) -> dict[str, tuple[str, str]]:
    """Version and what follows it, by canonical name."""
    text = (ROOT / "locked" / f"{name}.txt").read_text()
    return {canonicalize_name(m["name"]): (m["version"], m["rest"]) for m in ENTRY.finditer(text)}


def constraints() -> dict[str, str]:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line]
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def asked(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"]]
    for extra in extras:
        texts += project["optional-dependencies"][extra]
    found = [Requirement(text) for text in texts]
    return [each for each in found if each.name not in ("torch", "curriculum")]


@pytest.mark.parametrize("name", ["run", "dev"])
def test_every_locked_package_bears_digests_and_none_is_torch_or_of_a_gpu(name: str) -> None:
    entries = locked(name)
    text = (ROOT / "locked" / f"{name}.txt").read_text()
    assert len(entries) == len(re.findall(r"^[^\s#]", text, re.MULTILINE))
    assert len(entries) > 40
    for package, (_, rest) in entries.items():
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", rest), package
        assert not GPU.fullmatch(package), package
    assert not re.search(r"https?:|--index|--find-links|@ file", text)


@pytest.mark.parametrize(("name", "extras"), [("run", ()), ("dev", EXTRAS)])
def test_the_locked_versions_are_those_of_the_constraints_and_satisfy_the_project(
    name: str, extras: tuple[str, ...]
) -> None:
    entries, versions = locked(name), constraints()
    differing = {p: (v, versions[p]) for p, (v, _) in entries.items() if p in versions and versions[p] != v}
    assert not differing
    for requirement in asked(*extras):
        package = canonicalize_name(requirement.name)
        assert package in entries, f"{package} is not locked: `make lock`"
        assert requirement.specifier.contains(entries[package][0], prereleases=True), package


def test_what_the_gate_runs_with_is_locked() -> None:
    left = constraints().keys() - locked("dev").keys() - {"torch"}
    assert not left


def test_what_is_locked_for_a_run_is_locked_for_the_gate_in_the_same_version() -> None:
    run, dev = locked("run"), locked("dev")
    assert {name: dev.get(name, ("", ""))[0] for name in run} == {name: version for name, (version, _) in run.items()}
