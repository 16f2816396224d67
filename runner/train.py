"""Trains one stage: build, go on from what is there, loop, save. READ THIS FIRST.

The loop does not know the words stage, mixture or curriculum: it asks the plan what a step reads and at which
learning rate, and the clock when to evaluate and to save. Resuming is starting at another step.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum import checkpoints, durable, ledger
from curriculum.errors import PlanError, RunFailed
from curriculum.job import DONE, STOPPED, Machine, TrainJob
from curriculum.plan import StagePlan, share_of_rank
from runner import attention, checkpoint, data, evaluate, optim, sharding, trackers
from runner.distributed import Ranks
from runner.loss import next_token_loss, next_token_losses
from runner.metrics import Metrics
from runner.model import Llama, ModelConfig, initialise
from runner.preemption import StopFlag

NONFINITE_AT_MOST = (
    8  # steps in a row without a finite gradient before the run ends at its last good checkpoint
)
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}  # of one forward pass, when the machine file states none


@dataclass(slots=True)
class State:
    """Where the run stands: all that a checkpoint holds beside tensors. `windows` are counted since the root."""

    step: int
    position: int
    windows: dict[str, int] = field(default_factory=dict)
    nonfinite_steps: int = 0
    nonfinite_in_a_row: int = 0


def train(job: TrainJob, ranks: Ranks, stop: StopFlag) -> dict[str, Any]:
    """Bring the stage to its end, or to the next step boundary once asked to stop; returns the outcome."""
    plan = StagePlan.load(Path(job.plan))
    folder = Path(job.stage_folder)
    trackers.check(job.machine.trackers)
    if job.machine.deterministic:
        torch.use_deterministic_algorithms(True)
    model, config = build(plan, job.machine, ranks)
    optimizer = optim.adamw(model, plan.optimizer)
    sources = data.open_sources(plan, job.data)
    held_out = evaluate.HeldOutSets(
        job.held_out, sequence_length=plan.sequence_length, vocab_size=config.vocab_size
    )
    micro = micro_batch(plan, job.machine.micro_batch, ranks)
    state = restore(plan, job, model, optimizer, ranks)
    metrics = None
    if ranks.first:
        checkpoints.sweep(folder / "checkpoints")
        ledger.cut_back(folder / ledger.LEDGER, state.position)
        tracked = trackers.start(
            job.machine.trackers,
            folder=folder,
            lineage=job.lineage,
            resumed_at=state.position,
            config={"fingerprint": plan.fingerprint, **plan.labels},
        )
        metrics = Metrics(
            folder / "metrics.jsonl",
            plan,
            generation=job.generation,
            resumed_at=state.position,
            trackers=tracked,
        )
        durable.write_json(Path(job.attempt_folder) / "environment.json", environment(job, ranks, micro))

    def measure() -> None:
        known = evaluate.read(folder / "evaluations", job.generation, state.position)
        wanted = [name for name in held_out.sets if name not in known]
        wanted = ranks.agree(wanted)
        if metrics:
            metrics.trackers.evaluated(state.position, known, new=False)
        if not wanted:
            return
        model.eval()
        with torch.no_grad():
            results = held_out.measure(
                lambda tokens: losses(model, tokens).sum(dim=1),
                names=wanted,
                rank=ranks.rank,
                ranks=ranks.size,
                add=ranks.add,
                chunk=micro,
                device=ranks.device,
            )
        sharding.reshard(model)
        model.train()
        if ranks.first:
            evaluate.write(folder / "evaluations", job.generation, state.position, state.step, results)
        if metrics:
            metrics.trackers.evaluated(state.position, results, new=True)
            metrics.pause()

    def save() -> None:
        ledger.check(plan, state.position, state.windows)
        name = checkpoints.name(job.generation, state.position)
        if not (folder / "checkpoints" / name).exists():
            _save(folder / "checkpoints" / name, plan, job, model, optimizer, state, ranks)
        if ranks.first:
            ledger.append(
                folder,
                ledger.Entry(
                    generation=job.generation,
                    position=state.position,
                    step=state.step,
                    checkpoint=name,
                    fingerprint=plan.fingerprint,
                    windows={name: count for name, count in sorted(state.windows.items()) if count},
                ),
            )
            retain(folder / "checkpoints", plan, job)
        if metrics:
            metrics.pause()

    end = job.stop_at if job.stop_at is not None else plan.end
    measure()
    model.train()
    last_step = plan.step_at(end)
    batches = data.batches(
        plan, sources, first_step=state.step, last_step=last_step, rank=ranks.rank, ranks=ranks.size
    )
    while state.step < last_step:
        # a branch that was made while this runs may ask for a checkpoint here
        wanted = ranks.first and state.position in checkpoints.pinned(folder)
        if ranks.any(bool(stop) or wanted):
            save()
            if ranks.any(bool(stop)):
                return {"outcome": STOPPED, "position": state.position, "step": state.step}
        waited = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - waited
        sums = forward_backward(model, batch, micro, plan, ranks)
        norm = optim.clip(model, plan.optimizer["clip_norm"])
        finite = math.isfinite(norm)
        if finite:
            optim.set_learning_rate(optimizer, plan.lr(state.step))
            optimizer.step()
        optimizer.zero_grad()
        count(state, batch, plan, finite, ranks)
        if metrics:
            metrics.step(
                state.step,
                loss=float(sums.sum()) / plan.batch_tokens,
                grad_norm=norm,
                skipped=not finite,
                source_loss=sums,
                source_tokens=tokens_per_source(plan, state.step),
                data_seconds=waited,
            )
        before, state.position = state.position, plan.position_after(state.step)
        state.step += 1
        if state.nonfinite_in_a_row >= NONFINITE_AT_MOST:
            raise RunFailed(
                f"the gradient was not finite in {state.nonfinite_in_a_row} steps in a row, "
                f"up to step {state.step - 1:,}",
                hint="the last good checkpoint is kept; "
                f"`curriculum batch --step {state.step - 1}` shows what was read",
            )
        if state.position == end or due(before, state.position, job.evaluate_every):
            measure()
        if (
            state.position == end
            or state.position in job.keep
            or due(before, state.position, job.checkpoint_every)
        ):
            save()
    batches.close()
    if ranks.first and end == plan.end and not (folder / "DONE").exists():
        name = checkpoints.name(job.generation, end)
        digest = checkpoints.weights_digest(folder / "checkpoints" / name)
        durable.write_json(folder / "DONE", {"checkpoint": name, "position": end, "weights": digest})
    ranks.wait()
    return {"outcome": DONE, "position": state.position, "step": state.step}


def build(plan: StagePlan, machine: Machine, ranks: Ranks) -> tuple[Llama, ModelConfig]:
    """The model on this rank's device with its initial weights, sharded as the machine file says."""
    config = ModelConfig.from_json(plan.model)
    bf16 = machine.precision == "bf16" or (machine.precision == "auto" and ranks.device.type == "cuda")
    request = attention.Request(
        device=ranks.device.type,
        dtype=torch.bfloat16 if bf16 else torch.float32,
        head_dim=config.head_dim,
        deterministic=machine.deterministic,
    )
    if plan.mask_documents:
        raise PlanError(
            "`mask_documents` is not carried out by this version", hint="leave it out of the stage file"
        )
    try:
        _, attend = attention.choose(machine.attention, request)
    except ValueError as error:
        raise PlanError(str(error), hint="choose another `attention` in machines.yaml, or `auto`") from None
    model = Llama(config, attend)
    initialise(model, plan.seed)
    model.to(ranks.device)
    sharding.apply(
        model,
        ranks,
        sharding=machine.sharding,
        bf16=bf16,
        activation_checkpointing=machine.activation_checkpointing,
        compile_blocks=ranks.device.type == "cuda" if machine.compile is None else machine.compile,
    )
    return model, config


