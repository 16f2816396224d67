"""Options that several verbs share, and their output: on a console, as JSON, by an exit code."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from curriculum.cli import completion

if TYPE_CHECKING:
    from rich.console import Console

    from curriculum.compiler.compile import Compiled
    from curriculum.compiler.prepared_text import PreparedText
    from curriculum.config.project import Project


def _known_size(name: str) -> str:
    """The size that is meant; NotFound for one that sizes.yaml does not have and nothing was run at."""
    project = open_project()
    if name and not (project.runs / name).is_dir():
        project.size(name)
    return name or project.default_size


Name = Annotated[
    str, typer.Argument(help="a curriculum: the name of a file in stages/", autocompletion=completion.curricula)
]
Names = Annotated[
    list[str],
    typer.Argument(help="one or more curricula: names of files in stages/", autocompletion=completion.curricula),
]
NameOrAll = Annotated[
    str | None, typer.Argument(help="one curriculum; all of them without", autocompletion=completion.curricula)
]
Size = Annotated[
    str,
    typer.Option(
        help="what is scaled: a name in sizes.yaml",
        show_default="rehearsal, or the only one",
        callback=_known_size,
        autocompletion=completion.sizes,
    ),
]
"""Never empty inside a verb."""
MachineName = Annotated[
    str,
    typer.Option(
        "--machine", help="where and how it runs: a name in machines.yaml", autocompletion=completion.machines
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]


def open_project() -> Project:
    from curriculum.config.project import Project

    return Project.find()


def trained_with_texts(project: Project, name: str, size: str) -> tuple[Compiled, PreparedText]:
    """A curriculum, or an arm of a study, with the plans that trained its stages, and its text.

    stderr has a note where files differ now.
    """
    from curriculum.cli.addresses import arm_or_curriculum
    from curriculum.compiler.prepared_text import PreparedText
    from curriculum.runs.drift import as_trained

    project, name = arm_or_curriculum(project, name, size)
    texts = PreparedText.open(project, name, size)
    compiled, lines = as_trained(project, texts.compiled)
    for line in lines:
        print(f"note: {line}", file=sys.stderr)
    return compiled, texts


def open_console(*, stderr: bool = False) -> Console:
    from rich.console import Console

    # Without a terminal nothing is cut to a width: the reader can wrap lines.
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else 160
    return Console(highlight=False, stderr=stderr, width=width)


def print_json(value: Any) -> None:
    """Write `value` to stdout as indented JSON, in UTF-8 whatever the terminal's encoding."""
    import orjson  # the standard library indents in Python: seconds for a batch of thousands

    try:
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE)
    except orjson.JSONEncodeError:  # a file's name that is not UTF-8
        text = f"{json.dumps(value, indent=2)}\n".encode()
    sys.stdout.flush()
    sys.stdout.buffer.write(text)  # UTF-8, as JSON is, whatever the terminal's encoding


def stopped(command: str) -> typer.Exit:
    print(f"stopped and saved; resume with: {command}")
    return typer.Exit(130)
