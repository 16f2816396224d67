"""Every family that is read against its class of transformers: the same numbers from the same directory."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import family_models
import llamas
import pytest
import torch
import transformers
from safetensors.torch import load_file
from small import NUMBERS
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from curriculum.artifacts import huggingface
from curriculum.artifacts.huggingface import keys
from curriculum.errors import DataError
from curriculum.plan.model import ModelConfig
from runner.checkpoint.huggingface import to_hugging_face
from runner.model.loss import next_token_loss
from runner.model.rotary import frequencies
from runner.model.transformer import Transformer
from runner.train.optimizer import adamw, set_learning_rate

ONE_EACH = ("Llama with biases", "Mistral, windows", "Granite", "Qwen2", "Qwen3", "SmolLM3", "OLMo 2", "OLMo 3")


class Directories(dict[str, Path]):
    """A directory of each kind, as transformers saves it, made when it is first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, kind: str) -> Path:
        self[kind] = llamas.save(self.root / kind, family_models.model(kind))
        return self[kind]


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> Directories:
    return Directories(tmp_path_factory.mktemp("families"))


def load(model: Transformer, stored: dict[str, torch.Tensor]) -> Transformer:
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for ours, theirs in model.config.fused_tensors().items():
            parameters[ours].copy_(torch.cat([stored[name] for name in theirs]))
    return model


def ours(folder: Path) -> Transformer:
    model = Transformer(ModelConfig.from_json(huggingface.read(folder).model))
    return load(model, load_file(folder / "model.safetensors"))


def logits(model: Transformer) -> torch.Tensor:
    with torch.no_grad():
        return model.head.logits(model(llamas.tokens()))


@pytest.mark.promise("Each family's logits, loss, gradients and one update equal those of its class of transformers")
@pytest.mark.parametrize("kind", family_models.KINDS)
def test_logits_are_those_of_the_family_s_class(kind: str, directories: Directories) -> None:
    expected = llamas.logits(AutoModelForCausalLM.from_pretrained(directories[kind]))
    assert expected.std() > 0.5
    torch.testing.assert_close(logits(ours(directories[kind])), expected, rtol=0, atol=1e-4)


@pytest.mark.promise("Each family's logits, loss, gradients and one update equal those of its class of transformers")
@pytest.mark.parametrize("kind", ONE_EACH)
def test_loss_gradients_and_an_adamw_step_are_those_of_the_family_s_class(kind: str, directories: Directories) -> None:
    mine, other = ours(directories[kind]), AutoModelForCausalLM.from_pretrained(directories[kind])
    read = llamas.tokens()
    total, _ = next_token_loss(mine(read[:, :-1]), mine.head.weight, read[:, 1:])
    loss = total / read[:, 1:].numel()
    loss.backward()
    reference = other(input_ids=read, labels=read).loss
    reference.backward()
    assert loss.item() == pytest.approx(reference.item(), rel=1e-6)

    gradients = {name: p.grad for name, p in mine.named_parameters()}
    for name, gradient in to_hugging_face(mine.config, gradients.__getitem__):
        expected = other.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}")

    before = dict(to_hugging_face(mine.config, mine.state_dict().__getitem__))
    optimizer = adamw(mine, NUMBERS)
    set_learning_rate(optimizer, 1e-3)
    optimizer.step()
    torch.optim.AdamW(other.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1).step()
    for name, tensor in to_hugging_face(mine.config, mine.state_dict().__getitem__):
        gradient = other.get_parameter(name).grad
        clear = (gradient.abs() > 1e-5) | (gradient == 0)  # else the first step's sign is rounding's
        step, expected = tensor - before[name], other.get_parameter(name) - before[name]
        torch.testing.assert_close(step[clear], expected[clear], rtol=0, atol=1e-5)


@pytest.mark.promise("A model of one's own is exported to the plainest class of transformers that computes it")
@pytest.mark.parametrize("kind", family_models.KINDS)
def test_the_configuration_that_we_write_means_the_same_model(
    kind: str, directories: Directories, tmp_path: Path
) -> None:
    directory = huggingface.read(directories[kind])
    written = huggingface.config_of(directory.model, dtype="float32", eos=0, bos=None)
    family = family_models.KINDS[kind][0]
    assert written["model_type"] == ("llama" if kind == "Mistral" else family)
    model = load_theirs(written, load_file(directories[kind] / "model.safetensors"), tmp_path)
    torch.testing.assert_close(logits(ours(directories[kind])), llamas.logits(model), rtol=0, atol=1e-4)
    assert huggingface.families.model_of(tmp_path, written) == directory.model, "and is read as it was written"


def load_theirs(config: dict[str, Any], stored: dict[str, torch.Tensor], folder: Path) -> Any:
    (folder / "config.json").write_text(json.dumps(config))
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    missing, unexpected = model.load_state_dict(stored, strict=False)
    assert set(missing) <= {"lm_head.weight"}
    assert not unexpected
    model.tie_weights()
    return model.eval()


