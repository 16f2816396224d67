"""Trains one stage: build, go on from what is there, loop, save. READ THIS FIRST.

The loop does not know the words stage, mixture or curriculum: it asks the plan what a step reads and at which
learning rate, and the clock when to evaluate and to save. Resuming is starting at another step.
"""

from __future__ import annotations

import math
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
from runner import (
    anomalies,
    attention,
    checkpoint,
    data,
    determinism,
    evaluate,
    exactness,
    hanging,
    hardware,
    optim,
    replicas,
    sharding,
    surroundings,
    trackers,
)
from runner.distributed import Ranks
from runner.grace import Grace
from runner.loss import next_token_loss, next_token_losses
from runner.metrics import Metrics, Stopwatch
from runner.model import Llama, ModelConfig, initialise
from runner.preemption import StopFlag
from runner.profiling import Profiler

NONFINITE_AT_MOST = (
    8  # steps in a row without a finite gradient before the run ends at its last good checkpoint
)
MICRO_BATCH_TOKENS = {"cpu": 4096, "cuda": 32768}  # of one forward pass, when the machine file states none


@dataclass(slots=True)
class State:
    """Where the run stands: all that a checkpoint holds beside tensors. `windows` are counted since the root.

    `saved_at` is the position of this stage's newest checkpoint, published or being written.
    """

    step: int
    position: int
    windows: dict[str, int] = field(default_factory=dict)
    nonfinite_steps: int = 0
    nonfinite_in_a_row: int = 0
    saved_at: int | None = None


def train(job: TrainJob, ranks: Ranks, stop: StopFlag) -> dict[str, Any]:
    """Bring the stage to its end, or to the next step boundary once asked to stop; returns the outcome."""
    with hanging.Watchdog(Path(job.attempt_folder), ranks.rank, job.machine.hang_limit) as dog:
        return _train(job, ranks, stop, dog)


