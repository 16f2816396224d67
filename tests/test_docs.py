"""Every command that the documentation shows is run, in a project of its own, in the order in which it stands there.

In a tutorial or how-to, a block ```` ```yaml ```` whose first line is `# PATH` is written to that file, a block
```` ```console ```` is run line by line (`$ ` begins a command; the lines after it must be among its output, where
figures may differ; `…` stands for anything), and ```` ```console refused ```` must end with an error.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("docs/tutorials/*.md"), *ROOT.glob("docs/how-to/*.md")])
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
FIGURE = re.compile(r"[-+]?\d[\d,.]*(?:e[-+]?\d+)?[kMBT]?")


@dataclass(frozen=True, slots=True)
class Command:
    line: str
    shown: tuple[str, ...]
    refused: bool


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(found["info"].strip(), found["body"]) for found in FENCE.finditer(page.read_text())]


def commands(info: str, body: str) -> list[Command]:
    found: list[Command] = []
    for part in re.split(r"^\$ ", body, flags=re.MULTILINE)[1:]:
        line, *shown = part.rstrip("\n").split("\n")
        while line.endswith("\\"):
            line = line[:-1] + shown.pop(0)
        found.append(Command(line, tuple(s for s in shown if s.strip(" …")), "refused" in info.split()))
    return found


def skeleton(line: str) -> str:
    """A line of output without its figures and its spacing, which differ from machine to machine."""
    return " ".join(FIGURE.sub("#", line).split())


def check_shown(command: Command, output: str, page: Path) -> None:
    said = [skeleton(line) for line in output.splitlines()]
    for line in command.shown:
        pattern = ".*".join(re.escape(part.strip()) for part in skeleton(line).split("…"))
        assert any(re.search(pattern, other) for other in said), (
            f"{page.name}: `{command.line}` no longer prints\n  {line}\nbut\n{output}"
        )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_that_a_page_shows_works_as_shown(page: Path, tmp_path: Path) -> None:
    folder = tmp_path
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.environ.get("PYTHONPATH", str(ROOT)),
        "COLUMNS": "160",
    }
    for info, body in blocks(page):
        kind = info.split()[0] if info else ""
        if kind == "yaml" and (name := re.match(r"# (\S+\.yaml)\n", body)):
            target = folder / name[1]
            assert target.parent.is_dir(), f"{page.name} writes {name[1]}, whose folder is not there"
            target.write_text(body.partition("\n")[2])
        elif kind == "console":
            for command in commands(info, body):
                if command.line.startswith("cd "):
                    folder = (folder / command.line.removeprefix("cd ")).resolve()
                    continue
                done = subprocess.run(
                    ["bash", "-euo", "pipefail", "-c", command.line],
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=900,
                )
                output = done.stdout + done.stderr
                assert (done.returncode != 0) == command.refused, f"{page.name}: `{command.line}`\n{output}"
                check_shown(command, output, page)


def test_every_link_between_pages_leads_somewhere() -> None:
    broken = []
    for page in [
        ROOT / "README.md",
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/**/*.md"),
        *ROOT.glob("*/README.md"),
    ]:
        text = FENCE.sub("", page.read_text())
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if not re.match(r"[a-z]+:", target) and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken


def test_every_verb_is_shown_in_some_page_that_is_run() -> None:
    """So that no verb is left without an example that is known to work."""
    from curriculum.cli import VERBS

    text = "".join(body for page in PAGES for info, body in blocks(page) if info.startswith("console"))
    missing = {verb.__name__ for verb in VERBS} - set(re.findall(r"\$ curriculum ([a-z]+)", text))
    assert not missing


def test_the_pictures_of_the_order_are_drawn_by_the_functions_they_show() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    import draw_order

    for name, draw in draw_order.PICTURES.items():
        stored = (draw_order.FOLDER / f"order-{name}.svg").read_text()
        assert stored == draw(), "run `python docs/draw_order.py`"
