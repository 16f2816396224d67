"""The shipped files: valid, as the paper and the design have them, and every name in them leads somewhere."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest
from shipped import FILES, shipped

from curriculum.config import BatchScale, CurriculumFile, MixtureFile
from curriculum.units import Length

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("name", FILES)
def test_a_shipped_file_is_valid(name: str) -> None:
    assert shipped(name)


def test_v1_1_states_the_paper_s_curriculum() -> None:
    file = shipped("stages/v1.1.yaml")
    assert (file.seed, file.model, file.sequence_length, file.from_) == (3407, "tinyllama-1.1b", 2048, None)
    assert file.learning_rate.max == Fraction(4, 10**4)
    assert file.learning_rate.min == Fraction(4, 10**5)
    assert file.learning_rate.warmup == Length(2000, "steps")
    assert file.learning_rate.horizon == Length(2 * 10**12, "tokens")
    assert file.optimizer.betas == (Fraction(9, 10), Fraction(19, 20))
    assert [(s.name, s.until.amount, s.mixture) for s in file.stages] == [
        ("basic", 1_500_000_000_000, "slimpajama"),
        ("continual", 1_850_000_000_000, None),
        ("cooldown", 2_000_000_000_000, None),
    ]
    assert [s.batch for s in file.stages] == [Length(896, "sequences"), None, Length(3584, "sequences")]


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("slimpajama", {"slimpajama": 1}),
        ("math-code", {"slimpajama": 75, "starcoder-python-jupyter": 15, "proof-pile-2": 10}),
        ("chinese", {"slimpajama": 50, "skypile": 50}),
    ],
)
def test_a_shipped_mixture_has_the_paper_s_shares(name: str, weights: dict[str, int]) -> None:
    stated = shipped(f"mixtures/{name}.yaml").weights
    total, wanted = sum(stated.values()), sum(weights.values())
    shares = {source: weight / total for source, weight in stated.items()}
    assert shares == {source: Fraction(weight, wanted) for source, weight in weights.items()}


def test_every_name_in_a_shipped_file_leads_somewhere() -> None:
    sources, sizes = shipped("sources.yaml"), shipped("sizes.yaml").root
    for name in FILES:
        file = shipped(name)
        if isinstance(file, MixtureFile):
            assert file.weights.keys() <= sources.sources.keys()
        if isinstance(file, CurriculumFile):
            for stage in file.stages:
                assert stage.mixture is None or stage.mixture in {Path(path).stem for path in FILES}
            assert file.tokenizer is None or file.tokenizer in sources.tokenizers
    for size in sizes.values():
        assert {*size.stand_ins, *size.stand_ins.values()} <= sources.sources.keys()
        assert size.tokenizer is None or size.tokenizer in sources.tokenizers


def test_the_rehearsal_stands_in_for_every_corpus_of_the_mixtures() -> None:
    corpora = {source for name in FILES if name.startswith("mixtures/") for source in shipped(name).weights}
    rehearsal = shipped("sizes.yaml").root["rehearsal"]
    assert rehearsal.stand_ins.keys() == corpora
    sources = shipped("sources.yaml").sources
    assert all(sources[name].tokens and sources[name].tokens_from for name in corpora)
    for stand_in in rehearsal.stand_ins.values():
        assert sources[stand_in].read.hub is None, "the rehearsal downloads nothing"
        assert sources[stand_in].licence


def test_the_rehearsal_is_the_design_s() -> None:
    rehearsal = shipped("sizes.yaml").root["rehearsal"]
    assert rehearsal.tokens == Fraction(1, 10**6)
    assert rehearsal.batch == BatchScale(None, 16)
    assert rehearsal.learning_rate.warmup == Length(20, "steps")
    assert rehearsal.model.model_dump(exclude_none=True) == {
        "hidden_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "intermediate_size": 352,
        "vocab_size": 4096,
    }


def test_the_paper_s_machine_holds_its_batch() -> None:
    machine = shipped("machines.yaml").root["a100-40g-16x4"]
    assert (machine.nodes, machine.gpus_per_node, machine.processes, machine.micro_batch) == (16, 4, 4, 7)
    assert 896 % (machine.nodes * machine.processes * machine.micro_batch) == 0
    assert (machine.throughput, machine.price, machine.memory) == (24_000, 2, 40 * 10**9)


def test_a_source_says_what_a_preparation_is_asked_for() -> None:
    source = shipped("sources.yaml").sources["starcoder-python-jupyter"]
    assert source.read_options() == {
        "hub": "bigcode/starcoderdata",
        "subsets": ["python", "jupyter-scripts-dedup-filtered", "jupyter-structured-clean-dedup"],
        "files": ["*.parquet"],
    }
    assert source.read.text == "content"
    assert source.held_out_options() == {"share": "0.1%"}
    assert shipped("sources.yaml").sources["slimpajama"].held_out_options() == {"split": "validation"}
    json.dumps(source.read_options())
