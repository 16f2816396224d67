"""Recipes that are mixtures above all, OLMo-core's and TinyLlama's, and the files that are written from any recipe."""

from __future__ import annotations

import shutil
from fractions import Fraction
from pathlib import Path

import pytest
from foreign_recipes import FIXTURES, converted, planned, steps

from curriculum.compiler.prepared_text import PreparedText
from curriculum.config.init import init
from curriculum.config.project import Project
from curriculum.config.recipes.convert import read_recipe
from curriculum.errors import ConfigError


@pytest.mark.promise(
    "Recipes of nanotron, Megatron-LM, OLMo-core and TinyLlama become plans of exactly their steps, tokens and shares"
)
def test_a_source_mixture_of_olmo_core_becomes_shares_and_passes(tmp_path: Path) -> None:
    (stage,) = planned(tmp_path, "olmo-core.yaml").stages
    assert stage.shares == {
        name: Fraction(ratio)
        for name, ratio in (("sponge", ".05"), ("reddit", ".059"), ("flan", ".05"), ("web", ".841"))
    }
    mixture, _ = Project(tmp_path).mixture("mine")
    assert mixture.passes == {"sponge": 1, "reddit": 3, "flan": 1, "web": Fraction(3, 2)}
    read = Project(tmp_path).sources.sources["reddit"].read
    assert read.tokenised == "/data/preprocessed/reddit-rewrites"
    assert read.files == ("highthresh/dolma2-tokenizer/part-1-00011.npy", "lowthresh/dolma2-tokenizer/*.npy")


def test_a_data_set_configuration_of_olmo_core_states_its_tokens_and_its_batch(tmp_path: Path) -> None:
    text = (FIXTURES / "olmo-core.yaml").read_text().split("sources:\n")[1]
    listed = "source_list:\n  sources:\n" + "".join(f"  {line}\n" for line in text.splitlines())
    config = tmp_path / "mix.yml"
    config.write_text(f"{listed}requested_tokens: 1e9\nglobal_batch_size: 4194304\nprocesses: 8\n")
    (stage,) = planned(tmp_path, config).stages
    assert (stage.plan.batch_tokens, stage.plan.steps) == (4_194_304, 239)


def test_tinyllamas_script_is_read_as_literals_and_never_run(tmp_path: Path) -> None:
    compiled = planned(tmp_path, "tinyllama.py")
    (stage,) = compiled.stages
    assert (steps(compiled), stage.plan.batch_sequences) == ([1_430_512], 512)
    assert stage.shares == {"train-slim": Fraction("0.693584"), "train-star": Fraction("0.306416")}
    rate = stage.plan.learning_rate
    assert (rate.shape, rate.max, rate.min, rate.horizon) == ("cosine", 4e-4, 4e-5, stage.plan.end)


@pytest.mark.parametrize(
    ("config", "shares"),
    [
        ('[("train_starcoder", 1)]', {"train-starcoder": Fraction(1)}),
        ("[('a', 1e9), ('b', 3 * 10**9 // 10**9 * 1)]", None),
        ("[('a', 1e9), ('b', 3_000_000_000), ('c', 0.0)]", {"a": Fraction(1, 4), "b": Fraction(3, 4)}),
        ("[('a', rate)]", None),
        ("[('a', 1), 'b']", None),
    ],
)
def test_weights_of_a_script_are_exact_or_refused(
    config: str, shares: dict[str, Fraction] | None, tmp_path: Path
) -> None:
    script = tmp_path / "pretrain.py"
    script.write_text(f"max_step = 100\ntrain_data_config = {config}\n")
    if shares is not None:
        assert planned(tmp_path, script).stages[0].shares == shares
        return
    with pytest.raises(ConfigError, match="train_data_config") as refused:
        read_recipe([script])
    assert refused.value.place is not None
    assert refused.value.place.line == 2


def test_a_recipe_joins_a_project_and_changes_no_entry_of_it(tmp_path: Path) -> None:
    root = tmp_path / "project"
    init(root)
    before = Project(root).sources
    text = (root / "sources.yaml").read_text()
    converted(root, "olmo-core.yaml", name="olmo")
    after = Project(root).sources
    assert {name: after.sources[name] for name in before.sources} == before.sources
    assert {name: after.tokenizers[name] for name in before.tokenizers} == before.tokenizers
    added = (root / "sources.yaml").read_text()
    assert [line for line in added.splitlines() if line in set(text.splitlines())][: text.count("\n")]
    assert set(text.splitlines()) <= set(added.splitlines())
    (stage,) = PreparedText.open(Project(root), "olmo", "full").compiled.stages
    assert set(stage.shares) == {"sponge", "reddit", "flan", "web-2"}  # the project has a `web` that reads another text
    converted(root, "olmo-core.yaml", name="olmo-again")
    assert set(Project(root).sources.sources) == set(after.sources)  # the same text is the same source


def test_nothing_is_written_where_a_name_is_taken_or_no_entry_can_be_added(tmp_path: Path) -> None:
    root = tmp_path / "project"
    init(root)
    for name, message in (("v1.1", "exists already"), ("Mine", "cannot be the name"), ("chinese", "exists already")):
        with pytest.raises(Exception, match=message):
            converted(root, "olmo-core.yaml", name=name)
    (root / "sources.yaml").write_text("sources: {web: {read: {folder: x}, held_out: 5%}}\n")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="is written in braces"):
        converted(root, "olmo-core.yaml")
    assert {path: path.read_bytes() for path in root.rglob("*") if path.is_file()} == before
    shutil.rmtree(root)


def test_the_files_say_for_each_fact_where_it_is_from(tmp_path: Path) -> None:
    converted(tmp_path, "smollm3-1.yaml", "smollm3-2.yaml", "smollm3-3.yaml")
    lines = (FIXTURES / "smollm3-3.yaml").read_text().splitlines()
    number = lines.index("      - 0.0102") + 1
    assert f"  stack-edu-html: 0.0102   # smollm3-3.yaml:{number}" in (tmp_path / "mixtures/mine-3.yaml").read_text()
    stages = (tmp_path / "stages/mine.yaml").read_text()
    assert f"smollm3-3.yaml:{len(lines)} sequence_length\nsequence_length: 4096" in stages
