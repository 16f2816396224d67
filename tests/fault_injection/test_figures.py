"""A few trials of the figures of `make fault-injection`; those that wait for processes run there alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fault_injection import collection
from tests.fault_injection.__main__ import measure
from tests.fault_injection.defects import DEFECTS, Defect
from tests.fault_injection.figures import FIGURES, PEERS

collection.load()
SEED = 6
# Killed, racing, hung and asked processes, NaN/Inf steps, soaking, seeded defects: see docs/reliability.md.
ALONE = {"R1", "R7", "R8", "R13", "R14", "R15", "R19", "R20"}


@pytest.mark.promise(
    "Every crash state, failing operation, flipped bit and corrupted page of small trials ends in the "
    "last good state or a refusal"
)
@pytest.mark.promise("A bit flipped in a rank's copy of the weights is noticed (figure R9)")
@pytest.mark.parametrize("name", sorted(FIGURES.keys() - ALONE))
def test_nothing_is_lost_and_nothing_silently_wrong(name: str) -> None:
    tally, _ = measure(FIGURES[name], "smoke", SEED)
    again = f"python -m tests.fault_injection --size smoke --seed {SEED} --only {name}"
    assert not tally.failures, f"{again}\n" + "\n".join(tally.failures[:5])


def test_every_figure_stands_beside_the_same_test_on_others() -> None:
    assert FIGURES.keys() <= PEERS.keys()


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.what)
def test_the_line_that_a_seeded_defect_changes_stands_once_in_its_module(defect: Defect) -> None:
    found = importlib.util.find_spec(defect.module)
    assert found is not None
    assert found.origin is not None
    assert Path(found.origin).read_text().count(defect.old) == 1


@pytest.mark.processes
def test_the_command_loads_every_figure_without_what_pytest_adds_to_the_path() -> None:
    command = [sys.executable, "-m", "tests.fault_injection", "--only", "R0"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], env={}, capture_output=True, text=True)
    assert done.returncode == 2
    listed = done.stderr.partition("there are ")[2].strip().split(", ")
    assert sorted(listed) == sorted(FIGURES)
