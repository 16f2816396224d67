"""The page of the job file names every key that a trainer finds, and no other."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import yaml

from curriculum.artifacts import jobs
from curriculum.config.machines import TrainerEntry
from curriculum.stream import Stage

PAGE = (Path(__file__).parents[2] / "docs/job-json.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"## {title}\n")[1].split("\n## ")[0]


def test_the_page_names_every_key_of_a_training_job_and_no_other() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", section("The job file"), re.MULTILINE)
    named = [name for row in rows for name in re.findall(r"\w+", row)]
    assert sorted(named) == sorted(["kind", "format", *(field.name for field in fields(jobs.TrainJob))])
    assert f"`format` {jobs.FORMAT}" in PAGE


def test_the_page_names_what_a_stage_has() -> None:
    for name in re.findall(r"`(?:with )?stage\.(\w+)", section("In Python")):
        assert hasattr(Stage, name) or name in ("resume", "plan", "stream", "job"), name
    assert {field.name for field in fields(jobs.Resume)} <= set(re.findall(r"`(\w+)`", section("In Python")))


def test_the_machine_on_the_page_is_one() -> None:
    entry = yaml.safe_load(re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[1])["my-cluster"]["trainer"]  # type: ignore[index]
    assert set(TrainerEntry.model_fields) == set(entry)
