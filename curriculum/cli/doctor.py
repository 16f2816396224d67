"""The verb `doctor`: show what this machine has, and which runs it can serve."""

from __future__ import annotations

import typer

from curriculum.cli.options import AsJson, MachineName, open_project, print_json


def doctor(machine: MachineName = "local", as_json: AsJson = False) -> None:
    """Show what this machine has, and which runs it can serve.

    Against an entry of machines.yaml.
    """
    from curriculum.cli.view.doctor import doctor_lines
    from curriculum.execution.doctor import examine

    report = examine(open_project(), machine)
    if as_json:
        print_json(report)
    else:
        for line in doctor_lines(report):
            print(line)
    if not report["served"]:
        raise typer.Exit(2)
