"""Our Llama against transformers' LlamaForCausalLM: the same numbers from the same weights."""

from __future__ import annotations

import itertools
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from small import CONFIG, NUMBERS, build
from transformers import LlamaConfig, LlamaForCausalLM

from curriculum.config.model_catalogue import CATALOGUE
from curriculum.plan.model import ModelConfig
from runner.checkpoint.huggingface import to_hugging_face
from runner.model import attention
from runner.model.init import initialise
from runner.model.loss import next_token_loss
from runner.model.transformer import Transformer
from runner.train.optimizer import adamw, set_learning_rate

TINYLLAMA = ModelConfig(
    hidden_size=2048,
    num_hidden_layers=22,
    num_attention_heads=32,
    num_key_value_heads=4,
    intermediate_size=5632,
    vocab_size=32000,
    max_position_embeddings=2048,
)
LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
KINDS = {
    "one key head": replace(CONFIG, num_key_value_heads=1),
    "two key heads": CONFIG,
    "as many key heads": replace(CONFIG, num_key_value_heads=4),
    "tied": replace(CONFIG, tie_word_embeddings=True),
    "other constants": replace(CONFIG, rms_norm_eps=1e-3, rope_theta=500.0),
    "Llama 3's positions": replace(CONFIG, rope_scaling=LLAMA_3),
    "wider heads": replace(CONFIG, head_dim=12),
}


def theirs(config: ModelConfig, ours: Transformer) -> LlamaForCausalLM:
    numbers = {key: value for key, value in asdict(config).items() if key in LlamaConfig().to_dict()}
    rope = {"rope_theta": config.rope_theta, **(config.rope_scaling or {"rope_type": "default"})}
    numbers |= {"rope_parameters": rope, "attention_bias": False, "attn_implementation": "sdpa"}
    model = LlamaForCausalLM(LlamaConfig(**numbers))
    state = dict(to_hugging_face(config, ours.state_dict().__getitem__))
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == (["lm_head.weight"] if config.tie_word_embeddings else [])
    assert unexpected == []
    model.tie_weights()
    return model


def lively(config: ModelConfig) -> Transformer:
    """A model whose norms are not all 1 and whose attention is not flat."""
    model = build(config)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.2)
    return model