# --- every key of a configuration ------------------------------------------------------------------------

OTHERS: dict[str, tuple[Any, ...]] = {
    "layer_types": (["full_attention"] * 4, ["sliding_attention"] * 4, ["full_attention"]),
    "no_rope_layers": ([1, 1, 1, 1], [0, 0, 0, 0, 1], [1]),
    "hidden_act": ("gelu",),
    "model_type": ("llama", "qwen3", "gemma"),
    "rope_scaling": (family_models.YARN, {"type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0}),
    "rope_parameters": (
        family_models.YARN,
        family_models.LINEAR,
        {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5},
        {**family_models.YARN, "truncate": False},
        {**family_models.YARN, "beta_fast": 8.0, "attention_factor": 2.0},
        {**family_models.YARN, "mscale": 2.0, "mscale_all_dim": 1.0},
        {"full_attention": family_models.YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}},
        {"full_attention": family_models.YARN, "sliding_attention": family_models.YARN},
        {"full_attention": {**family_models.YARN, "truncate": False}},
        {"full_attention": {"rope_type": "default", "rope_theta": 300.0}},
    ),
    "attention_dropout": (),  # in training alone
    "embedding_multiplier": (2.0,),
    "logits_scaling": (2.0,),
    "residual_multiplier": (0.5,),
    "attention_multiplier": (0.5,),
    "original_max_position_embeddings": (16,),
    "rope_theta": (300.0,),
    "partial_rotary_factor": (0.5,),
    "no_rope_layer_interval": (2,),
    "use_sliding_window": (True,),
    "sliding_window": (5,),
    "max_window_layers": (1,),
    "head_dim": (16,),
    "attention_bias": (True,),
    "mlp_bias": (True,),
    "pretraining_tp": (2,),
    "num_key_value_heads": (1,),
    "default_theta": (300.0,),
    "tie_last_hidden_states": (True,),
    "fusion_config": ({"patch": 1},),
    "transformers_weights": ("other.safetensors",),
    "text_config": ({"hidden_size": 16},),
    "decoder": ({"hidden_size": 16},),
    "is_causal": (False, True),
}
"""Values by which a key is changed, besides those of `_other`, in every family."""


def _other(value: Any) -> Iterator[Any]:
    """Further values of the kind of `value`."""
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, max(1, value // 2))
    elif isinstance(value, float):
        yield value * 1.5 if value else 0.5
    elif value is None:
        yield 5
    if value is not None:
        yield None


def changes(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for key in sorted(config.keys() | OTHERS):
        values = [] if key in ("attention_dropout", "transformers_version") else [*OTHERS.get(key, ())]
        values += [value for value in _other(config.get(key)) if key in config and key != "attention_dropout"]
        for value in values:
            yield f"{key}: {value}", {**config, key: value}
        if key in config:
            yield f"no {key}", {name: kept for name, kept in config.items() if name != key}


@pytest.mark.promise("Whatever key of a configuration is changed, the logits follow it or the directory is refused")
@pytest.mark.parametrize("kind", ["Llama 3", *ONE_EACH[1:], "OLMo 3, YaRN", "SmolLM3, windows"])
def test_whatever_key_is_changed_the_logits_follow_or_the_directory_is_refused(
    kind: str, directories: Directories, tmp_path: Path
) -> None:
    stored = load_file(directories[kind] / "model.safetensors")
    config = json.loads((directories[kind] / "config.json").read_text())
    config = {**AutoConfig.from_pretrained(directories[kind]).to_dict(), **config}
    original = logits(ours(directories[kind]))
    followed = refused = 0
    for change, changed in changes(config):
        try:
            numbers = huggingface.families.model_of(tmp_path, json.loads(json.dumps(changed)))
            mine = ModelConfig.from_json(numbers)
            if mine.shapes() != {name: tuple(tensor.shape) for name, tensor in stored.items()}:
                refused += 1
                continue
        except DataError:
            refused += 1
            continue
        try:
            theirs = llamas.logits(load_theirs(changed, stored, tmp_path))
        except Exception:  # what its own class refuses
            continue
        found = logits(load(Transformer(mine), stored))
        torch.testing.assert_close(found, theirs, rtol=0, atol=1e-4, msg=lambda m, c=change: f"{c}: {m}")
        followed += not torch.equal(found, original)
    assert followed > 2
    assert refused > 10


class Reads:
    """The attributes of a configuration that were read."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def of(self, kind: type) -> type:
        """A class like `kind` whose objects tell what is read of them."""

        def read(config: Any, name: str) -> Any:
            self.names.add(name)
            return super(recording, config).__getattribute__(name)

        recording = type(kind.__name__, (kind,), {"__getattribute__": read})
        return recording


BASE_CLASS = {
    *("default_theta", "base_config_key", "sub_configs", "sub_configs_defaults", "attribute_map", "model_type"),
    *("base_model_tp_plan", "base_model_pp_plan", "base_model_ep_plan", "base_model_fsdp_plan", "extra_files"),
    *("keys_to_ignore_at_inference", "has_no_defaults_at_init", "ignore_keys_at_rope_validation"),
    *("vision_feature_layer", "vision_feature_select_strategy", "vision_aspect_ratio", "default_rope_type"),
    *("sliding_window", "attention_chunk_size"),  # by the cache in generation, where a family has no windows
}
"""What transformers' base classes read, which a file does not set or sets without a change of the logits."""


@pytest.mark.promise("Whatever key of a configuration is changed, the logits follow it or the directory is refused")
@pytest.mark.parametrize("kind", ["Llama 3", *ONE_EACH[1:]])
def test_every_key_that_a_family_s_class_declares_or_reads_is_followed_refused_or_listed_as_without_effect(
    kind: str, directories: Directories
) -> None:
    family = family_models.KINDS[kind][0]
    config = AutoConfig.from_pretrained(directories[kind])
    listed = keys.read_keys(family) | keys.WITHOUT_EFFECT | BASE_CLASS
    declared = {field.name for field in dataclasses.fields(config)}
    assert declared - listed == set()
    reads = Reads()
    original = config.__class__
    config.__class__ = reads.of(original)
    model = getattr(transformers, huggingface.families.FAMILIES[family].architecture)(config)
    model(input_ids=llamas.tokens(), labels=llamas.tokens())
    assert {"rope_parameters", "hidden_act", "num_key_value_heads"} <= reads.names, "what is read is recorded"
    read = {name for name in reads.names if not name.startswith("_") and not callable(getattr(original, name, None))}
    assert {name for name in read if not isinstance(getattr(original, name, None), property)} - listed == set()


@pytest.mark.promise("Whatever key of a configuration is changed, the logits follow it or the directory is refused")
@pytest.mark.parametrize("kind", ["Llama 3", *ONE_EACH[1:]])
def test_keys_that_are_listed_as_without_effect_change_no_logits(
    kind: str, directories: Directories, tmp_path: Path
) -> None:
    stored = load_file(directories[kind] / "model.safetensors")
    config = json.loads((directories[kind] / "config.json").read_text())
    declared = {field.name for field in dataclasses.fields(AutoConfig.from_pretrained(directories[kind]))}
    unlisted = keys.WITHOUT_EFFECT - declared - {"torch_dtype", "attn_implementation", "_attn_implementation"}
    changed = {**config, **dict.fromkeys(unlisted, 3)}
    theirs = llamas.logits(load_theirs(changed, stored, tmp_path))
    torch.testing.assert_close(theirs, logits(ours(directories[kind])), rtol=0, atol=1e-4)
    assert huggingface.families.model_of(tmp_path, changed) == huggingface.families.model_of(tmp_path, config)
    assert keys.unread(family_models.KINDS[kind][0], changed) == ()


# --- rotary positions ------------------------------------------------------------------------------------

SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 8.0},
    "llama3": {k: v for k, v in llamas.LLAMA_3.items() if k != "rope_theta"},
    "llama3, as Llama 3.2": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4096},
    "yarn, as OLMo 3": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 8192,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "attention_factor": 1.2079441541679836,
    },
    "yarn, not truncated": {
        "rope_type": "yarn",
        "factor": 16.0,
        "original_max_position_embeddings": 2048,
        "truncate": False,
        "beta_fast": 16.0,
    },
}


@pytest.mark.promise("Rotary frequencies of each scaling equal those of transformers")
@pytest.mark.parametrize("theta", [10000.0, 500000.0, 5e6])
@pytest.mark.parametrize("scaling", SCALINGS.values(), ids=SCALINGS)
def test_rotary_frequencies_are_those_of_transformers(scaling: dict[str, Any], theta: float) -> None:
    numbers = {"hidden_size": 512, "num_attention_heads": 4, "max_position_embeddings": 65536}
    theirs = AutoConfig.for_model("llama", **numbers, rope_parameters={"rope_theta": theta, **scaling})
    expected, expected_factor = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](theirs, torch.device("cpu"))
    config = ModelConfig(
        **numbers,
        num_hidden_layers=1,
        num_key_value_heads=4,
        intermediate_size=8,
        vocab_size=8,
        rope_theta=theta,
        rope_scaling=scaling,
    )
    found, factor = frequencies(config)
    torch.testing.assert_close(found.float(), expected, rtol=1e-6, atol=0)
    assert factor == pytest.approx(expected_factor, rel=1e-6)
