"""The tree of `curriculum status`: a project's curricula, each under the point that it branches from."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.text import Text
from rich.tree import Tree

from curriculum.cli.view.anomalies import anomaly_counts, anomaly_line
from curriculum.cli.view.training import losses
from curriculum.runs import status
from curriculum.runs.status import CurriculumStatus, ProjectStatus, StageStatus
from curriculum.units import show_count, show_exact

STYLES = {
    status.DONE: "green",
    status.RUNNING: "bold cyan",
    status.STARTED: "yellow",
    status.PLANNED: "dim",
    status.QUEUED: "cyan",
    status.FAILED: "red",
}


def status_view(project: ProjectStatus) -> RenderableType:
    """The tree, curricula with errors, orphaned run folders, and total tokens; fits 80 columns."""
    parts: list[RenderableType] = [Text(f"size {project.size}; positions in tokens from the root", style="dim")]
    names = {branch.name for branch in project.branches}
    shown = {stage.name for branch in project.branches for stage in branch.stages}
    for branch in project.branches:
        if branch.parent is None or branch.parent not in shown:
            parts.append(_tree(branch, project, names))
    if not project.branches and not project.refused:
        parts.append(Text("no curricula yet: each is a file in stages/"))
    for refused in project.refused:
        parts.append(
            Text.assemble((f"{refused.name}  refused", "red"), f": {refused.why}")
            + Text(f" ({refused.where})" if refused.where else "", style="dim")
        )
    for run in project.orphaned_runs:
        far = f"at {show_exact(run.position)}" if run.position is not None else "nothing saved"
        of = f" of {show_exact(run.ends_at)}" if run.ends_at is not None else ""
        parts.append(Text(f"{run.folder}  no stage file names it any more: {far}{of} tokens", style="yellow"))
    if project.not_started:
        parts.append(Text(f"in folders of stages/, not started: {', '.join(project.not_started)}", style="dim"))
    if project.branches:
        saved = f", {show_count(project.saved)} saved by shared stages" if project.saved else ""
        parts.append(
            Text(
                f"{show_count(project.planned)} tokens to train, {show_count(project.done)} done "
                f"({_percent(project.done, project.planned)}){saved}"
            )
        )
    return Group(*parts)


def _tree(branch: CurriculumStatus, project: ProjectStatus, names: set[str]) -> Tree:
    head = Text(branch.name, style="bold")
    if branch.parent is not None:
        head.append(f"  from {branch.parent} at {show_exact(branch.begins_at)}", style="not bold dim")
    if branch.about:
        head.append(f"\n{branch.about}", style="not bold dim")
    tree = Tree(head, guide_style="dim")
    for stage in branch.stages:
        node = tree.add(_stage(stage))
        below = [child for child in project.branches if child.parent == stage.name]
        for child in sorted(below, key=lambda child: (child.begins_at, child.name)):
            node.children.append(_tree(child, project, names))
    return tree


def _stage(stage: StageStatus) -> Text:
    line = Text(stage.name.partition("/")[2])
    line.append(f"  {stage.state}", style=STYLES[stage.state])
    if stage.state == status.PLANNED:
        line.append(f"  {show_count(stage.starts_at)} to {show_exact(stage.ends_at)}", style="dim")
    elif stage.state == status.DONE:
        line.append(f"  at {show_exact(stage.position)}")
    else:
        line.append(
            f" at {show_exact(stage.position)} of {show_exact(stage.ends_at)}, "
            f"{_percent(stage.position - stage.starts_at, stage.ends_at - stage.starts_at)}"
        )
    if stage.shared_by:
        suffixes = {name: f" (to {show_count(at)})" for name, at in stage.leaving.items()}
        sharing = (name + suffixes.get(name, "") for name in stage.shared_by)
        line.append(f"\nshared by {', '.join(sharing)}", style="dim")
    for event in stage.events:
        line.append(f"\n{event}")
    if stage.job is not None:
        line.append(f"\n{stage.job}", style="red" if stage.state == status.FAILED else "dim")
    if stage.departed is not None:
        line.append(f"\n{stage.departed}", style="yellow")
    if stage.unsaved is not None:
        line.append(f"\n{stage.unsaved}", style="yellow")
    if stage.held_out:
        line.append(f"\nheld-out {losses(stage.held_out)}  at {show_count(stage.held_out_at or 0)}", style="dim")
    if stage.anomalies:
        shown = len(stage.newest_anomalies)
        newest = f"; the newest {shown}:" if shown < sum(stage.anomalies.values()) else ""
        line.append(f"\n{anomaly_counts(stage.anomalies)}{newest}", style="yellow")
        for anomaly in stage.newest_anomalies:
            line.append(f"\n  {anomaly_line(anomaly)}", style="yellow")
    if stage.checkpoints:
        kept = ", ".join(
            show_count(c.position)
            + (f" as @{c.address.partition('@')[2]}" if c.address and "@" in c.address else "")  # at a scaled size
            + (f" (pinned by {', '.join(c.pinned_by)})" if c.pinned_by else "")
            for c in stage.checkpoints
        )
        line.append(f"\nkept at {kept}", style="dim")
    for position in stage.pins_without_checkpoint:
        if position > stage.position:
            line.append(f"\nwill be kept at {show_exact(position)}, where another branches", style="dim")
        else:
            line.append(f"\npinned at {show_exact(position)}, where no checkpoint is", style="red")
    return line


def _percent(part: int, total: int) -> str:
    """Rounded down: 100% means complete."""
    return f"{part * 1000 // max(1, total) / 10:.1f}%"