def tokens(config: ModelConfig, length: int = 25) -> torch.Tensor:
    return torch.randint(config.vocab_size, (3, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.promise("Our Llama's logits, loss, gradients and one update equal those of transformers")
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_logits_are_those_of_transformers(config: ModelConfig) -> None:
    ours = lively(config)
    read = tokens(config, 24)
    with torch.no_grad():
        mine, other = ours.head.logits(ours(read)), theirs(config, ours)(read).logits
    assert other.std() > 0.5
    torch.testing.assert_close(mine, other, rtol=0, atol=1e-4)


@pytest.mark.promise("Our Llama's logits, loss, gradients and one update equal those of transformers")
@pytest.mark.parametrize("config", [CONFIG, KINDS["tied"]], ids=["untied", "tied"])
def test_loss_gradients_and_an_adamw_step_are_those_of_transformers(config: ModelConfig) -> None:
    ours = lively(config)
    other = theirs(config, ours)
    read = tokens(config)
    total, _ = next_token_loss(ours(read[:, :-1]), ours.head.weight, read[:, 1:])
    loss = total / read[:, 1:].numel()
    loss.backward()
    reference = other(input_ids=read, labels=read).loss
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)

    gradients = {name: p.grad for name, p in ours.named_parameters()}
    if config.tie_word_embeddings:
        gradients["head.weight"] = gradients["embedding.weight"]
    for name, gradient in to_hugging_face(config, gradients.__getitem__):
        expected = other.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")

    before = dict(to_hugging_face(config, ours.state_dict().__getitem__))
    mine = adamw(ours, NUMBERS)
    set_learning_rate(mine, 1e-3)
    mine.step()
    torch.optim.AdamW(other.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1).step()
    for name, tensor in to_hugging_face(config, ours.state_dict().__getitem__):
        gradient = other.get_parameter(name).grad
        # Adam's first step is the gradient's sign: where the gradient is rounding, so is the step
        clear = (gradient.abs() > 1e-5) | (gradient == 0)
        assert clear.float().mean() > 0.8
        step, expected = tensor - before[name], other.get_parameter(name) - before[name]
        torch.testing.assert_close(step[clear], expected[clear], rtol=0, atol=1e-5)


def test_tinyllama_has_1_100_048_384_parameters() -> None:
    assert TINYLLAMA.parameters == 1_100_048_384


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("tinyllama-1.1b", 1_100_048_384),
        ("smollm2-135m", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-20m", 21_109_248),
        ("llama-2-7b", 6_738_415_616),
    ],
)
def test_a_model_of_the_catalogue_has_as_many_parameters_as_transformers_makes_of_it(
    name: str, parameters: int
) -> None:
    assert set(CATALOGUE) >= {name}
    numbers = {**CATALOGUE[name], "max_position_embeddings": 2048}
    numbers["rms_norm_eps"] = float(numbers["rms_norm_eps"])
    config = ModelConfig.from_json(numbers)
    assert config.parameters == parameters
    rope = {"rope_theta": numbers.pop("rope_theta"), "rope_type": "default"} | numbers.pop("rope_scaling", {})
    with torch.device("meta"):
        other = LlamaForCausalLM(LlamaConfig(**numbers, rope_parameters=rope, attention_bias=False))
    assert sum(p.numel() for p in {id(p): p for p in other.parameters()}.values()) == parameters
    assert config.shapes().keys() == {name for name, _ in other.named_parameters()}


def test_every_model_of_the_catalogue_is_counted_above() -> None:
    assert len(CATALOGUE) == 7


