"""`mask_documents: true`, from the stage file to the weights: no token learns from another document than its own."""

from __future__ import annotations

import functools
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import commands
import numpy as np
import pytest
import ranks as steps
import torch
from hypothesis import given, settings, strategies as st
from numpy.typing import NDArray
from small import ALONE

from curriculum.errors import DataError, PlanError
from curriculum.plan.model import ModelConfig
from curriculum.plan.stage import StagePlan
from curriculum.stream import reader
from curriculum.stream.batch import Batch, document_bounds, document_end
from runner.model import attention
from runner.model.forward import hidden, losses
from runner.model.init import initialise
from runner.model.transformer import Transformer
from runner.parallel import fsdp
from runner.train.step import forward_backward

pytestmark = pytest.mark.promise(
    "Attention is masked at document boundaries from the stage file to the weights, also after SIGKILL"
)

END = 3
FULL = ("--size", "full")
Curriculum = Callable[..., "subprocess.CompletedProcess[str]"]


def masked_plan(batch: int = 8) -> StagePlan:
    return replace(steps.small_plan(batch=batch), mask_documents=True, tokenizer={"eos": END})


def rows(count: int, seed: int, length: int = steps.LENGTH) -> NDArray[np.int64]:
    """Text in which about every sixth token ends a document."""
    return np.random.default_rng(seed).integers(0, 6, size=(count, length + 1))


def batch_of(tokens: NDArray[np.int64]) -> Batch:
    source = np.zeros(len(tokens), np.int32)
    return Batch(0, 0.0, tokens, source, ("code", "prose"), document_bounds(tokens, END))


@pytest.fixture(scope="module")
def model() -> Transformer:
    plan = masked_plan()
    model = Transformer(ModelConfig.from_json(plan.model))
    initialise(model, plan.seed)
    return model


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 10_000))
def test_bounds_are_match_a_reference_oracle(count: int, length: int, seed: int) -> None:
    tokens = rows(count, seed, length)
    wanted = [0]
    for row in tokens.tolist():
        begin = wanted[-1]
        wanted += [begin + at + 1 for at in range(length - 1) if row[at] == END]
        wanted.append(begin + length)
    assert document_bounds(tokens, END).tolist() == wanted
    batch = batch_of(tokens)
    for begin in range(count):
        for end in range(begin + 1, count + 1):
            part = batch.cu_seqlens_of(begin, end)
            assert part is not None
            assert part.tolist() == document_bounds(tokens[begin:end], END).tolist()


