"""Preparing text on a real Slurm: an array of helpers and the job behind it give the bytes that one process gives."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from pathlib import Path

import commands
import pytest
from projects import write_small_project
from slurm_cluster import wait_for

from curriculum.data.manifest import Manifest

MACHINES = """\
local: {launcher: process, device: cpu, threads: 1}
pair: {launcher: torchrun, processes: 2, device: cpu, threads: 1}
cluster: {launcher: slurm, nodes: 2, processes: 2, device: cpu, threads: 1}
"""


def say(root: Path, *words: str, refused: bool = False) -> str:
    done = commands.run(*words, folder=root, timeout=300)
    assert (done.returncode != 0) == refused, done.stdout + done.stderr
    return done.stdout + done.stderr


def project_at(root: Path, finished: Path) -> Path:
    project = write_small_project(root)
    (project / "data").mkdir()
    shutil.copytree(finished / "data/tokenizers", project / "data/tokenizers")
    sources = project / "sources.yaml"
    sources.write_text(sources.read_text().replace("held_out: 25%}", "held_out: 25%, tasks: 4}"))
    (project / "machines.yaml").write_text(MACHINES)
    return project


def digests(project: Path) -> dict[str, str]:
    found = sorted(project.glob("data/*/*/manifest.json"))
    return {path.parts[-3]: Manifest.load(path.parent).digest for path in found}


def logs(project: Path) -> str:
    return "".join(
        f"\n{path}\n{path.read_text(errors='replace')[-1500:]}" for path in project.glob("data/*/*.partial/**/*.log")
    )


@pytest.mark.promise("Slurm jobs, local processes and a single process prepare the same bytes")
def test_helpers_on_a_cluster_and_processes_here_make_the_bytes_of_one_process(
    tmp_path: Path, slurm: Path, finished: Path
) -> None:
    alone, pair, cluster = (project_at(tmp_path / name, finished) for name in ("alone", "pair", "cluster"))
    say(alone, "prepare", "variant", "--size", "full")
    say(pair, "prepare", "variant", "--size", "full", "--machine", "pair")
    assert digests(pair) == digests(alone)
    words = ("prepare", "variant", "--size", "full", "--machine", "cluster")
    broken = cluster / "texts" / "code" / "extra.txt.gz"
    broken.write_bytes(gzip.compress(b"x = 1\n" * 500)[:-9])
    sources = cluster / "sources.yaml"
    said = sources.read_text()
    sources.write_text(said.replace("{train: [prose, code], vocab_size: 300}", "{path: tokenizer.json}"))
    tokenizer = next((alone / "data" / "tokenizers").glob("*/tokenizer.json"))
    (cluster / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    first = say(cluster, *words)
    assert "after 4 helpers" in first
    again = say(cluster, *words)
    assert "left as it is" in again or "prose" in digests(cluster)
    wait_for("the prose", lambda: "prose" in digests(cluster), 120)

    def over() -> bool:
        record = next(cluster.glob("data/code/*.partial/slurm.json"))
        job = json.loads(record.read_bytes())["job"]
        state = subprocess.run(
            ["squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T"],
            capture_output=True,
            text=True,
            check=False,
        ).stdout.strip()
        return state in ("CANCELLED", "FAILED", "")

    wait_for("the end of what cannot be read", over, 120)
    assert "code" not in digests(cluster)
    finished = {p.name for p in cluster.glob("data/code/*.partial/completions/*")}
    assert len(finished) == 3, logs(cluster)  # the helper that met the broken file failed with its task alone
    broken.unlink()  # what cannot be fetched again is left out
    say(cluster, *words)
    wait_for("the code", lambda: "code" in digests(cluster), 120)
    assert digests(cluster) == digests(alone)
