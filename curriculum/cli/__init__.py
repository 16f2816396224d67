"""The command line: every verb in one list.

A verb reads its words, asks the floors below, and hands the answer to `view`. Imports inside verbs are lazy, so
that `--help` answers at once.
"""

from __future__ import annotations

import typer

from curriculum.cli import ask, care, do, look, share

VERBS = (
    *(do.init, do.plan, do.prepare, do.run, do.stop, do.branch),
    *(look.status, look.compare, look.report),
    *(ask.batch, ask.trace, ask.diff),
    *(care.verify, care.prune, care.doctor, care.inspect),
    *(share.export, share.import_, share.eval_),
)

app = typer.Typer(
    help="Run a language-model pretraining curriculum from YAML.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode=None,
)
for _verb in VERBS:
    app.command(_verb.__name__.rstrip("_"))(_verb)
