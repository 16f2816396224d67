"""What becomes of standard output and standard error never ends a process, nor what it works at."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import commands
import pytest
from projects import write_small_project

from curriculum.artifacts import jobs
from curriculum.fs.standard_streams import LossyFile

NO_READER, FULL_DISK = "no reader", "full disk"


@contextmanager
def lost(how: str) -> Iterator[int]:
    """A descriptor that cannot be written."""
    if how == FULL_DISK:
        descriptor = os.open("/dev/full", os.O_WRONLY)
    else:
        reader, descriptor = os.pipe()
        os.close(reader)
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(("how", "reason"), [(NO_READER, errno.EPIPE), (FULL_DISK, errno.ENOSPC)])
def test_what_cannot_be_written_is_dropped_and_the_first_reason_kept(how: str, reason: int) -> None:
    with lost(how) as descriptor:
        file = LossyFile(descriptor, "w", closefd=False)
        assert file.write(b"first") == 5
        assert file.write(b"later") == 5
        assert file.failure is not None
        assert file.failure.errno == reason


def test_a_full_pipe_that_another_process_made_non_blocking_gets_every_byte() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    text = os.urandom(1 << 18)
    received: list[bytes] = []

    def read() -> None:
        while part := os.read(reader, 4096):
            received.append(part)

    reading = threading.Thread(target=read)
    file = LossyFile(writer, "w")
    reading.start()
    assert file.write(text) == len(text)
    file.close()
    reading.join()
    os.close(reader)
    assert b"".join(received) == text


@pytest.mark.processes
@pytest.mark.promise("No output stream ends or changes a run, whatever becomes of it or whatever it cannot encode")
@pytest.mark.parametrize(("out", "err", "whole"), [(NO_READER, FULL_DISK, True), (FULL_DISK, NO_READER, False)])
def test_a_run_whose_output_is_lost_trains_to_the_same_end(
    out: str, err: str, whole: bool, finished: Path, tmp_path: Path
) -> None:
    """The job's log is a file; here the display of the command is lost from the first line on."""
    if whole:
        project = write_small_project(tmp_path / "project")
    else:
        project = Path(shutil.copytree(finished, tmp_path / "project"))
        shutil.rmtree(project / "runs/full/variant/cooldown")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with lost(out) as output, lost(err) as errors:
        run = commands.start(*("run", "variant"), folder=project, environment=environment, out=output, err=errors)
        assert run.wait(300) == 0
    for name in ("trunk/basic/DONE", "variant/cooldown/DONE", "variant/cooldown/ledger.jsonl"):
        assert (project / "runs/full" / name).read_bytes() == (finished / "runs/full" / name).read_bytes()


@pytest.mark.processes
@pytest.mark.promise("No output stream ends or changes a run, whatever becomes of it or whatever it cannot encode")
@pytest.mark.parametrize(
    ("how", "code", "message"),
    [(NO_READER, 141, ""), (FULL_DISK, 1, "warning: the output could not be written: No space left on device\n")],
)
@pytest.mark.parametrize(
    "words", ["plan variant", "plan variant --json", "status variant --follow", "status", "--help"]
)
def test_a_command_whose_result_is_lost_ends_with_an_exit_code_that_shows_it(
    words: str, how: str, code: int, message: str, small_project: Path
) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    errors = small_project / "errors"
    with lost(how) as descriptor, errors.open("w") as err:
        command = commands.start(
            *words.split(), folder=small_project, environment=environment, out=descriptor, err=err.fileno()
        )
        assert command.wait(60) == code
    assert errors.read_text() == message


@pytest.mark.processes
@pytest.mark.parametrize(
    ("words", "encoding"),
    [("plan variant", "ascii"), ("plan variant", "latin-1"), ("plan nonesuch", "ascii"), ("status --json", "latin-1")],
)
def test_what_a_terminal_cannot_encode_is_escaped(words: str, encoding: str, small_project: Path) -> None:
    stage = small_project / "stages/variant.yaml"
    stage.write_text(stage.read_text().replace("a variant that", "a variant “日本” that"))
    (small_project / "stages/übung.yaml").write_text("about: ü\nfrom: trunk/basic\nstages: [{name: ü, until: 9216}]\n")
    done = subprocess.run(
        [sys.executable, "-m", "curriculum", *words.split()],
        cwd=small_project,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert done.returncode == (2 if "nonesuch" in words else 0), done.stderr
    assert b"Traceback" not in done.stderr
    if "--json" in words:
        assert json.loads(done.stdout)
        assert "übung" in done.stdout.decode()
        return
    shown = (done.stdout + done.stderr).decode(encoding)
    assert "\\u28" not in shown, "a curve of escape sequences"
    expected = "bung" if "nonesuch" in words else "a variant \\u201c\\u65e5\\u672c\\u201d that"
    assert expected in " ".join(shown.split())


@pytest.mark.processes
def test_no_file_of_a_project_takes_the_number_of_a_stream_that_was_closed_at_the_start(tmp_path: Path) -> None:
    """What native code prints would be written into that file."""
    code = (
        "import os, sys\nfrom curriculum.fs import standard_streams\nstandard_streams.protect()\n"
        "print('to stdout', flush=True); print('to stderr', file=sys.stderr)\n"
        "kept = open('kept', 'w')\nassert kept.fileno() > 2\n"
        "for number in (1, 2): os.write(number, b'native')\n"
    )

    def close_streams() -> None:
        for number in range(3):
            os.close(number)

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, preexec_fn=close_streams)
    assert done.returncode == 0
    assert (tmp_path / "kept").read_bytes() == b""


@pytest.mark.processes
@pytest.mark.promise("No output stream ends or changes a run, whatever becomes of it or whatever it cannot encode")
@pytest.mark.parametrize("how", [NO_READER, FULL_DISK])
def test_a_job_whose_log_is_lost_records_how_it_ended(how: str, tmp_path: Path) -> None:
    job = jobs.EvaluateJob(
        plan=str(tmp_path / "plan.json"),
        stage_folder=str(tmp_path),
        attempt_folder=str(tmp_path),
        checkpoint=str(tmp_path / "none"),
        held_out={},
        machine=jobs.Machine(device="cpu", threads=1),
    )
    jobs.save(job, tmp_path / "job.json")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    with lost(how) as descriptor:
        process = commands.start_python(
            *("-m", "runner", str(tmp_path / "job.json")),
            folder=tmp_path,
            environment=environment,
            out=descriptor,
            err=descriptor,
        )
        assert process.wait(120) in (1, 2)
    assert json.loads((tmp_path / "outcome.json").read_bytes())["outcome"] in (jobs.FAILED, jobs.REFUSED)


@pytest.mark.processes
def test_a_batch_job_whose_log_is_lost_records_how_it_ended(tmp_path: Path) -> None:
    asked = {"project": str(tmp_path), "curriculum": "none", "size": "full", "machine": "local", "stage": "none"}
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    with lost(FULL_DISK) as descriptor:
        process = commands.start_python(
            *("-m", "curriculum.execution.slurm.benchmark", str(tmp_path)),
            folder=tmp_path,
            environment=dict(os.environ),
            out=descriptor,
            err=descriptor,
        )
        assert process.wait(60) == 2
    assert json.loads((tmp_path / "outcome.json").read_bytes())["outcome"] == jobs.REFUSED
