"""What the verbs show, pinned: on terminals of 80 and 140 columns, and where there is no terminal.

`screens/NAME-80.txt`, `-140.txt` and `-plain.txt` are a finished small project's; measured figures stand there as `N`.
`pytest tests/screens/test_screens.py --rewrite` rewrites them, to be read in the diff.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from pathlib import Path

import commands
import pytest
from rich.console import Console
from terminal import on_a_terminal

from curriculum.artifacts import checkpoints
from curriculum.cli.view.runs import pruned_view
from curriculum.runs.retention import Retention

pytestmark = pytest.mark.processes

SCREENS = Path(__file__).parent
FULL = ("--size", "full")
VERBS: dict[str, tuple[str, ...]] = {
    "help": ("--help",),
    "plan": ("plan", "variant", *FULL),
    "plan-on-gpu": ("plan", "variant", *FULL, "--machine", "gpu"),
    "plan-of-two": ("plan", "trunk", "variant", *FULL),
    "plan-of-study": ("plan", "how-much-code", *FULL),
    "prepare": ("prepare", "variant", *FULL),
    "run-dry": ("run", "trunk", *FULL, "--dry-run"),
    "run-done": ("run", "variant", *FULL),
    "stop": ("stop", "variant", *FULL),
    "status": ("status", "variant", *FULL),
    "batch": ("batch", "variant", *FULL, "--step", "30"),
    "batch-text": ("batch", "variant", *FULL, "--step", "30", "--text"),
    "trace-windows": ("trace", "variant", *FULL, "--source", "code", "--range", "3:6"),
    "trace-shard": ("trace", "variant", *FULL, "--source", "prose", "--shard", "0"),
    "overlap": ("overlap", "variant", *FULL),
    "diff": ("diff", "trunk", "variant", *FULL),
    "verify": ("verify", "variant", *FULL),
    "prune": ("prune", *FULL, "--dry-run"),
}
OF_STUDY = {"plan-of-study"}
STUDY = """\
about: how much code the continual stage takes
for: variant/continual
vary: {mixture: {around: mixed, runs: 6}}
goal: {lower: {code: 1}, keep: {prose: before + 0.02}}
"""
MEASURED = {"run-done", "status", "prune"}
NOT_FOLDED = {"run-dry", "batch", "batch-text"}  # lines that are copied into a shell or piped on stay whole


def pinned(verb: str, shown: str) -> str:
    """Without losses and sizes of files, which differ from machine to machine, and without padding at the ends."""
    if verb in MEASURED:
        shown = re.sub(r"\b\d+\.\d{3}(?=\s)", "N.NNN", shown)
        shown = re.sub(r"\b\d+\.\d+ (?=[kM]B)", "N ", shown)
    return "\n".join(line.rstrip() for line in shown.replace(str(Path(sys.executable)), "python").splitlines()) + "\n"


def _asked(finished: Path, copy: Path) -> Path:
    """The project before anything of it was trained, so that no speed is measured, with a study."""
    shutil.copytree(finished, copy, ignore=shutil.ignore_patterns("runs"))
    (copy / "studies").mkdir()
    (copy / "studies/how-much-code.yaml").write_text(STUDY)
    return copy


@pytest.mark.promise("What the commands print is pinned, on terminals of 80 and 140 columns and without one")
@pytest.mark.parametrize("columns", [80, 140, None], ids=["80", "140", "plain"])
@pytest.mark.parametrize("verb", VERBS)
def test_what_a_verb_shows_is_pinned(
    verb: str, columns: int | None, finished: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if verb in OF_STUDY:
        finished = _asked(finished, tmp_path / "project")
    if columns is None:
        shown = commands.run(*VERBS[verb], folder=finished, check=True).stdout
        assert "\x1b" not in shown
    else:
        shown = on_a_terminal(finished, columns, *VERBS[verb])
        assert verb in NOT_FOLDED or max(map(len, shown.splitlines())) <= columns
    path = SCREENS / f"{verb}-{columns or 'plain'}.txt"
    shown = pinned(verb, shown).replace(str(finished), "PROJECT")
    if pytestconfig.getoption("--rewrite"):
        path.write_text(shown)
    assert shown == path.read_text()


def test_however_many_branch_from_a_checkpoint_its_position_and_size_stay_whole() -> None:
    verdict = Retention(
        stage="v1.1/basic",
        checkpoint=checkpoints.Checkpoint(0, 1_501_184, Path("g0-0000000001501184")),
        bytes=21_050_880,
        kept_by=("its stage's end", f"branched from by {', '.join(f'variant-{n}' for n in range(40))}"),
    )
    for width in (80, 160):
        console = Console(width=width, file=io.StringIO())
        with console.capture() as shown:
            console.print(pruned_view([verdict], [], dry_run=True))
        lines = shown.get().splitlines()
        assert lines[1].startswith("v1.1/basic  1,501,184  21.1 MB  its stage's end; branched from by variant-0,")
        assert "variant-39" in "".join(lines)
        assert max(map(len, lines)) <= width
