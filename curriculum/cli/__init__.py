"""The command line: every verb in one list.

A verb reads its words, asks the floors below, and hands the answer to `view`. Imports inside verbs are lazy, so
that `--help` answers at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import typer

from curriculum.cli import ask, care, do, look, share

VERBS = (
    *(do.init, do.plan, do.prepare, do.run, do.stop, do.branch),
    *(look.status, look.compare, look.report),
    *(ask.batch, ask.trace, ask.diff),
    *(care.verify, care.prune, care.doctor, care.inspect),
    *(share.export, share.import_, share.eval_),
)

Verb = Callable[..., Any]


def word(verb: Verb) -> str:
    """How a verb is called on the command line: `import_` is `import`."""
    return verb.__name__.rstrip("_")


def app_of(verbs: Iterable[Verb]) -> typer.Typer:
    """The command line with these verbs alone."""
    made = typer.Typer(
        help="Run a language-model pretraining curriculum from YAML.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=True,
        rich_markup_mode=None,
    )
    made.callback()(_nothing)  # a single verb would else be taken for the whole command
    for verb in verbs:
        made.command(word(verb))(verb)
    return made


def app_for(first: str | None) -> typer.Typer:
    """The command line as far as its first word needs it: to lay out every verb's options takes 30 ms."""
    asked = [verb for verb in VERBS if word(verb) == first]
    return app_of(asked or VERBS)


def _nothing() -> None:
    pass


app = app_of(VERBS)
