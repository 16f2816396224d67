"""A real Slurm on this machine alone: its own munged, one controller, two pretend nodes, all on the loopback."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
CONFIGURATION = """\
ClusterName=pretend
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
# A node answers srun's request to end a step only after KillWait. A request without an answer in MessageTimeout (10 s
# unless stated) is made again a minute later, by the step's number: where the job was queued again meanwhile, that
# ends a step of its next launch. Each rank that is killed costs KillWait.
KillWait=2
MessageTimeout=60
SchedulerParameters=batch_sched_delay=0,sched_min_interval=500000,bf_interval=1
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
SlurmdDebug=debug
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={first} CPUs=2 RealMemory=1000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={second} CPUs=2 RealMemory=1000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class CannotStart(Exception):
    """What is missing here, in words."""


def wait_for(what: str, true: Callable[[], object], seconds: float = 120.0) -> None:
    """Return once `true()` is; AssertionError naming `what` after `seconds`."""
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)


def ask(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout


@contextlib.contextmanager
def cluster() -> Iterator[Path]:
    """Its slurm.conf, SLURM_CONF set to it; CannotStart when a part is missing or does not come up."""
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o711)  # munged wants its socket to be reached by all
        with _cluster(folder) as configuration:
            yield configuration


@contextlib.contextmanager
def _cluster(folder: Path) -> Iterator[Path]:
    os.environ["PATH"] = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
    missing = [command for command in COMMANDS if shutil.which(command) is None]
    if missing:
        raise CannotStart(f"no `{missing[0]}` here (Debian: apt-get install slurm-wlm munge)")
    if os.geteuid() != 0:
        raise CannotStart("slurmd starts jobs as root only, and this is not root")
    configuration = folder / "slurm.conf"
    ports = free_ports(3)
    configuration.write_text(
        CONFIGURATION.format(folder=folder, user="root", controller=ports[0], first=ports[1], second=ports[2])
    )
    for name in ("state", "spool-n1", "spool-n2"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    before = os.environ.get("SLURM_CONF")
    os.environ["SLURM_CONF"] = str(configuration)
    started: list[subprocess.Popen[bytes]] = []
    try:
        munge = [f"--{name}={folder}/munge.{name}" for name in ("socket", "log-file", "pid-file", "seed-file")]
        for words in (
            ["munged", "--foreground", f"--key-file={key}", *munge],
            ["slurmctld", "-D", "-f", str(configuration)],
            ["slurmd", "-D", "-f", str(configuration), "-N", "n1"],
            ["slurmd", "-D", "-f", str(configuration), "-N", "n2"],
        ):
            log = (folder / f"{words[0]}.out").open("ab")
            started.append(subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL))
            if words[0] == "munged":
                with contextlib.suppress(AssertionError):  # what follows fails then, with its log
                    wait_for("munged", (folder / "munge.socket").exists, 10)
        try:
            wait_for("two idle nodes", both_idle, 30)
        except AssertionError:
            logs = "\n".join(
                path.read_text(errors="replace")[-800:] for path in [*folder.glob("*.out"), *folder.glob("*.log")]
            )
            raise CannotStart(f"Slurm did not come up:\n{logs}") from None
        yield configuration
        with contextlib.suppress(subprocess.SubprocessError, AssertionError):
            ask("scancel", "--user=root")
            wait_for("an empty queue", lambda: not ask("squeue", "--noheader"), 20)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in reversed(started):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
        for left in processes_of(configuration):
            with contextlib.suppress(ProcessLookupError):
                os.kill(left, signal.SIGKILL)
        if before is None:
            del os.environ["SLURM_CONF"]
        else:
            os.environ["SLURM_CONF"] = before


def queue(job: str) -> str:
    return ask("squeue", "--noheader", "--states=all", f"--jobs={job}", "--format=%T").strip()


def begin_again(job: str) -> None:
    """Begin a job that was queued again at once: Slurm holds such a job back for two minutes."""
    wait_for(f"job {job} in the queue again", lambda: queue(job) == "PENDING")
    # A node compares whole seconds: started in the very second in which its last credential was revoked,
    # the job is refused ("Job credential revoked") and fails for good.
    time.sleep(1.1 - time.time() % 1)
    ask("scontrol", "update", f"JobId={job}", "StartTime=now")


def lose(node: str, job: str) -> None:
    """Take away a node that a step of the job runs on, and give it back once that step has ended there.

    Slurm queues the job again without waiting for that node, whose slurmd looks once a second whether the step has
    ended and says so then. Where the job has begun again by then, the controller takes it that the job has left the
    node: it grants no further step there ("Requested nodes are busy"), and srun asks for one again and again.
    """
    log = Path(os.environ["SLURM_CONF"]).parent / f"{node}.log"
    before = log.stat().st_size
    ask("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=lost")
    wait_for("the job to be taken away", lambda: queue(job) == "PENDING")
    said = f"JobId={job}: sent epilog complete msg".encode()
    wait_for(f"{node} to end its step of job {job}", lambda: said in log.read_bytes()[before:])
    bring_back(node)


def bring_back(*nodes: str) -> None:
    """Nodes that were taken away serve again; one whose slurmd spoke meanwhile does already."""
    for node in nodes:
        subprocess.run(["scontrol", "update", f"NodeName={node}", "State=RESUME"], capture_output=True, check=False)


def both_idle() -> bool:
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%T"], capture_output=True, text=True, timeout=30, check=False
    )
    return done.stdout.split() == ["idle", "idle"]


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def processes_of(configuration: Path) -> list[int]:
    """Daemons and steps of this cluster, and of no other, that still live; never this process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            mine = f"SLURM_CONF={configuration}".encode() in path.read_bytes().split(b"\0")
            if mine and int(path.parts[2]) != os.getpid():
                found.append(int(path.parts[2]))
    return found
