"""The Typer application: every verb, in panels by purpose.

A verb reads its arguments, calls one function of the packages below, and prints the result through `view`. Imports
inside verbs are lazy, so that `--help` is fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any, cast

import typer
from typer.core import TyperGroup

from curriculum.cli import (
    average,
    batch,
    branch,
    compare,
    completion,
    decide,
    diff,
    doctor,
    eval,
    export,
    import_model,
    init,
    inspect,
    overlap,
    plan,
    prepare,
    prune,
    recipe,
    rehearse_trainer,
    report,
    run,
    status,
    stop,
    trace,
    verify,
)
from curriculum.errors import CurriculumError

Verb = Callable[..., Any]

PANELS: dict[str, tuple[Verb, ...]] = {
    "Do": (init.init, plan.plan, prepare.prepare, run.run, stop.stop, branch.branch, average.average),
    "Look": (status.status, compare.compare, report.report),
    "Ask": (decide.decide, batch.batch, trace.trace, overlap.overlap, diff.diff),
    "Care": (verify.verify, prune.prune, doctor.doctor, rehearse_trainer.rehearse_trainer, inspect.inspect),
    "Share": (export.export, import_model.import_, recipe.recipe, eval.eval_),
}
VERBS = tuple(verb for verbs in PANELS.values() for verb in verbs)


UsageError = cast("type[typer.BadParameter]", typer.BadParameter.__base__)
"""Words of a command line that its verb does not take; Typer has no public name for it."""


class _InPanels(TyperGroup):
    """Lists verbs by panel, each with the first sentence of its help in full."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        with _usage_told():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        with _usage_told():
            return super().invoke(ctx)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        width = max(map(len, self.commands))
        for panel, verbs in PANELS.items():
            with formatter.section(panel):
                formatter.write_dl(
                    [
                        (f"{name:<{width}}", self.commands[name].get_short_help_str(limit=1000))
                        for name in map(word, verbs)
                        if name in self.commands
                    ]
                )


@contextmanager
def _usage_told() -> Iterator[None]:
    """CurriculumError, whose hint is how the verb is called, for words that it does not take.

    It names the curricula where one lacks. No word at all is answered with the help.
    """
    try:
        yield
    except UsageError as error:
        if error.ctx is None or type(error).__name__ == "NoArgsIsHelpError":
            raise
        param = error.param if isinstance(error, typer.BadParameter) else None
        names = param is not None and param.name in ("name", "names") and not error.message
        here = f"The curricula here: {', '.join(completion.curricula('')) or 'none'}. " if names else ""
        message, command = error.format_message().rstrip("."), error.ctx.command_path
        usage = " ".join(error.ctx.get_usage().removeprefix("Usage: ").split())
        raise CurriculumError(
            message[:1].lower() + message[1:], hint=f"{here}`{usage}`; `{command} --help` lists the options"
        ) from None


def word(verb: Verb) -> str:
    """The word of a verb on the command line: `import` for `import_`, with `-` for `_`."""
    return verb.__name__.rstrip("_").replace("_", "-")


def app_of(verbs: Iterable[Verb]) -> typer.Typer:
    """The command line with these verbs only."""
    app = typer.Typer(
        cls=_InPanels,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Run a language-model pretraining curriculum from YAML.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=True,
        rich_markup_mode=None,
    )
    app.callback()(_options)  # also so that a single verb does not become the command itself
    for verb in verbs:
        app.command(word(verb))(verb)
    return app


def app_for(first: str | None) -> typer.Typer:
    """The command line as far as its first word needs it: building every verb's options takes 30 ms."""
    return app_of([verb for verb in VERBS if word(verb) == first] or VERBS)


def _print_version(requested: bool) -> None:
    if requested:
        import platform
        from importlib import metadata

        try:
            version = metadata.version("curriculum")
        except metadata.PackageNotFoundError:
            version = "from a checkout that was never installed"
        print(f"curriculum {version}, Python {platform.python_version()}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


app = app_of(VERBS)