def test_a_masked_batch_gives_each_document_the_states_that_it_has_on_its_own(model: Transformer) -> None:
    tokens = rows(6, 1)
    bounds = document_bounds(tokens, END)
    assert len(bounds) > 12
    with torch.no_grad():
        together = hidden(model, torch.from_numpy(tokens), bounds).flatten(0, 1)
        flat = torch.from_numpy(tokens[:, :-1]).flatten()
        for begin, end in itertools.pairwise(bounds.tolist()):
            alone = model(flat[None, begin:end])[0]
            torch.testing.assert_close(together[begin:end], alone, rtol=1e-5, atol=1e-6)
        unmasked = hidden(model, torch.from_numpy(tokens), None).flatten(0, 1)
    first = slice(*bounds[:2].tolist())
    torch.testing.assert_close(together[first], unmasked[first], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(together, unmasked, atol=1e-2)


@pytest.mark.parametrize("micro", [1, 2, 8])
def test_the_gradient_of_a_masked_step_is_that_of_its_documents_one_by_one(model: Transformer, micro: int) -> None:
    plan, tokens = masked_plan(), rows(8, 2)
    model.zero_grad()
    forward_backward(model, batch_of(tokens), micro, plan)
    found = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    inputs = torch.from_numpy(tokens[:, :-1].copy()).flatten()
    targets = torch.from_numpy(tokens[:, 1:].copy()).flatten()
    for begin, end in itertools.pairwise(document_bounds(tokens, END).tolist()):
        logits = model(inputs[None, begin:end])[0] @ model.head.weight.T
        loss = torch.nn.functional.cross_entropy(logits, targets[begin:end], reduction="sum")
        (loss / plan.batch_tokens).backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_held_out_losses_are_masked_as_the_training_is(model: Transformer) -> None:
    read = rows(4, 3)
    tokens = torch.from_numpy(read)
    with torch.no_grad():
        masked, plain = losses(model, read, END), losses(model, read)
        bounds = document_bounds(tokens.numpy(), END)
        states = hidden(model, tokens, bounds) @ model.head.weight.T
    wanted = torch.nn.functional.cross_entropy(states.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    torch.testing.assert_close(masked.flatten(), wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(masked, plain, atol=1e-3)


def text(eos: int | None) -> Any:
    manifest = SimpleNamespace(policy=SimpleNamespace(eos=eos))
    return SimpleNamespace(windows=50, manifest=manifest, digests=frozenset(), digest="d")


def test_a_stage_that_keeps_documents_apart_refuses_what_does_not_mark_their_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = masked_plan()
    with pytest.raises(PlanError, match="this tokenizer marks no document's end"):
        document_end(replace(plan, tokenizer={"eos": None}))
    folders = {"code": "code", "prose": "prose"}
    for mark in (None, END + 1):
        monkeypatch.setattr(reader.Dataset, "open", lambda folder, mark=mark, **_: text(mark))
        with pytest.raises(DataError, match=f"needs the end of every document marked by token {END}"):
            reader.open_sources(plan, folders)
        reader.open_sources(replace(plan, mask_documents=False), folders)
    monkeypatch.setattr(reader.Dataset, "open", lambda folder, **_: text(END))
    assert reader.open_sources(plan, folders).keys() == folders.keys()


def test_a_masked_stage_trains_to_other_weights_and_after_a_kill_to_the_same_ones(
    finished: Path, curriculum: Curriculum, tmp_path: Path
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for project in (one, two):
        shutil.copytree(finished, project)
        for name, more in (("masked", ", mask_documents: true"), ("plain", "")):
            (project / f"stages/{name}.yaml").write_text(
                f"from: trunk/basic\nstages:\n  - {{name: continual, until: 9216{more}}}\n"
            )
    for name in ("plain", "masked"):
        curriculum(one, "run", name, *FULL)
    ends = {name: ended(one, name) for name in ("plain", "masked")}
    assert ends["masked"]["position"] == ends["plain"]["position"]
    assert ends["masked"]["weights"] != ends["plain"]["weights"]

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (tmp_path / "printed").open("w") as out:
        streams = {"out": out.fileno(), "err": out.fileno()}
        process = commands.start("run", "masked", *FULL, folder=two, environment=environment, **streams)
    saved = two / "runs/full/masked/continual/checkpoints"
    deadline = time.monotonic() + 60
    while not list(saved.glob("g*")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait(60)
    curriculum(two, "run", "masked", *FULL)
    assert ended(two, "masked") == ends["masked"]


def ended(project: Path, name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((project / "runs/full" / name / "continual/DONE").read_bytes())
    return value


def varlen_model() -> Transformer:
    import varlen_on_cpu  # noqa: F401  # registers the kernels

    made = Transformer(ModelConfig.from_json(steps.small_plan().model), attention.varlen)
    initialise(made, 1)
    return made


@pytest.mark.promise("Documents of any number and length compile to one graph for training and one for evaluation")
@pytest.mark.parametrize("checkpointing", ["none", "selective"])
def test_documents_of_any_number_and_length_are_two_graphs(checkpointing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.testing import CompileCounterWithBackend

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compile_with = functools.partialmethod(torch.nn.Module.compile, backend=counter)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_with)
    compiled, eager = varlen_model(), varlen_model()
    fsdp.apply(
        compiled, ALONE, sharding="auto", bf16=False, activation_checkpointing=checkpointing, compile_blocks=True
    )
    rates = (0.0, 1.0, 0.5, 0.02, 0.3, 0.9, 0.1, 0.05, 0.7, 0.2)
    draw = np.random.default_rng(4)
    for rate in rates:
        shape = (2, steps.LENGTH + 1)
        read = np.where(draw.random(shape) < rate, END, draw.integers(4, 6, size=shape))
        bounds = document_bounds(read, END)
        found = []
        for model in (compiled, eager):
            model.zero_grad()
            hidden(model, torch.from_numpy(read), bounds).square().sum().backward()
            with torch.no_grad():
                found.append((losses(model, read, END), model.blocks[0].attention.out.weight.grad))
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)
    assert counter.frame_count <= 2


def test_selective_checkpointing_keeps_what_variable_length_attention_computed() -> None:
    import varlen_on_cpu

    counts = {}
    for how in ("none", "selective", "full"):
        model = varlen_model()
        fsdp.apply(model, ALONE, sharding="auto", bf16=False, activation_checkpointing=how, compile_blocks=False)
        varlen_on_cpu.calls = 0
        read = rows(2, 5)
        hidden(model, torch.from_numpy(read), document_bounds(read, END)).sum().backward()
        counts[how] = varlen_on_cpu.calls
    assert counts == {"none": len(model.blocks), "selective": len(model.blocks), "full": 2 * len(model.blocks)}


def test_a_kernel_that_reads_bounds_gets_no_numbers_of_documents(model: Transformer) -> None:
    asked: list[attention.Documents | None] = []

    def attend(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        documents: attention.Documents | None = None,
        window: int | None = None,
    ) -> torch.Tensor:
        asked.append(documents)
        return q

    read = rows(2, 6)
    with torch.no_grad():
        hidden(Transformer(model.config, attend), torch.from_numpy(read), document_bounds(read, END))
    assert asked[0] is not None
    assert asked[0].number_BT is None
    assert asked[0].bounds.tolist() == document_bounds(read, END).tolist()
