"""Tokens a second of the training core against its peers, in one command and one run.

    python bench/core.py                       # CPU: the rehearsal's model, a 20M one and a Qwen3 of its size, fp32
    python bench/core.py --device cuda         # one GPU: 1.1B, sequence 2,048, bf16
    python bench/core.py --before CHECKOUT     # beside the core of another commit, checked out there
    python bench/core.py --run runs/rehearsal/v1.1/basic    # what a finished stage spent its time on

Every contender trains the same model from the same weights on the same tokens with the same micro-batch, fused
AdamW and clipping, each in processes of its own that take turns (A B C A B C …). A row is void when its first ten
losses are further than 2e-2 from ours. Figures are medians over all windows, with the lowest and the highest; of the
ratios the median, the lowest and the highest of the rounds, every other of which goes through them backwards.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path += [path for path in os.environ.get("BENCH_PEERS", "").split(":") if path]

from curriculum.config.evaluation_budget import EVALUATED  # noqa: E402
from curriculum.config.model_catalogue import CATALOGUE  # noqa: E402

REHEARSAL: dict[str, Any] = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "intermediate_size": 352,
    "vocab_size": 4096,
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is trained; `batch` and `micro` in sequences, a window is `steps` updates."""

    model: dict[str, Any]
    length: int
    batch: int
    micro: int
    steps: int
    bf16: bool = False


CASES = {
    "rehearsal": Case(REHEARSAL, 128, 16, 16, 6),
    "llama-20m": Case(dict(CATALOGUE["llama-20m"]), 256, 8, 8, 2),
    "qwen3-20m": Case(dict(CATALOGUE["llama-20m"]) | {"qk_norm": "head", "tie_word_embeddings": True}, 256, 8, 8, 2),
    "tinyllama-1.1b": Case(dict(CATALOGUE["tinyllama-1.1b"]), 2048, 64, 16, 5, bf16=True),
    "toy": Case({**REHEARSAL, "num_hidden_layers": 1, "hidden_size": 64}, 64, 4, 2, 2),
}
CPU = ("ours", "ours bf16", "ours compiled", "transformers", "transformers, our allocator", "litgpt, our allocator")
GPU = (
    "ours",
    "ours uncompiled",
    "ours sdpa-cudnn",
    "transformers",
    "transformers compiled",
    "litgpt compiled",
    "torchtitan",
)
WARM, CHECKED = 2, 10
BEFORE = "ours before"


def as_worker(contender: str, before: Path | None) -> list[str]:
    """The words that run a contender: of this checkout, or of the one at `before`."""
    if contender == BEFORE and before:
        return [str(before.resolve() / "bench" / "core.py"), "--worker", "ours"]
    return [__file__, "--worker", contender]


def why_not(name: str, case: Case, device: str) -> str | None:
    """Why a contender cannot take part; None when it can."""
    for package in ("transformers", "litgpt", "torchtitan"):
        if name.startswith(package) and importlib.util.find_spec(package) is None:
            return f"{package} is not installed"
    if name.startswith("litgpt") and case.model.get("tie_word_embeddings"):
        return "its weights are made for a Llama here"
    if name == "torchtitan":
        return "its trainer reads its own configuration: run it beside this (research protocol), with the same shape"
    if name == "ours bf16":
        import torch

        from runner.monitor.hardware import computes_bf16

        return computes_bf16(torch.device(device))
    return None


