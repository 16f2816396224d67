"""The table of docs/how-to/any-trainer.md: `python -m tests.integrations [--only lightning,composer]`.

Every trainer is installed from the package index in the versions of `requirements.txt`, each environment once, and its
tests are run on the small project of the tests. What cannot be installed or imported is shown as not run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.support.projects import write_small_project

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENTS = ROOT / ".venv-integrations"
SECONDS, STACKS_SECONDS = 1800, 240
"""What one trainer's tests may take, and after how long a test prints where it is."""


@dataclass(frozen=True)
class Trainer:
    """A trainer's tests, its distribution, the requirements it is installed by, and what a plan cannot ask of it."""

    name: str
    title: str
    distribution: str
    cannot: str
    requirements: str = "requirements.txt"


TRAINERS = (
    Trainer(
        "torchdata",
        "torchdata StatefulDataLoader",
        "torchdata",
        "its state counts from the loader's own first step and holds for one number of workers",
    ),
    Trainer(
        "accelerate",
        "accelerate",
        "accelerate",
        "`dispatch_batches=True` over a `BatchSampler` reads something else, and is not detected",
    ),
    Trainer(
        "lightning",
        "Lightning Trainer, Fabric",
        "lightning",
        "automatic optimisation: no other batch in a run, and no stage from the checkpoint at the end of another "
        "(it then takes a micro-batch for a step): hand the module and its optimizer on",
    ),
    Trainer(
        "litgpt",
        "LitGPT `pretrain`",
        "litgpt",
        "no other batch in a `setup`; a stage's first sample must be a multiple of its batch; several ranks need GPUs",
    ),
    Trainer(
        "composer",
        "Composer",
        "mosaicml",
        "it needs torch 2.7; on resuming it reads once more what it was given before",
        "requirements-composer.txt",
    ),
    Trainer(
        "olmo_core",
        "OLMo-core Trainer",
        "ai2-olmo-core",
        "the batch that it knows and checks is that of the first step",
    ),
    Trainer(
        "torchtitan",
        "torchtitan Trainer, Llama 3",
        "torchtitan",
        "no other batch in a run; on a CPU with SDPA, without its memory monitor and its barrier, which are of GPUs",
    ),
    Trainer(
        "megatron_core",
        "megatron-core schedule, `OptimizerParamScheduler`",
        "megatron-core",
        "the package has no training loop and no sampler, and its GPT needs a GPU: tried with a model of torch; "
        "0.17 and later need Python 3.12",
    ),
)


def install(requirements: Path) -> Path:
    """The interpreter of the environment that holds `requirements`; its first line is torch, whose needs come along."""
    folder = ENVIRONMENTS / requirements.stem
    python, installed = folder / "bin/python", folder / "installed.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        lines = [line for line in requirements.read_text().splitlines() if line and not line.startswith("#")]
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", folder],
            [*pip, lines[0]],
            [*pip, "--no-deps", *lines[1:]],
        ):
            subprocess.run(command, check=True, capture_output=True, text=True)
        installed.write_text(requirements.read_text())
    return python


def try_out(trainer: Trainer, project: Path) -> tuple[str, str]:
    """The trainer's version and what of it held, or why it did not run; AssertionError with its tests' output."""
    requirements = HERE / trainer.requirements
    pinned = re.search(rf"^{re.escape(trainer.distribution)}==(\S+)", requirements.read_text(), re.MULTILINE)
    assert pinned, f"{trainer.requirements} does not name {trainer.distribution}"
    try:
        python = install(requirements)
    except subprocess.CalledProcessError as error:
        return pinned[1], f"not run: {error.stderr.strip().splitlines()[-1]}"
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder, "results")
        environment = os.environ | {
            "INTEGRATIONS_PROJECT": str(project),
            "INTEGRATIONS_RESULTS": str(results),
            "PYTHONPATH": str(ROOT),
        }
        tests = f"tests/integrations/test_{trainer.name}.py"
        words = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", f"faulthandler_timeout={STACKS_SECONDS}", tests]
        failure, said = run_tests([str(python), *words], environment, Path(folder, "said.txt"))
        outcomes: dict[str, set[str]] = {}
        for line in results.read_text().splitlines() if results.exists() else ():
            one = json.loads(line)
            outcomes.setdefault(one["sentence"], set()).add(one["outcome"])
    if failure or any(outcome != {"passed"} for outcome in outcomes.values()) or not outcomes:
        raise AssertionError(f"{trainer.title}: {failure or 'not all of it passed'}\n{said}")
    return pinned[1], "; ".join(outcomes)


def run_tests(command: list[str], environment: Mapping[str, str], output: Path) -> tuple[str, str]:
    """How `command` failed, empty if it did not, and all that it printed into the file `output`.

    What has not ended after `SECONDS` is killed with every process that it started, and has printed where it hangs.
    """
    with output.open("wb") as said:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(SECONDS)
            failure = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            failure = f"not ended after {SECONDS} seconds"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return failure, output.read_text(errors="replace")


def table(rows: Mapping[Trainer, tuple[str, str]]) -> str:
    lines = ["| trainer | version | what held | what it cannot do |", "|---|---|---|---|"]
    lines += [f"| {t.title} | {version} | {held} | {t.cannot} |" for t, (version, held) in rows.items()]
    return "\n".join(lines)


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.integrations")
    parser.add_argument("--only", default="", help="trainers by name, as lightning,composer; all of them without")
    wanted = [name for name in parser.parse_args(words).only.split(",") if name] or [t.name for t in TRAINERS]
    if unknown := set(wanted) - {trainer.name for trainer in TRAINERS}:
        parser.error(f"there is no trainer {', '.join(sorted(unknown))}")
    rows, failed = {}, False
    with tempfile.TemporaryDirectory() as folder:
        project = write_small_project(Path(folder, "project"))
        prepare = [sys.executable, "-m", "curriculum", "prepare", "variant", "--size", "full"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run(prepare, cwd=project, env=environment, check=True, stdout=subprocess.DEVNULL)
        for trainer in TRAINERS:
            if trainer.name not in wanted:
                continue
            print(f"{trainer.title} …", flush=True)
            try:
                rows[trainer] = try_out(trainer, project)
            except AssertionError as error:
                failed = True
                rows[trainer] = ("", "FAILED")
                print(error, flush=True)
    print(table(rows))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
