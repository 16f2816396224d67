"""The verb `plan`: show what will happen, and what it costs, before it happens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from curriculum.cli import addresses
from curriculum.cli.options import AsJson, MachineName, Names, Size, open_console, open_project, print_json

if TYPE_CHECKING:
    from curriculum.config.project import Project


def plan(
    names: Names,
    size: Size = "",
    machine: MachineName = "local",
    svg: Annotated[Path | None, typer.Option("--svg", help="also write the plan as a picture")] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="compare the contents of files, not only sizes and times, with what was read"),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what will happen, and its cost, before it happens.

    In steps, tokens and passes over each source. Several curricula fold into a tree: what they share is counted once.
    Of a study: its arms, and what they cost together.
    """
    from curriculum.analysis import ngram_record
    from curriculum.cli.view.plan import plan_view, tree_view
    from curriculum.compiler import prepared_text
    from curriculum.compiler.overlap import with_overlap
    from curriculum.compiler.preparation_cost import preparation_costs
    from curriculum.compiler.summary import summarise, summarise_tree
    from curriculum.execution import lm_eval
    from curriculum.execution.machine import check_devices
    from curriculum.runs import folders
    from curriculum.runs.drift import with_notes
    from curriculum.studies.mixture_evidence import evidence_lines

    project = open_project()
    if (study := addresses.study_in(project, names)) is not None:
        _plan_study(project, study, size, machine, svg, as_json=as_json)
        return
    if len(set(names)) == 1:
        project, name = addresses.arm_or_curriculum(project, names[0], size)
        names = [name]
    texts = [prepared_text.PreparedText.open(project, name, size) for name in dict.fromkeys(names)]
    for text in texts:
        prepared_text.check_folders(text, planned=True)
        prepared_text.check_special_tokens(text)
    lineages = [with_notes(project, with_overlap(text, text.compiled)) for text in texts]
    for lineage in lineages:
        check_devices(project, lineage, machine)
    compiled = lineages[0]
    if svg is not None or len(lineages) > 1:
        tree = summarise_tree(project, lineages, machine, project.machine(machine))
    if svg is not None:
        from curriculum import fs
        from curriculum.report.svg.plan import plan_picture

        title = f"{', '.join(tree['curricula'])}, size {size}"
        drawing = plan_picture(title, tree["curricula"], tree["tree"])
        fs.write_bytes(svg, drawing.encode(), replace=True)
    if len(lineages) > 1:
        lines = (line for text in texts for line in ngram_record.lines(text))
        tree["shared_runs"] = list(dict.fromkeys(lines))
        if as_json:
            print_json(tree)
        else:
            open_console().print(tree_view(tree))
        return
    summary = summarise(project, compiled, machine, project.machine(machine))
    summary["harness_installed"] = lm_eval.installed()
    summary["cost"]["unsaved"] = folders.insufficient_grace(project, compiled, project.machine(machine))
    summary["held_out_notes"] = texts[0].held_out_lines()
    summary["texts_changed"] = texts[0].change_lines(quick=not check, contents=check)
    summary["evidence"] = evidence_lines(texts[0], compiled)
    summary["shared_runs"] = ngram_record.lines(texts[0])
    summary["preparation"] = preparation_costs(texts[0])
    summary["sample_command"] = f"{texts[0].prepare_command} --sample"
    origins = texts[0].provenance_lines()
    if as_json:
        print_json({**summary, "provenance": origins})
        return
    open_console().print(plan_view(summary, compiled, origins))


def _plan_study(project: Project, name: str, size: str, machine: str, svg: Path | None, *, as_json: bool) -> None:
    from curriculum.cli.view.study import study_view
    from curriculum.compiler import prepared_text
    from curriculum.errors import PlanError
    from curriculum.execution.request import RunRequest
    from curriculum.execution.workers import workers
    from curriculum.studies.arms import compile_study
    from curriculum.studies.summary import summarise

    if svg is not None:
        raise PlanError(
            f"`{name}` is a study, of which there is no picture", hint=f"as in `curriculum plan {name}/kept --svg FILE`"
        )
    study = compile_study(project, name, size)
    prepared_text.check_folders(study.arms[0].texts, planned=True)
    entry = project.machine(machine)
    count = 1
    if entry.launcher in ("process", "torchrun") and entry.nodes == 1:
        count = len(workers(RunRequest(project=project, curriculum=name, size=size, machine=machine)))
    summary = summarise(study, machine, entry, count)
    if as_json:
        print_json(summary)
    else:
        open_console().print(study_view(summary, project.options(size, machine)))