def worker(name: str, case: Case, device: str, seconds: float) -> dict[str, Any]:
    """One contender in this process: tokens a second of each window, its first losses, its peak memory."""
    import torch

    from curriculum.plan.model import ModelConfig
    from runner.model.init import initialise
    from runner.model.transformer import Transformer
    from runner.monitor import metrics
    from runner.parallel.ranks import Ranks, keep_freed_memory, leave_ranks

    if name.startswith("ours") or "our allocator" in name:
        keep_freed_memory()
    where = torch.device(device)
    numbers = {**case.model, "max_position_embeddings": case.length}
    numbers["rms_norm_eps"] = float(numbers.get("rms_norm_eps", 1e-5))
    config = ModelConfig.from_json(numbers)
    seed = Transformer(config)
    initialise(seed, 1)
    draw = torch.Generator().manual_seed(0)
    text = torch.randint(config.vocab_size, (CHECKED, case.batch, case.length + 1), generator=draw)
    make = _ours if name.startswith("ours") else _transformers if name.startswith("transformers") else _litgpt
    step = make(name, case, config, seed, where)
    losses = [step(text[at].to(where)) for at in range(CHECKED)]
    tokens = case.steps * case.batch * case.length
    rates = []
    until = time.monotonic() + seconds
    while time.monotonic() < until or len(rates) < 3:
        started = time.perf_counter()
        for at in range(case.steps):
            step(text[at % CHECKED].to(where))
        if where.type == "cuda":
            torch.cuda.synchronize()
        rates.append(tokens / (time.perf_counter() - started))
    report = {
        "rates": rates[WARM:] or rates,
        "losses": losses,
        "memory": metrics.peak_memory(where)["memory_bytes"],
        "parameters": config.parameters,
    }
    leave_ranks(Ranks(0, 1, 1, where))
    return report


Step = Callable[[Any], float]


def _ours(name: str, case: Case, config: Any, seed: Any, where: Any) -> Step:
    """runner/train/step.py as the loop calls it, with nothing left out of it but the plan."""
    from types import SimpleNamespace

    import numpy as np

    from curriculum.stream.batch import Batch
    from runner.model import attention
    from runner.model.transformer import Transformer
    from runner.parallel import fsdp
    from runner.parallel.ranks import Ranks
    from runner.train.optimizer import adamw
    from runner.train.step import forward_backward, update

    bf16 = case.bf16 or "bf16" in name
    request = attention.request_of(where, bf16=bf16, head_dim=config.head_dim, deterministic=False)
    kernel = "sdpa-cudnn" if "cudnn" in name else "auto"
    model = Transformer(config, attention.choose(kernel, request)[1])
    model.load_state_dict(seed.state_dict())
    model.to(where)
    compiles = "compiled" in name if where.type == "cpu" else "uncompiled" not in name
    ranks = Ranks(0, 1, 1, where)
    fsdp.apply(model, ranks, sharding="auto", bf16=bf16, activation_checkpointing="none", compile_blocks=compiles)
    optimizer = adamw(model, {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1, "decay": "all"})
    plan: Any = SimpleNamespace(
        batch_of=lambda step: case.batch,
        tokens_of=lambda step: case.batch * case.length,
        optimizer={"clip_norm": 1.0},
        lr=lambda step: 1e-3,
        average_decay=lambda step: None,
    )

    def step(tokens: Any) -> float:
        read = Batch(0, 0.0, tokens.cpu().numpy(), np.zeros(case.batch, np.int32), ("text",))
        losses = forward_backward(model, read, case.micro, plan)
        update(model, optimizer, plan, 0, ranks)
        return float(losses.sum()) / (case.batch * case.length)

    return step


def _plain(model: Any, loss: Callable[[Any], Any], case: Case, where: Any) -> Step:
    """The loop that people write: fp32 masters, autocast where bf16 is asked for, clip, fused AdamW."""
    import torch

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(tokens: Any) -> float:
        total = 0.0
        for part in tokens.split(case.micro):
            with torch.autocast(where.type, torch.bfloat16, enabled=case.bf16):
                one = loss(part) * (len(part) / case.batch)
            one.backward()
            total += float(one.detach())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return total

    return step


def _transformers(name: str, case: Case, config: Any, seed: Any, where: Any) -> Step:
    import torch
    import torch.nn.functional as F
    from transformers import AutoConfig, AutoModelForCausalLM

    from curriculum.artifacts import huggingface
    from runner.checkpoint.huggingface import to_hugging_face

    theirs = huggingface.config_of(dataclasses.asdict(config), dtype="float32", eos=None, bos=None)
    made = AutoConfig.for_model(**theirs, attn_implementation="sdpa")
    model = AutoModelForCausalLM.from_config(made).to(where)
    state = dict(to_hugging_face(config, seed.state_dict().__getitem__))
    model.load_state_dict(state, strict=not config.tie_word_embeddings)
    called: Any = torch.compile(model) if "compiled" in name else model

    def loss(part: Any) -> Any:
        logits = called(input_ids=part[:, :-1]).logits
        return F.cross_entropy(logits.float().flatten(0, 1), part[:, 1:].flatten())

    return _plain(model, loss, case, where)


