"""The formula for a device's peak memory gives what the product's own model, traced on fake tensors, keeps."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from typing import Any

import pytest

from curriculum.plan import memory
from curriculum.plan.model import ModelConfig
from runner.model import loss

LLAMA = {"num_key_value_heads": 32, "num_attention_heads": 32, "max_position_embeddings": 4096}
TINYLLAMA = ModelConfig(
    **LLAMA | {"num_key_value_heads": 4},
    hidden_size=2048,
    num_hidden_layers=22,
    intermediate_size=5632,
    vocab_size=32000,
)
SMOLLM2 = ModelConfig(
    **LLAMA, hidden_size=2048, num_hidden_layers=24, intermediate_size=8192, vocab_size=49152, tie_word_embeddings=True
)
SMOLLM3 = ModelConfig(
    num_attention_heads=16,
    num_key_value_heads=4,
    max_position_embeddings=4096,
    hidden_size=2048,
    num_hidden_layers=36,
    intermediate_size=11008,
    vocab_size=128256,
    tie_word_embeddings=True,
)
QWEN3 = {"hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "num_key_value_heads": 8}
QWEN3 |= {"intermediate_size": 6144, "vocab_size": 151936, "max_position_embeddings": 4096, "head_dim": 128}
FAMILIES = {
    "Qwen3": ModelConfig(**QWEN3, qk_norm="head", tie_word_embeddings=True),
    "Qwen2": ModelConfig(**QWEN3, attention_bias="qkv"),
    "OLMo 2": ModelConfig(**(QWEN3 | {"num_key_value_heads": 16}), qk_norm="all", norm="after"),
}
LLAMA_2 = ModelConfig(**LLAMA, hidden_size=4096, num_hidden_layers=32, intermediate_size=11008, vocab_size=32000)


def shape(sequence_length: int, micro_batch: int, micro_batches: int, shards: int, **options: Any) -> memory.Step:
    return memory.Step(
        sequence_length=sequence_length, micro_batch=micro_batch, micro_batches=micro_batches, shards=shards, **options
    )


@functools.cache
def traced(
    config: ModelConfig, step: memory.Step, ranks: int, *layers: int, masked: bool = False, z_loss: float = 0.0
) -> list[dict[str, int]]:
    """The peak of each phase with so many layers, for each number of them."""
    from memory_trace import trace  # with the compiler, which takes a second to import

    found = trace(
        config,
        layers=layers,
        sequence_length=step.sequence_length,
        micro_batch=step.micro_batch,
        micro_batches=step.micro_batches,
        ranks=ranks,
        shards=step.shards,
        checkpointing=step.checkpointing,
        reshard=step.reshard,
        exchange=step.exchange,
        masked=masked,
        z_loss=z_loss,
    )
    return [{phase: peak.bytes for phase, peak in peaks.items()} for peaks in found]


def extrapolated(config: ModelConfig, step: memory.Step, ranks: int) -> int:
    """The peak with all layers, which add equally much each."""
    few, more = (4, 5) if step.reshard else (2, 3)
    less, most = traced(config, step, ranks, few, more)
    return max(
        less[phase] + (most[phase] - less[phase]) * (config.num_hidden_layers - few) // (more - few) for phase in less
    )


@pytest.mark.promise("The peak memory that a plan shows is within 5% of that of the runner's own model")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "ranks", "step"),
    [
        pytest.param(TINYLLAMA, 64, shape(2048, 7, 2, 4), id="1.1B on 16 nodes of 4"),
        pytest.param(TINYLLAMA, 1, shape(2048, 16, 1, 1), id="1.1B on 1"),
        pytest.param(TINYLLAMA, 8, shape(2048, 16, 2, 8, checkpointing="selective"), id="1.1B on 8, selective"),
        pytest.param(TINYLLAMA, 64, shape(2048, 14, 1, 4, checkpointing="full"), id="1.1B on 64, full"),
        pytest.param(TINYLLAMA, 64, shape(256, 1, 2, 64), id="1.1B on 64, few tokens"),
        pytest.param(SMOLLM2, 8, shape(2048, 16, 2, 8), id="1.7B on 8"),
        pytest.param(SMOLLM3, 8, shape(4096, 8, 2, 8), id="3B on 8"),
        pytest.param(SMOLLM3, 8, shape(4096, 4, 2, 8, checkpointing="selective"), id="3B on 8, selective"),
        pytest.param(LLAMA_2, 4, shape(4096, 1, 2, 4, checkpointing="selective"), id="7B on 4, selective"),
        pytest.param(LLAMA_2, 1, shape(256, 1, 1, 1), id="7B on 1, few tokens"),
        pytest.param(LLAMA_2, 8, shape(2048, 16, 2, 8, checkpointing="full"), id="7B on 8, full"),
        pytest.param(LLAMA_2, 8, shape(4096, 1, 2, 8, exchange=True), id="7B on 8, exchanged"),
        pytest.param(LLAMA_2, 8, shape(4096, 1, 2, 8, reshard=True, exchange=True), id="7B on 8, both"),
        pytest.param(TINYLLAMA, 64, shape(2048, 7, 2, 4, reshard=True), id="1.1B on 16 nodes of 4, resharded"),
        pytest.param(LLAMA_2, 8, shape(2048, 1, 2, 4, checkpointing="full", exchange=True), id="7B on 2 nodes of 4"),
        pytest.param(LLAMA_2, 8, shape(2048, 1, 3, 4, checkpointing="full", exchange=True), id="7B, 3 micro-batches"),
        pytest.param(FAMILIES["Qwen3"], 8, shape(4096, 4, 2, 8), id="Qwen3"),
        pytest.param(FAMILIES["Qwen2"], 8, shape(4096, 4, 2, 8, checkpointing="selective"), id="Qwen2, selective"),
        pytest.param(FAMILIES["OLMo 2"], 8, shape(4096, 4, 2, 8, checkpointing="selective"), id="OLMo 2, selective"),
    ],
)
def test_the_peak_is_that_of_the_runners_own_model(config: ModelConfig, ranks: int, step: memory.Step) -> None:
    planned = memory.peak(config, replace(step, replicas=ranks // step.shards))
    assert sum(planned.values()) == pytest.approx(extrapolated(config, step, ranks), rel=0.02)


@pytest.mark.slow
def test_llama_2_7b_trains_on_four_gpus_of_40_gb() -> None:
    step = shape(2048, 1, 2, 4, checkpointing="selective", reshard=True, exchange=True)
    planned, measured = sum(memory.peak(LLAMA_2, step).values()), extrapolated(LLAMA_2, step, 4)
    assert planned == pytest.approx(measured, rel=0.02)
    assert max(planned, measured) <= 34 * 2**30


@pytest.mark.slow
def test_all_layers_on_64_ranks_are_traced_in_a_minute_and_have_the_extrapolated_peak() -> None:
    step = shape(2048, 7, 2, 4)
    start = time.monotonic()  # nothing else traces as many layers
    whole = max(traced(TINYLLAMA, step, 64, TINYLLAMA.num_hidden_layers)[0].values())
    assert time.monotonic() - start < 60
    assert whole == pytest.approx(extrapolated(TINYLLAMA, step, 64), rel=1e-3)
    assert whole == pytest.approx(31.3e9, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["none", "selective"])
def test_keeping_documents_apart_takes_no_more(checkpointing: str) -> None:
    step = shape(2048, 7, 2, 4, checkpointing=checkpointing)
    apart, whole = (max(traced(TINYLLAMA, step, 64, 2, **more)[0].values()) for more in ({"masked": True}, {}))
    assert apart == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
def test_a_z_loss_takes_no_more() -> None:
    step = shape(2048, 7, 2, 4)
    with_it, without = (max(traced(TINYLLAMA, step, 64, 2, **more)[0].values()) for more in ({"z_loss": 1e-5}, {}))
    assert with_it == pytest.approx(without, rel=1e-3)


@pytest.mark.promise("The peak memory that a plan shows is within 5% of that of the runner's own model")
@pytest.mark.parametrize("config", [TINYLLAMA, SMOLLM3, FAMILIES["Qwen2"]], ids=["1.1B", "3B", "Qwen2"])
def test_what_a_step_of_muon_takes_for_a_moment_is_counted(config: ModelConfig) -> None:
    from memory_trace import update_of_muon

    config = replace(config, num_hidden_layers=1, vocab_size=256)  # so little beside it that the update is the peak
    needed = memory.peak(config, shape(16, 1, 1, 1), {"name": "muon"})
    assert needed["update"] == pytest.approx(update_of_muon(config), rel=0.01)
    assert "update" not in memory.peak(config, shape(16, 1, 1, 1))


def test_the_formula_knows_the_chunks_of_the_loss() -> None:
    assert (loss.CHUNK_BYTES["cuda"], loss.COMPILED_ROWS) == (memory.LOGIT_BYTES, memory.LOGIT_ROWS)
