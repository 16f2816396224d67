"""Every command that the documentation shows is run, in a project of its own, in the order in which it stands there.

In a tutorial or how-to,

* a block ```` ```yaml ```` whose first line is `# PATH` is written to that file;
* a block ```` ```console ```` is run line by line: `$ ` begins a command, the lines after it must be among its output,
  where `…` matches what differs from machine to machine; ```` ```console refused ```` must end with an error;
* a block ```` ```python ```` is run by itself.

A page whose first line is `<!-- continues PAGE.md -->` is run after that page, in a copy of the folder it leaves.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import commands
import pytest
import typer
from projects import BuiltOnce

from curriculum.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = {ROOT / "docs/how-to/notebook.md"}  # docs/test_reference.py runs it as one notebook
PAGES = sorted({*ROOT.glob("docs/tutorials/*.md"), *ROOT.glob("docs/how-to/*.md")} - ELSEWHERE)
TIMEOUT = 900
IN_NO_SHELL = re.compile(r"curriculum [^|&;<>()$`\\*?\[{#~!\n]*")
"""A line that a shell only divides into words, so that none need be started."""
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    line: str
    shown: tuple[str, ...]
    refused: bool


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(found["info"].strip(), found["body"]) for found in FENCE.finditer(page.read_text())]


def shown_commands(info: str, body: str) -> list[Command]:
    found: list[Command] = []
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        line, *shown = part.rstrip("\n").split("\n")
        while line.endswith("\\"):
            line = line[:-1] + shown.pop(0)
        found.append(Command(line, tuple(s for s in shown if s.strip(" …")), "refused" in info.split()))
    return found


def check_shown(command: Command, output: str, page: Path) -> None:
    said = [" ".join(line.split()) for line in output.splitlines()]
    for line in command.shown:
        pattern = ".*".join(re.escape(part.strip()) for part in " ".join(line.split()).split("…"))
        assert any(re.search(pattern, other) for other in said), (
            f"{page.name}: `{command.line}` no longer prints\n  {line}\nbut\n{output}"
        )


def parent(page: Path) -> Path | None:
    """The page from whose folder `page` goes on."""
    found = re.match(r"<!-- continues (\S+) -->", page.read_text())
    return (page.parent / found[1]).resolve() if found else None


LeftBy = Callable[[Path], Path]


@pytest.fixture(scope="session")
def left_by(built_to_read: BuiltOnce, tmp_path_factory: pytest.TempPathFactory) -> LeftBy:
    """The folder in which a page ends, only to be read: it and those before it were followed, each once."""

    def left(page: Path) -> Path:
        def build(project: Path) -> None:
            start, before = tmp_path_factory.mktemp(page.stem) / "start", parent(page)
            if before is None:
                start.mkdir()
            else:
                shutil.copytree(left(before), start)
            shutil.move(follow(page, start), project)

        return built_to_read(f"page-{page.stem}", build)

    return left


@pytest.mark.promise(
    "Every command that a tutorial or how-to shows works and prints the figures shown; the pictures of "
    "the order are drawn by the code they show"
)
@pytest.mark.promise(
    "`curriculum init --text` writes a project that trains on that text as it is, or refuses before it writes a file"
)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_that_a_page_shows_works_as_shown(page: Path, left_by: LeftBy) -> None:
    assert left_by(page).is_dir()


def test_every_page_goes_on_from_one_that_is_run() -> None:
    assert all(before in PAGES for before in map(parent, PAGES) if before is not None)


def follow(page: Path, folder: Path) -> Path:
    """Do what `page` says, beginning in `folder`; the folder in which it ends."""
    path = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if commands.can_fork(os.environ):
        programs = folder.parent / "programs"
        programs.mkdir()
        commands.put_in(programs, TIMEOUT)
        path.insert(0, str(programs))
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(path),
        "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)),
        "COLUMNS": "160",
    }
    for info, body in blocks(page):
        kind = info.split()[0] if info else ""
        if kind == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", body)):
            target = folder / name[1]
            assert target.parent.is_dir(), f"{page.name} writes {name[1]}, whose folder is not there"
            target.write_text(body.partition("\n")[2])
        elif kind == "python":
            script, said = folder.parent / "block.py", folder.parent / "block.out"
            script.write_text(body)
            with said.open("w") as out:
                code = commands.start_python(
                    str(script), folder=folder, environment=environment, out=out.fileno(), err=out.fileno()
                ).wait(TIMEOUT)
            assert code == 0, f"{page.name}:\n{body}\n{said.read_text()}"
        elif kind == "console":
            for command in shown_commands(info, body):
                if command.line.startswith("cd "):
                    folder = (folder / command.line.removeprefix("cd ")).resolve()
                    continue
                code, output = said_by(command.line, folder, environment)
                assert (code != 0) == command.refused, f"{page.name}: `{command.line}`\n{output}"
                check_shown(command, output, page)
    return folder


def said_by(line: str, folder: Path, environment: dict[str, str]) -> tuple[int, str]:
    """The exit status of a line for a shell, and what it prints."""
    if IN_NO_SHELL.fullmatch(line):
        words = shlex.split(line)[1:]
        done = commands.run(*words, folder=folder, environment=environment, timeout=TIMEOUT)
    else:
        shell = ["bash", "-euo", "pipefail", "-c", line]
        done = subprocess.run(shell, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
    return done.returncode, done.stdout + done.stderr


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]:
        text = FENCE.sub("", page.read_text())
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken


def test_every_verb_is_shown_in_some_page_that_is_run() -> None:
    """So that no verb is left without an example that is known to work."""
    from curriculum.cli.app import VERBS, word

    text = "".join(body for page in PAGES for info, body in blocks(page) if info.startswith("console"))
    missing = {word(verb) for verb in VERBS} - set(re.findall(r"^(?:\$| ) +curriculum ([a-z-]+)", text, re.MULTILINE))
    assert not missing


@pytest.mark.promise(
    "Every command that a tutorial or how-to shows works and prints the figures shown; the pictures of "
    "the order are drawn by the code they show"
)
def test_the_pictures_of_the_order_are_drawn_by_the_functions_they_show() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    import draw_order

    for name, draw in draw_order.PICTURES.items():
        stored = (draw_order.FOLDER / f"order-{name}.svg").read_text()
        assert stored == draw(), "run `python docs/draw_order.py`"


def test_every_command_shown_anywhere_has_words_that_exist() -> None:
    """Also those in prose, which no test runs: the verb and each option."""
    verbs = typer.main.get_command(app).commands
    wrong = []
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")):
        for line in re.findall(
            r"(?:`|\$ |^)curriculum ([a-z][a-z-]* [^`\n]*|[a-z][a-z-]*)", page.read_text(), re.MULTILINE
        ):
            verb, *words = line.split()
            stated = [word.strip("[]()") for word in words if word.lstrip("[(").startswith("--")]
            known = verbs.get(verb)
            if known is None:
                wrong.append(f"{page.name}: curriculum {verb}")
                continue
            options = {name for option in known.params for name in (*option.opts, *option.secondary_opts)}
            wrong += [f"{page.name}: curriculum {line}" for word in stated if word.split("=")[0] not in options]
    assert not wrong