def _litgpt(name: str, case: Case, config: Any, seed: Any, where: Any) -> Step:
    import torch
    import torch.nn.functional as F
    from litgpt.config import Config
    from litgpt.model import GPT

    model = GPT(
        Config(
            block_size=case.length,
            n_layer=config.num_hidden_layers,
            n_embd=config.hidden_size,
            n_head=config.num_attention_heads,
            n_query_groups=config.num_key_value_heads,
            head_size=config.head_dim,
            vocab_size=config.vocab_size,
            padded_vocab_size=config.vocab_size,
            intermediate_size=config.intermediate_size,
            rotary_percentage=1.0,
            parallel_residual=False,
            bias=False,
            norm_class_name="RMSNorm",
            norm_eps=config.rms_norm_eps,
            mlp_class_name="LLaMAMLP",
            rope_base=int(config.rope_theta),
        )
    ).to(where)
    state, ours = {}, seed.state_dict()
    state["transformer.wte.weight"], state["lm_head.weight"] = ours["embedding.weight"], ours["head.weight"]
    state["transformer.ln_f.weight"] = ours["norm.weight"]
    for layer in range(config.num_hidden_layers):
        a, b = f"transformer.h.{layer}.", f"blocks.{layer}."
        gate, up = ours[f"{b}feed_forward.gate_up.weight"].chunk(2)
        state |= {
            f"{a}norm_1.weight": ours[f"{b}attention_norm.weight"],
            f"{a}attn.qkv.weight": ours[f"{b}attention.qkv.weight"],
            f"{a}attn.proj.weight": ours[f"{b}attention.out.weight"],
            f"{a}norm_2.weight": ours[f"{b}feed_forward_norm.weight"],
            f"{a}mlp.fc_1.weight": gate,
            f"{a}mlp.fc_2.weight": up,
            f"{a}mlp.proj.weight": ours[f"{b}feed_forward.down.weight"],
        }
    model.load_state_dict(state)
    called: Any = torch.compile(model) if "compiled" in name else model

    def loss(part: Any) -> Any:
        return F.cross_entropy(called(part[:, :-1]).float().flatten(0, 1), part[:, 1:].flatten())

    return _plain(model, loss, case, where)


def compare(
    name: str, device: str, rounds: int, seconds: float, only: list[str], before: Path | None = None
) -> dict[str, Any]:
    """All contenders of a case, taking turns for `rounds` rounds; `before`: a checkout whose core is one of them."""
    case = CASES[name]
    rows: dict[str, Any] = {}
    contenders = []
    if before:
        contenders.append(BEFORE)
        rows[BEFORE] = {"rates": []}
    for contender in GPU if device == "cuda" else CPU:
        reason = why_not(contender, case, device)
        if only and contender not in only and contender != "ours":
            reason = "not asked for (--only)"
        if reason is None:
            contenders.append(contender)
            rows[contender] = {"rates": []}
        else:
            rows[contender] = {"left out": reason}
    for at in range(rounds):
        for contender in contenders if at % 2 == 0 else reversed(contenders):
            done = subprocess.run(
                [sys.executable, *as_worker(contender, before), name, device, str(seconds)],
                capture_output=True,
                text=True,
                check=False,
                # as our launcher sets it, and for all alike: threads that spin while they wait fight on busy cores
                env={"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": ""},
            )
            if done.returncode:
                rows[contender] = {"left out": (done.stderr.strip().splitlines() or ["it was killed"])[-1]}
                continue
            report = json.loads(done.stdout.splitlines()[-1])
            rows[contender].setdefault("turns", []).append(statistics.median(report["rates"]))
            rows[contender].setdefault("rates", []).extend(report.pop("rates"))
            rows[contender] |= report
    reference, turns = rows["ours"].get("losses", []), rows["ours"].get("turns", [])
    for row in rows.values():
        if row.get("rates"):
            ratios = [ours / theirs for ours, theirs in zip(turns, row.pop("turns"), strict=False)]
            apart = max(abs(a - b) for a, b in zip(reference, row.pop("losses"), strict=True))
            row |= {
                "tokens_per_second": statistics.median(row["rates"]),
                "lowest": min(row["rates"]),
                "highest": max(row["rates"]),
                "windows": len(row.pop("rates")),
                "ours_is": [statistics.median(ratios), min(ratios), max(ratios)],
                "loss_apart": apart,
                "void": not apart < 2e-2,
            }
    return {"case": name, "device": device, "rounds": rounds, "rows": rows}


