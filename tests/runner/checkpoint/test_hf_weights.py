"""Weights of another trainer's checkpoint with `layout: hf`, read by our model where they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import family_models
import llamas
import pytest
import torch
from safetensors.torch import load_file, save_file
from small import NUMBERS

from curriculum import fs
from curriculum.artifacts import checkpoints, huggingface
from curriculum.artifacts.jobs import ImportJob
from curriculum.errors import CheckpointError, DataError
from curriculum.plan.model import ModelConfig
from runner.checkpoint import huggingface as checkpoint_huggingface, tensors
from runner.model.transformer import Transformer
from runner.train.optimizer import adamw


def saved_by_another(model: Path) -> Path:
    """The checkpoint whose `hf/` is the directory `model`."""
    checkpoint = model.parent / "g0-0000000000000512"
    checkpoint.mkdir()
    model.rename(checkpoint / "hf")
    state = {"trainer": {"name": "theirs", "layout": "hf"}, "history": "h", "position": 512, "step": 2, "windows": {}}
    fs.write_json(checkpoint / checkpoints.STATE, state)
    checkpoints.seal(checkpoint)
    return checkpoint


def model_of(checkpoint: Path) -> Transformer:
    directory = huggingface.read(checkpoints.hf_folder(checkpoint), with_tokenizer=False)
    return Transformer(ModelConfig.from_json(directory.model))


@pytest.mark.promise("What another trainer saves with `layout: hf` our own model measures, averages and converts")
@pytest.mark.parametrize("kind", family_models.ONE_OF_EACH)
def test_our_model_reads_another_trainer_s_checkpoint_as_it_reads_an_import(kind: str, tmp_path: Path) -> None:
    source = llamas.save(tmp_path / "theirs", family_models.model(kind, dtype=torch.bfloat16), shard="30KB")
    job = ImportJob(
        attempt_folder="", source=str(source), imported=str(tmp_path), memory=str(tmp_path / "digests.json")
    )
    imported = Path(checkpoint_huggingface.import_directory(job)["checkpoint"])
    expected = Transformer(ModelConfig.from_json(huggingface.read(source).model))
    tensors.load(imported, expected, None)
    checkpoint = saved_by_another(source)
    ours = model_of(checkpoint)
    state = tensors.load(checkpoint, ours, None)
    assert (state["position"], state["history"]) == (512, "h")
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name)), name


@pytest.mark.parametrize(("begin", "end"), [(1, 30), (17, 18), (0, 63)])
def test_a_rank_reads_its_rows_of_tensors_that_are_several_of_the_other_trainer_s(
    begin: int, end: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = saved_by_another(llamas.save(tmp_path / "theirs"))
    whole, part = model_of(checkpoint), model_of(checkpoint)
    tensors.load(checkpoint, whole, None)
    monkeypatch.setattr(tensors, "rows_of", lambda tensor: (begin, min(end, len(tensor)), 0))
    monkeypatch.setattr(tensors, "local_part", lambda tensor: tensor[begin : min(end, len(tensor))])
    before = {name: parameter.detach().clone() for name, parameter in part.named_parameters()}
    tensors.load(checkpoint, part, None)
    for name, parameter in part.named_parameters():
        wanted = before[name]
        wanted[begin:end] = whole.get_parameter(name)[begin:end].detach()
        assert torch.equal(parameter, wanted), name


def not_finite(file: Path) -> None:
    stored = load_file(file)
    stored["model.layers.1.self_attn.k_proj.weight"][3, 2] = torch.nan
    save_file(stored, file, metadata={"format": "pt"})


def of_another_family(file: Path) -> None:
    config = file.with_name("config.json")
    config.write_text(config.read_text().replace('"llama"', '"gpt2"'))


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (not_finite, r"`model\.layers\.1\.self_attn\.k_proj\.weight` holds numbers that are not finite"),
        (of_another_family, r'`model_type: "gpt2"` in its `config\.json` is not supported'),
    ],
)
def test_what_our_model_cannot_read_is_refused_by_name(
    broken: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    checkpoint = saved_by_another(llamas.save(tmp_path / "theirs"))
    ours = model_of(checkpoint)
    broken(checkpoint / "hf/model.safetensors")
    with pytest.raises(DataError, match=reason):
        tensors.load(checkpoint, ours, None)


def test_another_trainer_s_checkpoint_has_no_optimizer_state_for_ours(tmp_path: Path) -> None:
    checkpoint = saved_by_another(llamas.save(tmp_path / "theirs"))
    ours = model_of(checkpoint)
    with pytest.raises(CheckpointError, match=r"`exp_avg\.[\w.]+` is missing"):
        tensors.load(checkpoint, ours, adamw(ours, NUMBERS))