def _train(job: TrainJob, ranks: Ranks, stop: StopFlag, dog: hanging.Watchdog) -> dict[str, Any]:
    plan = StagePlan.load(Path(job.plan))
    folder = Path(job.stage_folder)
    trackers.check(job.machine.trackers)
    determinism.apply(job.machine, ranks)
    micro = micro_batch(plan, job.machine.micro_batch, ranks)
    groups = exactness.groups_of(plan, micro, ranks) if job.machine.exactness == "canonical" else None
    model, config = build(plan, job.machine, ranks)
    optimizer = optim.adamw(model, plan.optimizer)
    sources = data.open_sources(plan, job.data)
    mark = data.document_mark(plan)
    held_out = evaluate.HeldOutSets(
        job.held_out,
        sequence_length=plan.sequence_length,
        vocab_size=config.vocab_size,
        tokenizer_digest=plan.tokenizer.get("digest"),
    )
    state = restore(plan, job, model, optimizer, ranks)
    told = surroundings.compare(job, ranks, begun=state.saved_at is not None)
    watch = Stopwatch(ranks.device)
    saver = checkpoint.Saver(ranks)
    grace = Grace(job, ranks)
    profiler = Profiler(job.machine.profile, Path(job.attempt_folder), ranks)
    usual = anomalies.Losses(
        ranks.agree(
            anomalies.losses_before(folder / "metrics.jsonl", state.position) if ranks.first else None
        )
    )
    metrics = None
    if ranks.first:
        checkpoints.sweep(folder / "checkpoints")
        ledger.cut_back(folder / ledger.LEDGER, state.position)
        evaluate.cut_back(folder / "evaluations", job.generation, state.position)
        tracked = trackers.start(
            job.machine.trackers,
            folder=folder,
            lineage=job.lineage,
            resumed_at=state.position,
            config={"fingerprint": plan.fingerprint, **plan.labels},
        )
        anomalies.cut_back(folder, state.position)
        if state.saved_at is not None:  # a kill may have come between a checkpoint and its line
            ledger.append(folder, _entry(plan, job, state))
        peak = hardware.peak_flops(job.machine, ranks)
        cost = hardware.flops_per_token(config, plan.sequence_length)
        metrics = Metrics(
            folder / "metrics.jsonl",
            plan,
            generation=job.generation,
            resumed_at=state.position,
            trackers=tracked,
            device=ranks.device,
            mfu_of_one=cost / (peak * ranks.size) if peak else None,
        )
        told |= {"micro_batch": micro, "groups": groups, "flops_per_token": cost, "peak_flops": peak}
        surroundings.write(Path(job.attempt_folder), told | {"flops_convention": hardware.CONVENTION})

    end = job.stop_at if job.stop_at is not None else plan.end
    size = (
        sum(parameter.numel() for parameter in model.parameters()) * 3 * 4
    )  # weights and both moments, fp32

    def measure() -> None:
        known = evaluate.read(folder / "evaluations", job.generation, state.position)
        wanted = [name for name in held_out.sets if name not in known]
        wanted = ranks.agree(wanted)
        if metrics:
            metrics.trackers.evaluated(state.position, known, new=False)
        if not wanted:
            return

        def summed(tokens: torch.Tensor) -> torch.Tensor:
            dog.begins()
            return losses(model, tokens, mark).sum(dim=1)

        model.eval()
        with torch.no_grad():
            results = held_out.measure(
                summed,
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
        if state.saved_at == state.position:
            return
        dog.saves()
        ledger.check(plan, state.position, state.windows)
        replicas.check(model, optimizer, ranks, state.step)
        entry = _entry(plan, job, state)

        def sealed() -> None:
            # before it appears: a line without its checkpoint is cut away when the run goes on, whereas nobody
            # goes on from the last checkpoint of all to add a line that is missing
            ledger.append(folder, entry)

        def published() -> None:
            retain(folder / "checkpoints", plan, job)
            if entry.position < end:
                checkpoints.check_room(folder, size)

            grace.saved(time.monotonic() - begun)

        begun = time.monotonic()
        with watch.measure("checkpoint"):
            path = folder / "checkpoints" / entry.checkpoint
            saver.begin(path, model, optimizer, _value(plan, job, state, ranks), published, sealed)
        state.saved_at = state.position

    def report(kind: str, step: int, slot_losses: NDArray[np.float64], norm: float, **more: Any) -> None:
        whole = np.empty(plan.batch_sequences)
        for rank, part in enumerate(ranks.gather(slot_losses.tolist())):
            whole[data.slots_of(len(whole), rank, ranks.size, groups)] = part
        if ranks.first:
            event = anomalies.event(
                plan,
                sources,
                step,
                whole / plan.sequence_length,
                kind=kind,
                generation=job.generation,
                grad_norm=norm,
                **more,
            )
            anomalies.record(folder, event)

    measure()
    model.train()
    last_step = plan.step_at(end)
    if state.step < last_step:
        checkpoints.check_room(
            folder, size, ranks.agree(checkpoints.free_bytes(folder) if ranks.first else None)
        )
    batches = data.batches(
        plan,
        sources,
        first_step=state.step,
        last_step=last_step,
        rank=ranks.rank,
        ranks=ranks.size,
        groups=groups,
    )
    while state.step < last_step:
        dog.begins()
        saver.check()
        # a branch that was made while this runs may ask for a checkpoint here
        wanted = ranks.first and state.position in checkpoints.pinned(folder)
        with watch.measure("communication"):
            wanted = ranks.any(bool(stop) or wanted)
        if wanted:
            leaving = ranks.any(bool(stop))
            lacking = grace.lacks(stop) if leaving and state.saved_at != state.position else None
            if lacking is None:
                save()
            if leaving:
                profiler.end()
                saver.wait()
                ranks.wait()
                return {
                    "outcome": STOPPED,
                    "position": state.position,
                    "step": state.step,
                    **({"unsaved": lacking} if lacking else {}),
                }
        grace.step_begins()
        profiler.before(state.step)
        with watch.measure("data"):
            batch = next(batches)
        with watch.measure("forward_backward"):
            slot_losses = forward_backward(model, batch, micro, plan, groups)
        with watch.measure("optimizer"):
            norm = optim.clip(
                model, plan.optimizer["clip_norm"], exactness.gradient_norm(model, ranks) if groups else None
            )
            finite = math.isfinite(norm)
            if finite:
                optim.set_learning_rate(optimizer, plan.lr(state.step))
                optimizer.step()
            optimizer.zero_grad()
        with watch.measure("communication"):
            sums, windows = count(state, batch, slot_losses, finite, ranks)
        loss = float(sums.sum()) / plan.batch_tokens
        if metrics:
            metrics.step(
                state.step,
                loss=loss,
                grad_norm=norm,
                skipped=not finite,
                source_loss=sums,
                source_tokens=windows * plan.sequence_length,
                seconds=watch.read(),
            )
        spike = usual.take(loss)
        if spike or not finite:
            kind = "spike" if spike else "gradient not finite"
            report(kind, state.step, slot_losses, norm, spike=spike)
        profiler.after(state.step)
        grace.step_ended()
        before, state.position = state.position, plan.position_after(state.step)
        state.step += 1
        if state.nonfinite_in_a_row >= NONFINITE_AT_MOST:
            saver.wait()
            raise RunFailed(
                f"the gradient was not finite in {state.nonfinite_in_a_row} steps in a row, "
                f"up to step {state.step - 1:,}",
                hint=f"the last good checkpoint is kept; {folder / anomalies.EVENTS} names what was read",
            )
        if state.step % replicas.EVERY == 0:
            replicas.check(model, optimizer, ranks, state.step)
        if state.position == end or due(before, state.position, job.evaluate_every):
            measure()
        if (
            state.position == end
            or state.position in job.keep
            or due(before, state.position, job.checkpoint_every)
        ):
            save()
    batches.close()
    profiler.end()
    dog.saves()
    saver.wait()
    if ranks.first and end == plan.end and not (folder / "DONE").exists():
        retain(folder / "checkpoints", plan, job)  # a kill may have come before it
        name = checkpoints.name(job.generation, end)
        digest = checkpoints.tensors_digest(folder / "checkpoints" / name)
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
        masked=plan.mask_documents,
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
        canonical=machine.exactness == "canonical",
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
        return _state(value, plan, saved_at=own.position)
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


def losses(model: Llama, tokens: torch.Tensor, mark: int | None = None) -> torch.Tensor:
    """Loss of every target of `tokens` `[n, sequence_length + 1]`, in nats, shape `[n, sequence_length]`.

    With a `mark`, which ends a document, no token sees another document than its own.
    """
    bounds = None if mark is None else data.document_bounds(tokens.cpu().numpy(), mark)
    return next_token_losses(hidden(model, tokens, bounds), model.head.weight, tokens[:, 1:])


def hidden(model: Llama, tokens: torch.Tensor, bounds: NDArray[np.int32] | None) -> torch.Tensor:
    """The hidden states at the inputs of `tokens`, each document by itself where `bounds` tells them apart."""
    inputs = tokens[:, :-1]
    if bounds is None:
        return model(inputs)  # type: ignore[no-any-return]
    documents = attention.documents(bounds, *inputs.shape)
    return model(inputs, documents.to(inputs.device))  # type: ignore[no-any-return]


def forward_backward(
    model: Llama, batch: data.Batch, micro: int, plan: StagePlan, groups: int | None = None
) -> NDArray[np.float64]:
    """Accumulate the gradient of the mean loss over the global batch; returns this rank's slots' summed losses.

    With `groups`, this rank's share of them is added up in pairs (exactness.py).
    """
    tokens = torch.from_numpy(batch.tokens).to(model.embedding.weight.device, non_blocking=True)
    group = plan.batch_sequences // groups if groups else len(tokens)
    in_pairs = exactness.GroupSums(model) if groups else None
    losses = []
    for begin in range(0, len(tokens), micro):
        part, end = tokens[begin : begin + micro], begin + micro
        with sharding.micro_batch(model, last=end >= len(tokens), exchange=end % group == 0):
            states = hidden(model, part, batch.bounds_of(begin, begin + len(part)))
            total, each = next_token_loss(states, model.head.weight, part[:, 1:])
            torch.autograd.backward(total / plan.batch_tokens)
        losses.append(each.sum(dim=1))
        if in_pairs and end % group == 0:
            in_pairs.take()
    if in_pairs:
        in_pairs.give()
    slot_losses: NDArray[np.float64] = torch.cat(losses).double().cpu().numpy()
    return slot_losses


def count(
    state: State, batch: data.Batch, slot_losses: NDArray[np.float64], finite: bool, ranks: Ranks
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Count what was truly read, for the ledger, and steps whose gradient was not finite.

    Returns, by source and over all ranks, the sum of the losses and the number of windows, shape `[sources]` each.
    """
    sources = len(batch.names)
    both = np.stack(
        (
            np.bincount(batch.source, weights=slot_losses, minlength=sources),
            np.bincount(batch.source, minlength=sources),
        )
    )
    sums, windows = ranks.add(torch.from_numpy(both)).numpy()
    for name, read in zip(batch.names, windows.tolist(), strict=True):
        state.windows[name] = state.windows.get(name, 0) + int(read)
    state.nonfinite_in_a_row = 0 if finite else state.nonfinite_in_a_row + 1
    state.nonfinite_steps += 0 if finite else 1
    return sums, windows.astype(np.int64)


def due(before: int, now: int, every: int) -> bool:
    """Whether a multiple of `every` tokens lies in (before, now]."""
    return every > 0 and now // every > before // every


def retain(folder: Path, plan: StagePlan, job: TrainJob) -> None:
    """Keep the last `keep_last` checkpoints of the cadence, and every one that is kept for its own sake."""
    old = [c for c in checkpoints.found(folder) if c.position != plan.end and c.position not in job.keep]
    for doomed in old[: -job.keep_last or None]:
        checkpoints.discard(doomed)


def _entry(plan: StagePlan, job: TrainJob, state: State) -> ledger.Entry:
    return ledger.Entry(
        generation=job.generation,
        position=state.position,
        step=state.step,
        checkpoint=checkpoints.name(job.generation, state.position),
        fingerprint=plan.fingerprint,
        windows={name: count for name, count in sorted(state.windows.items()) if count},
    )


def _value(plan: StagePlan, job: TrainJob, state: State, ranks: Ranks) -> dict[str, Any]:
    """What a checkpoint says beside its tensors."""
    return {
        "generation": job.generation,
        "step": state.step,
        "position": state.position,
        "fingerprint": plan.fingerprint,
        "history": plan.history(state.position),
        "tokenizer": plan.tokenizer.get("digest"),
        "windows": dict(sorted(state.windows.items())),
        "nonfinite_steps": state.nonfinite_steps,
        "nonfinite_in_a_row": state.nonfinite_in_a_row,
        "ranks": ranks.size,
    }


def _state(value: Mapping[str, Any], plan: StagePlan, saved_at: int | None = None) -> State:
    windows = {**dict.fromkeys(plan.names, 0), **value["windows"]}
    return State(
        step=value["step"],
        position=value["position"],
        windows=windows,
        nonfinite_steps=value["nonfinite_steps"],
        nonfinite_in_a_row=value["nonfinite_in_a_row"],
        saved_at=saved_at,
    )
