"""The fixtures that tests share, and which tests start processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import commands
import pytest
from projects import BuiltOnce, InProcess, write_prepared_project, write_small_project

# Before torch is imported: its threads would wait by spinning, and two workers share the cores with what they start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy, as `curriculum` itself does

if TYPE_CHECKING:
    from selenium.webdriver.remote.webdriver import WebDriver


MEMORY = Path("/dev/shm")
ROOM = 8 << 30
"""Bytes that the folders of all tests may take before they are removed, with a margin."""


def pytest_configure() -> None:
    """Folders of tests are in memory where it has room: on a disk each of the many fsyncs waits some milliseconds.

    What a shell starts in the background ignores Ctrl-C, and so would every process that a test interrupts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if _has_room():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


def _has_room() -> bool:
    """Whether the folders of tests fit into memory beside what the tests themselves need."""
    try:
        free = shutil.disk_usage(MEMORY).free
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    except OSError:
        return False
    return free >= ROOM and int(lines["MemAvailable"].split()[0]) * 1024 >= 2 * ROOM


STARTING = {"built_to_read", "built_once", "curriculum", "browser", "slurm"}
"""Fixtures that start processes; tests that do so by themselves carry the mark `processes`."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if STARTING.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("processes")
    if "not processes" in config.getoption("markexpr"):
        sys.addaudithook(_refuse_interpreters)


def _refuse_interpreters(event: str, arguments: tuple[Any, ...]) -> None:
    """So that `make test FAST=1` stays fast: a test that was left without its mark fails there."""
    if event == commands.FORKS or (event == "subprocess.Popen" and os.fspath(arguments[0]) == sys.executable):
        raise AssertionError("this test starts an interpreter: mark it with `pytest.mark.processes`")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--rewrite", action="store_true", help="rewrite the expected messages; read the diff")


@pytest.fixture(autouse=True)
def environment_as_found() -> Iterator[None]:
    """A command is forked, and by itself, whatever a training in this process has left in the environment before."""
    commands.restore_environment()
    yield
    commands.restore_environment()


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    """A project folder that trains `trunk` and `variant` in seconds, at size `full`."""
    return write_small_project(tmp_path / "project")


@pytest.fixture
def prepared_project(tmp_path: Path, finished: Path) -> Path:
    """`small_project` with its text prepared."""
    return write_prepared_project(tmp_path / "project", finished)


@pytest.fixture
def curriculum() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a project folder; with `fresh=True` as a person does, in an interpreter of its own."""

    def run(project: Path, *words: str, check: bool = True, fresh: bool = False) -> subprocess.CompletedProcess[str]:
        done = commands.run(*words, folder=project, fresh=fresh)
        if check and done.returncode != 0:
            raise AssertionError(
                f"curriculum {' '.join(words)} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    return run


@pytest.fixture
def in_process(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> InProcess:
    """Run the command line in a project folder, in this process: exit code, standard output and standard error."""
    from curriculum.__main__ import main

    def run(project: Path, *words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(project)
        monkeypatch.setattr("sys.argv", ["curriculum", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return ended.value.code, out, err

    return run


@pytest.fixture(scope="session")
def built_to_read(tmp_path_factory: pytest.TempPathFactory) -> BuiltOnce:
    """Let whichever worker comes first build a project, which every worker only reads."""

    def build_once(name: str, build: Callable[[Path], None]) -> Path:
        base = tmp_path_factory.getbasetemp()
        shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
        original, is_built = shared / name / "project", shared / name / "built"
        original.parent.mkdir(exist_ok=True)
        with (shared / name / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not is_built.exists():
                shutil.rmtree(original, ignore_errors=True)  # what a build that failed has left
                build(original)
                is_built.touch()
        return original

    return build_once


@pytest.fixture(scope="session")
def built_once(built_to_read: BuiltOnce, tmp_path_factory: pytest.TempPathFactory) -> BuiltOnce:
    """Let whichever worker comes first build a project, and give every worker a copy of its own."""

    def copy_of(name: str, build: Callable[[Path], None]) -> Path:
        original = built_to_read(name, build)
        copy = Path(shutil.copytree(original, tmp_path_factory.mktemp(f"{name}-copy") / "project"))
        for job in copy.rglob("attempts/*/job.json"):  # it names its folders in full
            job.write_text(job.read_text().replace(str(original), str(copy)))
        return copy

    return copy_of


@pytest.fixture(scope="session")
def finished(built_once: BuiltOnce) -> Path:
    """A project whose variant was run once, undisturbed; read only."""

    def build(project: Path) -> None:
        write_small_project(project)
        commands.run("run", "variant", "--size", "full", folder=project, check=True)

    return built_once("finished", build)


@pytest.fixture(scope="session")
def paired(built_once: BuiltOnce, finished: Path) -> Path:
    """`finished`, its `variant/continual` trained by two processes of torchrun and shown by TensorBoard; read only."""

    def build(project: Path) -> None:
        shutil.copytree(finished, project)
        shutil.rmtree(project / "runs/full/variant")
        variant = project / "stages/variant.yaml"
        variant.write_text("".join(line for line in variant.open() if "cooldown" not in line))
        (project / "machines.yaml").write_text(
            "local: {launcher: torchrun, processes: 2, device: cpu, threads: 1, trackers: [tensorboard]}\n"
        )
        commands.run("run", "variant", "--size", "full", folder=project, check=True, fresh=True)

    return built_once("paired", build)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    """Headless Chromium. The gate must have one; elsewhere a test that needs it says what is missing."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        missing = "no `chromium` and `chromedriver` here (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("CURRICULUM_GATE") == "1":
            pytest.fail(f"the gate needs a browser: {missing}")
        pytest.skip(missing)
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    profile = tmp_path_factory.mktemp("chromium")
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={profile}"),
        *("disable-quic", "no-first-run", "disable-background-networking", "disable-component-update"),
        *("disable-sync", "hide-scrollbars", "force-color-profile=srgb"),
    ):
        options.add_argument(f"--{flag}")
    # the driver is on this machine: no proxy that the environment names stands between
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "localhost,127.0.0.1"
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        started.set_page_load_timeout(60)
        yield started
    finally:
        started.quit()


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """A Slurm of two pretend nodes on this machine. The gate must have one; elsewhere a test says what is missing."""
    from slurm_cluster import CannotStart, cluster

    with contextlib.ExitStack() as stack:
        try:
            configuration = stack.enter_context(cluster())
        except CannotStart as missing:
            if os.environ.get("CURRICULUM_GATE") == "1":
                pytest.fail(f"the gate needs Slurm: {missing}")
            pytest.skip(str(missing))
        yield configuration


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer trained on small texts (`texts.py`)."""
    from texts import write_texts

    from curriculum.data.requests import TokenizerRequest
    from runner.prepare.tokenizer import train_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    write_texts(folder / "texts", 20)
    path = folder / "tokenizer.json"
    reads = {"texts": {"folder": "texts"}}
    train_tokenizer(TokenizerRequest(reads=reads, vocab_size=320, output=str(path), root=str(folder)))
    return str(path)


@pytest.fixture
def request_for(tmp_path: Path, tokenizer_file: str) -> Any:
    """A request to prepare the folder `texts` of the test's own, with whatever is to be otherwise."""
    from curriculum.data.requests import PrepareRequest

    def make(**changes: Any) -> PrepareRequest:
        settings: dict[str, Any] = {
            "dataset": "texts",
            "read": {"folder": "texts"},
            "root": str(tmp_path),
            "tokenizer_file": tokenizer_file,
            "output": str(tmp_path / "data" / "out"),
            "progress": str(tmp_path / "attempt" / "progress.jsonl"),
            "sequence_length": 16,
            "held_out": {"share": "20%"},
            "tasks": 3,
        }
        return PrepareRequest(**{**settings, **changes})

    return make
