"""What a Hugging Face directory is refused for: whatever would run code, and whatever our model computes otherwise."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llamas
import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from curriculum.artifacts import huggingface
from curriculum.artifacts.huggingface.places import key_place
from curriculum.errors import DataError
from curriculum.plan.model import ModelConfig


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llamas.save(tmp_path_factory.mktemp("saved") / "llama", rope=llamas.LLAMA_3)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llamas.save(tmp_path_factory.mktemp("sharded") / "llama", shard="40KB")


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "llama"))


def change(folder: Path, name: str = "config.json", **keys: Any) -> None:
    value = json.loads((folder / name).read_text())
    for key, new in keys.items():
        if new is ...:
            value.pop(key, None)
        else:
            value[key] = new
    (folder / name).write_text(json.dumps(value))


def test_a_directory_as_transformers_saves_it_is_read(folder: Path) -> None:
    found = huggingface.read(folder)
    assert found.parameters == 37_792
    assert found.dtype == "float32"
    assert found.model["rope_scaling"] == {k: v for k, v in llamas.LLAMA_3.items() if k != "rope_theta"}
    assert found.model["rope_theta"] == 500.0
    assert found.identity_files == ("config.json", "tokenizer.json", "model.safetensors")


def test_the_keys_of_transformers_4_mean_the_same(folder: Path) -> None:
    meant = huggingface.read(folder).model
    rope = json.loads((folder / "config.json").read_text())["rope_parameters"]
    theta = rope.pop("rope_theta")
    rope["type"] = rope.pop("rope_type")
    change(folder, rope_parameters=..., rope_scaling=rope, rope_theta=theta, head_dim=...)
    assert huggingface.read(folder).model == meant


def test_what_a_configuration_leaves_out_is_filled_in_as_transformers_does(folder: Path) -> None:
    keys = ("rope_parameters", "rms_norm_eps", "num_key_value_heads", "tie_word_embeddings", "head_dim")
    change(folder, **dict.fromkeys(keys, ...), max_position_embeddings=...)
    config = AutoConfig.from_pretrained(folder)
    stored = load_file(folder / "model.safetensors")
    for name, tensor in stored.items():  # as many key and value heads as heads
        if "k_proj" in name or "v_proj" in name:
            stored[name] = tensor.repeat(2, 1)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    model = huggingface.read(folder).model
    assert model["num_key_value_heads"] == config.num_key_value_heads == 4
    assert model["rms_norm_eps"] == config.rms_norm_eps
    assert model["max_position_embeddings"] == config.max_position_embeddings
    assert model["rope_theta"] == config.rope_parameters["rope_theta"]
    assert model["tie_word_embeddings"] is config.tie_word_embeddings is False


@pytest.mark.promise("An import's model is the directory's, wider heads and scaled rotary positions included")
def test_heads_wider_than_an_even_share_are_read(tmp_path: Path) -> None:
    folder = llamas.save(tmp_path / "llama", head_dim=16)
    assert huggingface.read(folder).model["head_dim"] == 16
    change(folder, head_dim=...)
    with pytest.raises(DataError, match=r"q_proj.*has shape \[64, 32\]"):
        huggingface.read(folder)


YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}


@pytest.mark.promise(
    "A Hugging Face directory that would run code, or that our model would compute differently, is refused by name"
)
@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"model_type": "gemma3_text"}, '`model_type: "gemma3_text"`'),
        ({"model_type": "gemma"}, '`model_type: "gemma"`'),
        ({"model_type": ...}, "`model_type: null`"),
        ({"architectures": ["LlamaForSequenceClassification"]}, '`architectures: ["LlamaForSequenceClass'),
        ({"attention_bias": True}, "the tensor `model.layers.0.self_attn.q_proj.bias` is missing"),
        ({"mlp_bias": "yes"}, '`mlp_bias: "yes"`'),
        ({"layer_types": ["sliding_attention"] * 2}, "`layer_types: ["),
        ({"layer_types": ["full_attention"] * 3}, "lists 3 layers, `num_hidden_layers` says 2"),
        ({"hidden_act": "gelu"}, '`hidden_act: "gelu"`'),
        ({"transformers_weights": "other.safetensors"}, '`transformers_weights: "other.safetensors"`'),
        ({"text_config": {"hidden_size": 16}}, '`text_config: {"hidden_size": 16}`'),
        ({"head_dim": 15}, "`head_dim: 15`"),
        ({"rope_parameters": DYNAMIC}, "`rope_parameters: {rope_type: dynamic}`"),
        ({"rope_parameters": ..., "rope_scaling": {"type": "longrope", "factor": 2}}, "{rope_type: longrope}`"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "`rope_scaling` in its `config.json` is not supported"),
        ({"rope_parameters": {**YARN, "mscale": 2.0}}, "`rope_parameters: {mscale: …}`"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "{partial_rotary_f"),
        ({"rope_parameters": {**llamas.LLAMA_3, "factor": None}}, "`factor` in its `config.json` is null"),
        ({"quantization_config": {"quant_method": "gptq"}}, "`quantization_config:"),
        ({"hidden_size": "wide"}, '`hidden_size` in its `config.json` is "wide"'),
        ({"vocab_size": -1}, "`vocab_size` in its `config.json` is -1"),
        ({"num_attention_heads": 3, "head_dim": ...}, "`num_attention_heads: 3`"),
        ({"num_key_value_heads": 3}, "`num_key_value_heads: 3`"),
        ({"vocab_size": 301}, r"has shape [300, 32], its `config.json` says [301, 32]"),
        ({"num_hidden_layers": 1}, "its weights have 2 layers, its `config.json` says 1"),
        ({"num_hidden_layers": 3}, "its weights have 2 layers, its `config.json` says 3"),
        ({"model_type": "olmo2", "architectures": ...}, "does not make, `model.layers.0.input_layernorm.weight`"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "`auto_map` in its `config.json`"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_our_model_cannot_compute_is_refused_by_name(keys: dict[str, Any], said: str, folder: Path) -> None:
    change(folder, **keys)
    with pytest.raises(DataError) as refused:
        huggingface.read(folder)
    assert said in refused.value.what
    assert refused.value.hint
    assert len(refused.value.render().splitlines()) < 10


@pytest.mark.promise("A refusal of a `config.json` has the line of the key, and the value that fits the weights")
@pytest.mark.parametrize(
    ("keys", "key", "hint"),
    [
        ({"hidden_act": "gelu"}, '"hidden_act": "gelu"', "our model has no switch for it"),
        ({"hidden_size": "wide"}, '"hidden_size": "wide"', "weights are read only by numbers that are stated"),
        ({"rope_parameters": DYNAMIC}, '"rope_type": "dynamic"', "`linear`, `llama3`, `yarn` are computed"),
        ({"num_hidden_layers": 3}, '"num_hidden_layers": 3', "`num_hidden_layers: 2` describes these weights; is the"),
        ({"num_hidden_layers": 1}, '"num_hidden_layers": 1', "`num_hidden_layers: 2` describes these weights; or they"),
        ({"vocab_size": 301}, '"vocab_size": 301', "`vocab_size: 300` describes this tensor; or weights"),
        ({"intermediate_size": 96}, '"intermediate_size": 96', "`intermediate_size: 64` describes this tensor"),
        ({"num_key_value_heads": 4}, '"num_key_value_heads": 4', "`num_key_value_heads: 2` describes this tensor"),
        ({"num_attention_heads": 8}, '"num_attention_heads": 8', "`num_attention_heads: 4` describes this tensor"),
        ({"hidden_size": 48, "head_dim": 8}, '"hidden_size": 48', "`hidden_size: 32` describes this tensor"),
        ({"attention_bias": True}, '"attention_bias": true', "`attention_bias: false` describes weights without it"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, '"auto_map": {"AutoModel"', "no code of theirs is run"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_has_the_line_of_the_key_and_the_value_that_would_fit(
    keys: dict[str, Any], key: str, hint: str, folder: Path
) -> None:
    change(folder, **keys)
    written = json.loads((folder / "config.json").read_text())
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in written.items()]
    (folder / "config.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
    with pytest.raises(DataError) as refused:
        huggingface.read(folder)
    place = refused.value.place
    assert place is not None
    assert place.file == str(folder / "config.json")
    assert place.text == (folder / "config.json").read_text().split("\n")[place.line - 1]
    value = key[key.index(": ") + 2 :]
    assert key in place.text
    assert place.text[place.column - 1 :].startswith(value)
    assert hint in str(refused.value.hint)


def test_a_place_is_found_in_json_of_one_line_with_escapes_and_keys_written_twice(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": "\\"b\\": 1", "b": [{"c": 2}], "c":\n {"b" :3}, "b": 4}')
    for keys, line, column in (
        (("b",), 2, 17),
        (("c", "b"), 2, 8),
        (("c", "none"), 2, 2),
        (("a",), 1, 7),
        (("none",), 1, 1),
        ((), 1, 1),
    ):
        place = key_place(path, keys)
        assert place is not None
        assert (place.line, place.column) == (line, column), keys
    for text in ("", "{", '{"a" 1}', "[1]x", '{"b": '):
        path.write_text(text)
        place = key_place(path, ("b",))
        assert place is None or (place.line, place.column) == (1, 1)


@pytest.mark.promise("A key of a `config.json` that neither transformers nor we read is reported, with its line")
def test_a_key_that_is_not_read_is_reported_with_its_line_and_the_key_that_it_resembles(folder: Path) -> None:
    assert huggingface.read(folder).unread == ()
    change(folder, rope_thetta=3.0, qk_clip=True, no_such=None, never=False, attention_dropout=0.1)
    told = huggingface.read(folder).unread
    lines = (folder / "config.json").read_text().splitlines()
    assert len(lines) == 1
    assert [line.split("`")[1] for line in told] == ["rope_thetta", "qk_clip", "attention_dropout: 0.1"]
    assert "in line 1 of its config.json changes no logits: neither LlamaForCausalLM of transformers" in told[0]
    assert told[0].endswith("; `rope_theta` is read")
    assert told[1].endswith("nor our model reads it")


def _code(folder: Path) -> None:
    (folder / "modeling_llama.py").write_text("raise SystemExit")


def _auto_map(folder: Path) -> None:
    change(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]})


def _pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _empty(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def _no_configuration(folder: Path) -> None:
    (folder / "config.json").unlink()


def _not_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _deep(folder: Path) -> None:
    (folder / "config.json").write_text("[" * 200_000)


def _a_list(folder: Path) -> None:
    (folder / "generation_config.json").write_text("[]")


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _cut_in_the_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])


def _huge_header(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 7 + b"\x7f" + path.read_bytes()[8:])


def _quantised(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    stored["model.norm.weight"] = stored["model.norm.weight"].to(dtype=__import__("torch").int8)
    save_file(stored, folder / "model.safetensors")


def _a_link_out(folder: Path) -> None:
    outside = folder.parent / "secret"
    outside.write_text("{}")
    (folder / "tokenizer_config.json").unlink()
    (folder / "tokenizer_config.json").symlink_to(outside)


def _weights_by_a_link_out(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "weights")
    (folder / "model.safetensors").symlink_to("../weights")


def _a_folder(folder: Path) -> None:
    (folder / "LICENSE").mkdir()


@pytest.mark.promise(
    "A Hugging Face directory that would run code, or that our model would compute differently, is refused by name"
)
@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_code, "it brings code of its own, `modeling_llama.py`"),
        (_auto_map, "`auto_map` in its `tokenizer_config.json`"),
        (_pickles, "its weights are pickled (`pytorch_model.bin`), which can run any code when opened"),
        (_empty, "it has neither `model.safetensors` nor `model.safetensors.index.json`"),
        (_no_tokenizer, "it has no `tokenizer.json`"),
        (_no_configuration, "it has no `config.json`"),
        (_not_json, "its `config.json` cannot be read"),
        (_deep, "its `config.json` cannot be read"),
        (_a_list, "its `generation_config.json` is no JSON object"),
        (_cut, "`model.safetensors` is not a whole safetensors file: it has"),
        (_cut_in_the_header, "`model.safetensors` is not a whole safetensors file"),
        (_huge_header, "its header does not fit it"),
        (_quantised, "`model.norm.weight` is stored as I8"),
        (_a_link_out, "`tokenizer_config.json` is a link that leads out of it"),
        (_weights_by_a_link_out, "`model.safetensors` is a link that leads out of it"),
        (_a_folder, "`LICENSE` is not a file"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_directory_that_is_unsafe_or_not_whole_is_refused(
    spoil: Callable[[Path], None], said: str, folder: Path
) -> None:
    huggingface.read(folder)
    spoil(folder)
    with pytest.raises(DataError) as refused:
        huggingface.read(folder)
    assert said in refused.value.what
    assert refused.value.hint


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a directory"):
        huggingface.read(tmp_path / "none")


def test_the_hub_s_cache_which_is_made_of_links_is_read(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "models--someone--llama"
    snapshot = cache / "snapshots/0123"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(cache / f"blobs/{number}")
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert huggingface.read(snapshot).parameters == 37_792
    (cache / "other").write_text("{}")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../other")
    with pytest.raises(DataError, match="a link that leads out of it"):
        huggingface.read(snapshot)


def test_several_files_are_found_through_their_index_alone(sharded: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "llama"))
    found = huggingface.read(folder)
    assert len(found.weight_files) > 1
    assert found.identity_files[2:] == found.weight_files
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    for name in ("../llama/x.safetensors", "/etc/passwd", "x.bin", 7):
        change(folder, "model.safetensors.index.json", weight_map={**index["weight_map"], "lm_head.weight": name})
        with pytest.raises(DataError, match="which is no safetensors file there"):
            huggingface.read(folder)
    change(
        folder, "model.safetensors.index.json", weight_map={**index["weight_map"], "more.weight": found.weight_files[0]}
    )
    with pytest.raises(DataError, match=r"lacks `more\.weight`"):
        huggingface.read(folder)
    change(folder, "model.safetensors.index.json", **index)
    (folder / found.weight_files[0]).unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        huggingface.read(folder)


def test_tables_of_rotary_positions_that_older_directories_store_are_left_out(folder: Path) -> None:
    stored = load_file(folder / "model.safetensors")
    stored["model.layers.0.self_attn.rotary_emb.inv_freq"] = stored["model.norm.weight"][:4].clone()
    save_file(stored, folder / "model.safetensors")
    assert list(huggingface.read(folder).left_out) == ["model.layers.0.self_attn.rotary_emb.inv_freq"]


def test_the_names_and_shapes_are_those_that_transformers_saves(saved: Path) -> None:
    stored = load_file(saved / "model.safetensors")
    assert ModelConfig.from_json(huggingface.read(saved).model).shapes() == {
        n: tuple(t.shape) for n, t in stored.items()
    }


@pytest.mark.promise("An import's model is the directory's, wider heads and scaled rotary positions included")
def test_our_configuration_means_the_model_it_was_written_of(saved: Path, tmp_path: Path) -> None:
    model = huggingface.read(saved).model
    written = huggingface.config_of(model, dtype="bfloat16", eos=0, bos=None)
    for keys in ((), ("rope_parameters", "dtype"), ("rope_theta", "rope_scaling", "torch_dtype")):
        # as transformers 5 writes it, as version 4 reads it, and both
        config = {key: value for key, value in written.items() if key not in keys}
        (tmp_path / "config.json").write_text(json.dumps(config))
        mine, theirs = AutoConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(saved)
        assert mine.rope_parameters == theirs.rope_parameters
        for key in (*(set(model) - {"rope_theta", "rope_scaling"}), "head_dim", "hidden_act", "attention_bias"):
            assert getattr(mine, key) == getattr(theirs, key), key
        assert str(mine.dtype) == "torch.bfloat16"


def test_digests_are_remembered_until_a_file_is_touched(folder: Path, tmp_path: Path) -> None:
    found, memory = huggingface.read(folder), tmp_path / "digests.json"
    sums = {name: f"sum of {name}" for name in found.identity_files}
    assert huggingface.known_sums(found, memory) is None
    stamps = {name: huggingface.stamp(folder / name) for name in sums}
    huggingface.remember_sums(found, memory, sums, stamps)
    assert huggingface.known_sums(found, memory) == sums
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert huggingface.known_sums(found, memory) is None
    memory.write_text("{")
    assert huggingface.known_sums(found, memory) is None
