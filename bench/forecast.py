"""A forecast of schedules against their runs: two that fall late, put in order by the training curves of three others.

A project of its own at the trial's size trains `cosine`, `constant` and `early` for 488 steps of the same text, asks
`decide` for the order of `late` and `later`, which were not trained yet, and then trains them.
"""

from __future__ import annotations

import json
from pathlib import Path

from bench.measure import ROOT, Row, arguments, goal, machine, process, save, show, table
from bench.trial import GENERAL, SIZE, curriculum, write_project, write_study
from curriculum.artifacts.evaluations import read_evaluations
from curriculum.artifacts.stage_folder import StageFolder

_CURVE = "max: 4e-4, min: 4e-5, warmup: 2000 steps"
RAN = {
    "cosine": f"{{shape: cosine, {_CURVE}, horizon: 1T}}",
    "constant": "{shape: constant, max: 4e-4, warmup: 2000 steps}",
    "early": f"{{shape: wsd, {_CURVE}, horizon: 600B, decay: 200B}}",
}
FORECAST = {
    "late": f"{{shape: wsd, {_CURVE}, horizon: 1T, decay: 250B}}",
    "later": f"{{shape: wsd, {_CURVE}, horizon: 1T, decay: 60B}}",
}
STUDY = """\
about: whether a schedule that falls late ends lower
arms: [cosine, constant, early]
forecast:
  late: {shape: wsd, min: 4e-5, horizon: 1T, decay: 250B}
  later: {shape: wsd, min: 4e-5, horizon: 1T, decay: 60B}
goal: {lower: {slimpajama: 1}}
"""
AS_IT_RAN = " as it ran"


def write_schedules(folder: Path) -> None:
    """A curriculum of one stage for each schedule, and the study of those that run first."""
    root = (ROOT / "stages/v1.1.yaml").read_text().partition("stages:")[0]
    stated = next(line for line in root.splitlines() if line.startswith("learning_rate:"))
    for name, rate in (RAN | FORECAST).items():
        text = root.replace(stated, f"learning_rate: {rate}")
        stage = "{name: basic, until: 1T, mixture: slimpajama, batch: 896 sequences}"
        (folder / f"stages/{name}.yaml").write_text(f"{text}stages:\n  - {stage}\n")
    write_study(folder, "schedules", STUDY)


def ends(folder: Path) -> dict[str, float]:
    """The held-out loss, nats a token, at the end of each schedule that ran."""
    losses = {}
    for name in (*RAN, *FORECAST):
        sets = read_evaluations(StageFolder(folder / f"runs/{SIZE}/{name}/basic"))
        if sets:
            losses[name] = float(sets[max(sets)][GENERAL]["loss"])
    return losses


def main() -> None:
    given = arguments(__doc__, folder={"type": Path, "default": ROOT / "build/trial", "help": "where it is trained"})
    machine("torch", "scipy")
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = write_project(given.folder.resolve())
    write_schedules(folder)
    if given.toy:
        print(curriculum(folder, "plan", *RAN))
        save(given.json, {"forecast": []})
        return
    spent = process("-m", "curriculum", "run", *RAN, "--size", SIZE, cwd=folder).cpu
    order = json.loads(curriculum(folder, "decide", "schedules", "--json"))["order"]
    spent += process("-m", "curriculum", "run", *FORECAST, "--size", SIZE, cwd=folder).cpu
    losses = ends(folder)
    rows = [Row(name, [losses[name.removesuffix(AS_IT_RAN)]]) for name in order["names"]]
    table(f"schedules from the lowest predicted end up, {show(spent)}s of processor", rows, " nats held out")
    right = 0
    for pair in order["pairs"]:
        first, second = (losses[pair[key].removesuffix(AS_IT_RAN)] for key in ("first", "second"))
        right += first < second
        order = f"{pair['first']} below {pair['second']}: {pair['word']}, {pair['confidence']:.2f}"
        print(f"  {order}; it was {second - first:+.4f}")
    goal("share of pairs in the order in which they ended", right / len(order["pairs"]), 1.0)
    save(given.json, {"forecast": rows})


if __name__ == "__main__":
    main()
