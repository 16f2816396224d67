"""A 1.1B model on one machine without a GPU, from text to export, by the commands a person types; 1 where it fails.

`tinyllama-1.1b` in fp32 on sequences of 256 tokens, one a step: trained for two steps, saved, killed with SIGKILL in a
later step, resumed, exported, and measured by transformers on the held-out windows that its evaluation read.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.measure import ROOT, Row, arguments, goal, machine, process, save, table

LENGTH = 256
SAVED = 2  # the step whose end is saved
STEPS = 4
WINDOWS = 4  # held-out windows of an evaluation
MEMORY = 20e9
LOSSES = 1e-6
TOY = "{hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 176,\
 vocab_size: 4096, rms_norm_eps: 1e-5, rope_theta: 10000, tie_word_embeddings: false}"
STAGE = Path("runs/full/one/only")


def write_project(folder: Path, model: str) -> None:
    files = {
        "stages/one.yaml": f"""\
seed: 1
model: {model}
tokenizer: words
sequence_length: {LENGTH}
optimizer: {{name: adamw, weight_decay: 0.1}}
learning_rate: {{shape: constant, max: 1e-4, warmup: 1 steps}}
every: {{evaluate: {STEPS * LENGTH} tokens, checkpoint: {SAVED * LENGTH} tokens}}
stages:
  - {{name: only, until: {STEPS * LENGTH} tokens, mixture: text, batch: 1 sequences}}
""",
        "mixtures/text.yaml": "weights: {code: 1}\n",
        "sources.yaml": "tokenizers:\n  words: {train: [code], vocab_size: 4096}\n"
        f"sources:\n  code: {{read: {{folder: {ROOT / 'curriculum'}, files: '**/*.py'}}, held_out: 20%}}\n",
        "sizes.yaml": f"full: {{at_most: {{held_out_windows: {WINDOWS}}}}}\n",
        "machines.yaml": "local: {launcher: process, device: cpu, precision: fp32, micro_batch: 1}\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def descendants(pid: int) -> list[int]:
    pids = [pid]
    for parent in pids:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                pids += map(int, (task / "children").read_text().split())
    return pids


def resident(pid: int) -> int:
    """The highest resident memory that process `pid` had, in bytes; 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


