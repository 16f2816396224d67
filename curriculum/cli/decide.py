"""The verb `decide`: what the runs of a study show, and what that leaves open."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curriculum.cli import completion
from curriculum.cli.options import AsJson, open_console, open_project, print_json
from curriculum.errors import ConfigError, PlanError

if TYPE_CHECKING:
    from curriculum.config.project import Project
    from curriculum.studies.decision_input import DecisionInput
    from curriculum.studies.table import TableFiles


def decide(
    name: Annotated[
        str | None, typer.Argument(help="a study: the name of a file in studies/", autocompletion=completion.studies)
    ] = None,
    write: Annotated[
        str | None, typer.Option(help="write the proposal as this file of mixtures/", metavar="MIXTURE")
    ] = None,
    although_not_shown: Annotated[
        bool, typer.Option("--although-not-shown", help="with --write: also where the verdict is not `shown`")
    ] = False,
    shares: Annotated[
        Path | None, typer.Option(help="without a study: CSV file of shares, a row for each run", metavar="FILE")
    ] = None,
    losses: Annotated[Path | None, typer.Option(help="CSV file of held-out losses of the runs", metavar="FILE")] = None,
    join: Annotated[str, typer.Option(help="column of both files that names the run", metavar="COLUMN")] = "index",
    share_columns: Annotated[str, typer.Option(help="columns of shares, * for the source", metavar="PATTERN")] = "*",
    loss_columns: Annotated[str, typer.Option(help="columns of losses, * for the source", metavar="PATTERN")] = "*",
    lower: Annotated[
        list[str] | None, typer.Option(help="loss to minimise, or NAME=WEIGHT; may be repeated", metavar="NAME")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="largest loss allowed of another; repeatable", metavar="NAME=LOSS")
    ] = None,
    size: Annotated[
        str, typer.Option(help="size of the study's runs, else the default", autocompletion=completion.sizes)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Decide a study by what its runs show.

    Nothing is trained. The answer says what was shown, and what would decide the rest.
    """
    from curriculum.cli.view.decision import decision_json, decision_view
    from curriculum.studies import mixture_file, record
    from curriculum.studies.decide import decide as answer
    from curriculum.studies.decision import Undecidable
    from curriculum.studies.decision_input import read_input
    from curriculum.studies.mixtures import base
    from curriculum.studies.propose import fix_proposal
    from curriculum.studies.table import TableFiles

    table = shares, losses
    if although_not_shown and write is None:
        raise ConfigError(
            "`--although-not-shown` is of `--write`, which is not given",
            hint="as in `curriculum decide NAME --write MIXTURE --although-not-shown`",
        )
    project: Project | None = None
    about = text = None
    if name is None:
        if shares is None or losses is None or not lower:
            raise ConfigError(
                "there is no question: neither a study nor a table with `--lower`",
                hint="`curriculum decide NAME`, or --shares FILE --losses FILE --lower SOURCE",
            )
        if write is not None:
            raise ConfigError(
                "a mixture rests on the record of a study, and options leave none",
                hint="write studies/NAME.yaml with `table:` and the same goal, then `curriculum decide NAME --write`",
            )
        if size:
            raise ConfigError(
                "`--size` is of a study's runs, and those of a table have none", hint="leave the option out"
            )
        inputs = _read_table(TableFiles(shares, losses, join, share_columns, loss_columns), lower, keep or [])
    else:
        of_a_table = (join != "index", share_columns != "*", loss_columns != "*")
        if any(of_a_table) or any(value is not None for value in (*table, lower, keep)):
            raise ConfigError(
                f"the study `{name}` says where its runs are and what is wanted",
                hint="leave out the name, or the options",
            )
        project = open_project()
        size = size or project.default_size
        file, document = project.study(name)
        about, text = file.about, "\n".join(document.lines)
        inputs = read_input(project, name, size)
    try:
        decision = answer(inputs.question, inputs.evidence, inputs.earlier)
    except Undecidable as error:
        missing = f"; {inputs.incomplete[0]}" if inputs.incomplete else ""
        raise PlanError(f"{error.what}{missing}", hint=error.hint) from None
    decision = inputs.so_far(decision)
    kept: record.Record | None = None
    to_run = False
    if project is not None and name is not None:
        if write is not None:
            mixture_file.check_may_be_written(project, write, decision, although_not_shown=although_not_shown)
        made = record.content(name, text, inputs.question, inputs.evidence, decision, inputs.files)
        kept = record.write(project.runs / size / name, made)
        if inputs.compiled is not None and inputs.measured is not None:
            to_run = fix_proposal(inputs.compiled, inputs.measured, decision)
    written = None
    if write is not None and project is not None and kept is not None:
        passes = base(inputs.compiled.study).passes if inputs.compiled is not None else mixture_file.NO_PASSES
        written = mixture_file.write(project, write, decision, kept, passes)
    if as_json:
        print_json(
            {
                **decision_json(decision),
                "record": str(kept.path) if kept else None,
                "written": str(written) if written else None,
            }
        )
        return
    console = open_console()
    to_train = None
    if project is not None and inputs.compiled is not None:
        to_train = f"curriculum run {name}{project.options(size)}"
    console.print(decision_view(decision, about, inputs.question.cost, to_train))
    if kept is not None and project is not None:
        console.print(f"\nrecord   {kept.path.relative_to(project.root)}")
    if written is not None and project is not None:
        console.print(f"written  {written.relative_to(project.root)}: name it under `mixture:` of a stage")
    elif kept is not None and decision.proposal is not None and decision.proposal.shares and decision.shown:
        console.print(f"write it with: curriculum decide {name} --write NAME")
    elif kept is not None:
        console.print("so       nothing is written")
    if to_run:
        console.print(f"next     {to_train} trains the proposal: its own runs judge it")


def _read_table(files: TableFiles, lower: list[str], keep: list[str]) -> DecisionInput:
    """The runs of two CSV files with the question that the options ask of them."""
    from curriculum.studies.decision import Keep
    from curriculum.studies.decision_input import DecisionInput
    from curriculum.studies.table import read
    from curriculum.studies.table_question import question

    weights, limits = _weights(lower), _limits(keep)
    runs = read(files)
    keeps = {source: Keep(None, loss) for source, loss in limits.items()}
    return DecisionInput(
        question=question(files.losses.stem, runs, weights, keeps, {}), evidence=runs.evidence, files={}
    )


def _weights(texts: list[str]) -> dict[str, float]:
    """`NAME` or `NAME=WEIGHT`, each once."""
    weights: dict[str, float] = {}
    for text in texts:
        source, _, number = text.rpartition("=") if "=" in text else (text, "", "1")
        _put(weights, source, number, "--lower", text)
    return weights


def _limits(texts: list[str]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for text in texts:
        source, _, number = text.rpartition("=")
        _put(limits, source, number, "--keep", text)
    return limits


def _put(numbers: dict[str, float], source: str, number: str, option: str, text: str) -> None:
    try:
        value = float(number)
    except ValueError:
        value = 0.0
    if not source or not 0 < value < float("inf"):
        hint = "a name and a number above 0, as in `pile_cc=2`" if option == "--lower" else "as in `pile_cc=2.87`"
        raise ConfigError(f"`{option} {text}` cannot be read", hint=hint)
    if source in numbers:
        raise ConfigError(f"`{option}` names `{source}` twice", hint="leave one of the two out")
    numbers[source] = value