def show(report: dict[str, Any]) -> None:
    case = CASES[report["case"]]
    print(
        f"\n{report['case']}: sequences of {case.length}, batch {case.batch}, micro-batch {case.micro}, "
        f"{'bf16' if case.bf16 else 'fp32'}, {report['device']}, {report['rounds']} rounds"
    )
    print(f"{'':<28} {'tokens/s':>10} {'lowest':>10} {'highest':>10} {'ours is, by turns':>22} {'memory':>9}")
    for name, row in report["rows"].items():
        if "left out" in row:
            print(f"{name:<28} left out: {row['left out']}")
            continue
        times = "{:.2f}x ({:.2f} to {:.2f})".format(*row["ours_is"])
        print(
            f"{name:<28} {row['tokens_per_second']:>10,.0f} {row['lowest']:>10,.0f} {row['highest']:>10,.0f} "
            f"{times:>22} {row['memory'] / 2**20:>6,.0f} MiB{'  VOID: other losses' if row['void'] else ''}"
        )


def shares(stage: Path) -> None:
    """What a finished stage spent its time on, by its metrics."""
    lines = [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
    whole = sum(line["seconds"] for line in lines)
    print(f"{stage}: {len(lines)} steps, {whole:.1f} s")
    for phase in ("data", "forward_backward", "optimizer", "communication", "checkpoint"):
        spent = sum(line.get(f"{phase}_seconds", 0.0) for line in lines)
        print(f"  {phase:<18} {spent:8.2f} s  {100 * spent / whole:6.2f}%")
    timed = [line["evaluation_seconds"] for line in lines if line.get("evaluation_seconds")]
    evaluations = [json.loads(path.read_text())["sets"] for path in sorted((stage / "evaluations").glob("g*.json"))]
    if not timed or not evaluations:
        return
    tokens = statistics.median(sum(entry["tokens"] for entry in sets.values()) for sets in evaluations)
    trained = json.loads((stage / "plan.json").read_text())
    rate = (lines[-1]["position"] - trained["start"]) / whole
    cost = statistics.median(timed) * rate / tokens
    print(f"  {'evaluation':<18} {sum(timed):8.2f} s  beside the steps, {len(timed)} of {len(evaluations)} timed")
    print(
        f"  a token evaluated costs {cost:.3f} of one trained ({min(timed) * rate / tokens:.3f} to "
        f"{max(timed) * rate / tokens:.3f}); `plan` counts {float(EVALUATED):.3f}, {EVALUATED / cost:.2f} of it"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--case", choices=tuple(CASES), action="append")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each turn")
    parser.add_argument("--only", action="append", default=[], help="a contender beside ours; may be repeated")
    parser.add_argument("--before", type=Path, help="a checkout of another commit, whose core takes part too")
    parser.add_argument("--json", type=Path, help="where to keep the figures")
    parser.add_argument("--run", type=Path, help="only show what this stage's folder spent its time on")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.worker:
        name, case, device, seconds = words.worker
        print(json.dumps(worker(name, CASES[case], device, float(seconds))))
        return
    if words.run:
        shares(words.run)
        return
    cases = words.case or (["tinyllama-1.1b"] if words.device == "cuda" else ["rehearsal", "llama-20m", "qwen3-20m"])
    reports = []
    for case in cases:
        reports.append(compare(case, words.device, words.rounds, words.seconds, words.only, words.before))
        show(reports[-1])
    if words.json:
        words.json.write_text(json.dumps(reports, indent=2) + "\n")


if __name__ == "__main__":
    main()