class Command:
    """`curriculum WORDS` in `folder`, with the seconds it took and the highest memory of one of its processes."""

    def __init__(self, folder: Path, *words: str) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.words = words
        self.started = time.monotonic()
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed with the process)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "curriculum", *words],
            cwd=folder,
            env=environment,
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )
        self.peak = 0
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._measure)
        self._watch.start()

    def _measure(self) -> None:
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, *map(resident, descendants(self.process.pid)))

    def kill(self) -> None:
        """SIGKILL for the command and every process below it."""
        for pid in descendants(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._end()

    def _end(self) -> int:
        code = self.process.wait()
        self._ended.set()
        self._watch.join()
        self.seconds = time.monotonic() - self.started
        return code

    def finish(self) -> Row:
        """Wait for it; RuntimeError, with what it said, when it fails."""
        if code := self._end():
            self.log.seek(0)
            raise RuntimeError(f"curriculum {' '.join(self.words)} ended with {code}\n{self.log.read()[-4000:]}")
        return self.row(f"curriculum {self.words[0]}")

    def row(self, name: str) -> Row:
        return Row(name, [self.seconds], {"peak": f"{self.peak / 1e9:.2f} GB"})


def records(folder: Path) -> dict[int, dict[str, Any]]:
    """The records of the steps so far, by the number of the step from 1."""
    path = folder / STAGE / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return {record["position"] // LENGTH: record for record in map(json.loads, lines)}


def until_recorded(command: Command, folder: Path, step: int) -> dict[str, Any]:
    while step not in (by_step := records(folder)):
        if command.process.poll() is not None:
            command.finish()
            raise RuntimeError(f"the run ended before step {step} was recorded")
        time.sleep(0.1)
    return by_step[step]


def figures(record: dict[str, Any]) -> tuple[float, float]:
    return record["loss"], record["grad_norm"]


@contextlib.contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def in_transformers(project: Path, export: Path) -> None:
    """Print, as JSON, transformers' mean loss on the windows that the end's evaluation read."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from curriculum.compiler.prepared_text import PreparedText
    from curriculum.config.project import Project
    from curriculum.data.dataset import Dataset

    texts = PreparedText.open(Project(project), "one", "full")
    held_out = Dataset.open(texts.folder("code"), split="held-out", sequence_length=LENGTH)
    windows = min(texts.compiled.stages[0].held_out_windows, held_out.windows)
    rows = torch.from_numpy(held_out.read(np.arange(windows) * held_out.windows // windows))
    model = AutoModelForCausalLM.from_pretrained(export, dtype=torch.float32)
    total = 0.0
    with torch.inference_mode():
        for row in rows:
            logits = model(row[None, :-1]).logits[0]
            total += float(torch.nn.functional.cross_entropy(logits.double(), row[1:], reduction="sum"))
    print(json.dumps({"loss": total / (windows * LENGTH), "parameters": model.num_parameters()}))


def held_out_loss(folder: Path) -> float:
    newest = max((folder / STAGE / "evaluations").glob("*.json"))
    evaluation = json.loads(newest.read_text())
    return float(evaluation["sets"]["code"]["loss"])


def main() -> None:
    given = arguments(
        str(__doc__).split("\n\n", 1)[0], keep={"type": Path, "help": "work in this directory, and leave it there"}
    )
    machine("torch", "transformers", "safetensors")
    rows: list[Row] = []
    with workplace(given.keep) as folder:
        write_project(folder, TOY if given.toy else "tinyllama-1.1b")
        rows.append(Command(folder, "prepare", "one").finish())
        first = Command(folder, "run", "one")
        before = until_recorded(first, folder, SAVED + 1)
        first.kill()
        rows.append(first.row(f"curriculum run, killed in step {SAVED + 2}"))
        last_saved = sorted(path.name for path in (folder / STAGE / "checkpoints").iterdir())
        second = Command(folder, "run", "one")
        rows.append(second.finish())
        after = records(folder)
        out = folder / "exported"
        shutil.rmtree(out, ignore_errors=True)
        rows.append(Command(folder, "export", "one", "--to", str(out), "--dtype", "fp32").finish())
        measured = process("-m", "bench.full_size", "--measure", str(out), cwd=folder)
        theirs = json.loads(measured.output.splitlines()[-1])
        rows.append(Row("transformers, held-out windows", [measured.wall], {"peak": f"{measured.peak / 1e9:.2f} GB"}))
        mine = held_out_loss(folder)
    table(f"{theirs['parameters']:,} parameters, fp32, {LENGTH} tokens a step", rows, " s")
    print(f"  saved before the kill: {', '.join(last_saved)}")
    for step, record in sorted(after.items()):
        loss, norm = figures(record)
        print(f"  step {step}: loss {loss}, gradient norm {norm}, {record['seconds']:.1f} s")
    peak = max(first.peak, second.peak)
    same = figures(before) == figures(after[SAVED + 1])
    print(f"  step {SAVED + 1} before the kill: loss {figures(before)[0]}, gradient norm {figures(before)[1]}")
    print(f"  held-out loss: ours {mine}, transformers' {theirs['loss']}")
    goal("the resumed step, equal in every digit", float(same), 1)
    goal("difference from transformers' held-out loss", abs(mine - theirs["loss"]), LOSSES, at_most=True)
    goal("peak resident memory of training", peak, MEMORY, at_most=True, unit="B")
    save(given.json, {"full size": rows})
    sys.exit(not (same and abs(mine - theirs["loss"]) <= LOSSES and peak <= MEMORY))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        in_transformers(Path.cwd(), Path(sys.argv[2]))
    else:
        main()