def test_tied_weights_are_counted_once() -> None:
    smollm2_135m = ModelConfig(
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        vocab_size=49152,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    assert smollm2_135m.parameters == 134_515_008


@pytest.mark.promise("Initial weights are TinyLlama's, the same on every mesh")
def test_initial_weights_have_tinyllamas_spread() -> None:
    config = replace(CONFIG, hidden_size=256, head_dim=64, num_hidden_layers=3, intermediate_size=512, vocab_size=500)
    drawn = dict(to_hugging_face(config, build(config).state_dict().__getitem__))
    wide, narrow = math.sqrt(2 / (5 * 256)), 1 / (16 * 3)
    for name, tensor in drawn.items():
        if "norm" in name:
            assert torch.equal(tensor, torch.ones(256))
            continue
        expected = narrow if "o_proj" in name or "down_proj" in name else wide
        assert float(tensor.std()) == pytest.approx(expected, rel=0.02), name
        assert abs(float(tensor.mean())) < 5 * expected / math.sqrt(tensor.numel()), name
        assert float(tensor.abs().max()) > 3.5 * expected, f"{name} is normal, not cut off"
    matrices = [tensor for tensor in drawn.values() if tensor.dim() == 2]
    starts = {tuple((tensor / tensor.std()).flatten()[:4].tolist()) for tensor in matrices}
    assert len(starts) == len(matrices), "no two parameters are drawn alike"


@pytest.mark.promise("Initialisations are chosen by name: TinyLlama's, Llama's or OLMo's")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("init", ["llama", "olmo"])
def test_initial_weights_by_name_have_the_spread_of_their_source(init: str, tied: bool) -> None:
    config = replace(
        CONFIG,
        hidden_size=256,
        head_dim=64,
        num_hidden_layers=3,
        intermediate_size=512,
        vocab_size=500,
        init=init,
        tie_word_embeddings=tied,
        attention_bias="all",
        qk_norm="head",
    )
    drawn = dict(to_hugging_face(config, build(config).state_dict().__getitem__))
    for name, tensor in drawn.items():
        if name.endswith(("norm.weight", ".bias")):
            assert torch.equal(tensor, torch.full_like(tensor, "norm" in name)), name
            continue
        expected, cut = 0.02, init == "olmo"
        if init == "llama" and name.endswith(("o_proj.weight", "up_proj.weight", "down_proj.weight")):
            expected /= math.sqrt(2 * (int(name.split(".")[2]) + 1))
        if init == "llama" and ("embed" in name or "lm_head" in name):
            expected, cut = (1.0, False) if "embed" in name and not tied else (1 / 16, True)
        assert float(tensor.std()) == pytest.approx(expected, rel=0.03), name
        assert (float(tensor.abs().max()) <= 3 * expected) == cut, name


def test_another_seed_draws_other_weights_and_the_same_seed_the_same() -> None:
    one, again, other = (build(seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    assert not any(torch.equal(tensor, other[name]) for name, tensor in one.items() if "norm" not in name)


def test_a_parameter_is_drawn_by_its_own_name_whatever_else_the_model_holds() -> None:
    deeper = build(replace(CONFIG, num_hidden_layers=5, vocab_size=11)).state_dict()
    for name, tensor in build().state_dict().items():
        if name.startswith("blocks.1.") and "out" not in name and "down" not in name:
            assert torch.equal(tensor, deeper[name]), name


def test_weights_go_to_hugging_face_names_and_back_unchanged() -> None:
    state = lively(CONFIG).state_dict()
    theirs = dict(to_hugging_face(CONFIG, state.__getitem__))
    names = CONFIG.fused_tensors()
    back = {name: torch.cat([theirs[part] for part in parts]) for name, parts in names.items()}
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)
def test_the_table_of_tensors_names_every_parameter_with_its_shape(config: ModelConfig) -> None:
    shapes = {name: tuple(p.shape) for name, p in Transformer(config).named_parameters()}
    fused = {
        name: (sum(shape[0] for shape in tensors.values()), *next(iter(tensors.values()))[1:])
        for name, tensors in config.fused_tensors().items()
    }
    assert fused == shapes


def test_a_token_does_not_see_those_after_it() -> None:
    model = lively(CONFIG)
    read = tokens(CONFIG, 20)
    changed = read.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % CONFIG.vocab_size
    with torch.no_grad():
        one, other = model(read), model(changed)
    assert torch.equal(one[:, :12], other[:, :12])
    assert not torch.equal(one[:, 12], other[:, 12])


def test_with_documents_a_sequence_gives_what_its_documents_give_alone() -> None:
    model = lively(CONFIG)
    read = tokens(CONFIG, 20)
    laid_end_to_end = np.array([0, 7, 14, 20, 20 + 7, 40, 40 + 7, 60], np.int32)
    with torch.no_grad():
        together = model(read, attention.documents(laid_end_to_end, *read.shape))
        for row, bounds in enumerate(((0, 7, 14, 20), (0, 7, 20), (0, 7, 20))):
            for begin, end in itertools.pairwise(bounds):
                alone = model(read[row : row + 1, begin:end])[0]
                torch.testing.assert_close(together[row, begin:end], alone, rtol=0, atol=2e-5)


def test_a_sequence_longer_than_the_positions_is_refused() -> None:
    with pytest.raises(ValueError, match="25 tokens is longer than the model's 24 positions"):
        build()(tokens(CONFIG, 25))


def test_unknown_ways_to_scale_positions_are_refused() -> None:
    model = build(replace(CONFIG, rope_scaling={"rope_type": "dynamic", "factor": 4.0}))
    with pytest.raises(ValueError, match="rotary positions are scaled by linear, llama3, yarn, not"):
        model(tokens(CONFIG, 4))


def test_initialising_a_model_again_undoes_training() -> None:
    model = lively(CONFIG)
    initialise(model, 1)
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), build().parameters(), strict=True))