def micro_batch(plan: StagePlan, stated: int | None, ranks: Ranks) -> int:
    """Sequences of one forward pass on this rank; PlanError, with those that fit, when the batch does not divide."""
    share = share_of_rank(plan.batch_sequences, ranks.size, stated)
    if stated is not None:
        return stated
    fitting = [n for n in range(1, share + 1) if share % n == 0]
    most = max(1, MICRO_BATCH_TOKENS[ranks.device.type] // plan.sequence_length)
    return max(n for n in fitting if n <= most)


def restore(
    plan: StagePlan, job: TrainJob, model: Llama, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> State:
    """Go on from the stage's newest checkpoint, else from its parent's, else from the drawn initial weights."""
    own = ranks.agree(checkpoints.latest(Path(job.stage_folder) / "checkpoints"))
    if own is not None:
        if ranks.first:
            checkpoints.verify(own.path)
        value = checkpoint.load(own.path, model, optimizer)
        if value["history"] != plan.history(own.position):
            raise PlanError(
                f"checkpoint `{own.name}` was trained by another plan than this stage's",
                hint="`curriculum run` shows what changed; put it back, or branch under a new name",
            )
        return _state(value, plan)
    if job.parent_checkpoint is not None:
        parent = Path(job.parent_checkpoint)
        if ranks.first:
            checkpoints.verify(parent)
        value = checkpoint.load(parent, model, None if plan.reset_optimizer else optimizer)
        assert plan.parent is not None
        if value["history"] != plan.parent.fingerprint:
            raise PlanError(
                f"checkpoint `{parent.name}` is not the history that this stage was planned to go on from",
                hint="`curriculum plan` compiles the lineage anew; branch under a new name if the trunk was changed",
            )
        return _state(value, plan)
    return State(step=plan.first_step, position=plan.start, windows=dict.fromkeys(plan.names, 0))


def losses(model: Llama, tokens: torch.Tensor) -> torch.Tensor:
    """Loss of every target of `tokens` `[n, sequence_length + 1]`, in nats, shape `[n, sequence_length]`."""
    return next_token_losses(model(tokens[:, :-1]), model.head.weight, tokens[:, 1:])


def forward_backward(
    model: Llama, batch: data.Batch, micro: int, plan: StagePlan, ranks: Ranks
) -> NDArray[np.float64]:
    """Accumulate the gradient of the mean loss over the global batch; returns loss sums per source over all ranks."""
    tokens = torch.from_numpy(batch.tokens).to(ranks.device, non_blocking=True)
    source = torch.from_numpy(batch.source.astype(np.int64))
    sums = torch.zeros(len(batch.names), dtype=torch.float64)
    for begin in range(0, len(tokens), micro):
        part = tokens[begin : begin + micro]
        with sharding.micro_batch(model, last=begin + micro >= len(tokens)):
            total, each = next_token_loss(model(part[:, :-1]), model.head.weight, part[:, 1:])
            torch.autograd.backward(total / plan.batch_tokens)
        sums.index_add_(0, source[begin : begin + micro], each.sum(dim=1).double().cpu())
    summed: NDArray[np.float64] = ranks.add(sums).numpy()
    return summed


def tokens_per_source(plan: StagePlan, step: int) -> NDArray[np.int64]:
    """How many of a step's tokens each source gives (shape `[sources]`), over all ranks."""
    return np.bincount(plan.draws(step).source, minlength=len(plan.names)) * plan.sequence_length


def count(state: State, batch: data.Batch, plan: StagePlan, finite: bool, ranks: Ranks) -> None:
    """Count what was truly read, for the ledger, and steps whose gradient was not finite."""
    read = torch.from_numpy(np.bincount(batch.source, minlength=len(batch.names)))
    for name, windows in zip(batch.names, ranks.add(read).tolist(), strict=True):
        state.windows[name] = state.windows.get(name, 0) + windows
    state.nonfinite_in_a_row = 0 if finite else state.nonfinite_in_a_row + 1
    state.nonfinite_steps += 0 if finite else 1


def due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` tokens lies in (before, now]."""
    return every > 0 and now // every > before // every


def retain(folder: Path, plan: StagePlan, job: TrainJob) -> None:
    """Keep the last `keep_last` checkpoints of the cadence, and every one that is kept for its own sake."""
    old = [c for c in checkpoints.found(folder) if c.position != plan.end and c.position not in job.keep]
    for doomed in old[: -job.keep_last or None]:
        checkpoints.discard(doomed)


def environment(job: TrainJob, ranks: Ranks, micro: int) -> dict[str, Any]:
    """Versions and hardware that the bits of this attempt depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "device": torch.cuda.get_device_name() if ranks.device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "ranks": ranks.size,
        "micro_batch": micro,
    }


def _save(
    folder: Path,
    plan: StagePlan,
    job: TrainJob,
    model: Llama,
    optimizer: torch.optim.Optimizer,
    state: State,
    ranks: Ranks,
) -> None:
    value: Mapping[str, Any] = {
        "generation": job.generation,
        "step": state.step,
        "position": state.position,
        "fingerprint": plan.fingerprint,
        "history": plan.history(state.position),
        "windows": dict(sorted(state.windows.items())),
        "nonfinite_steps": state.nonfinite_steps,
        "nonfinite_in_a_row": state.nonfinite_in_a_row,
        "ranks": ranks.size,
    }
    checkpoint.save(folder, model, optimizer, value, ranks)


def _state(value: Mapping[str, Any], plan: StagePlan) -> State:
    windows = {**dict.fromkeys(plan.names, 0), **value["windows"]}
    return State(
        step=value["step"],
        position=value["position"],
        windows=windows,
        nonfinite_steps=value["nonfinite_steps"],
        nonfinite_in_a_row=value["nonfinite_in_a_row"],
    )
