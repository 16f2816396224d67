"""What the plan tells about a model is what the model is."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import lineages
import pytest
import torch

from curriculum.cli.view import braille
from curriculum.compiler import summary
from curriculum.compiler.compile import compile_curriculum
from curriculum.config.model_catalogue import CATALOGUE
from curriculum.config.project import Project
from curriculum.plan.model import ModelConfig
from curriculum.report.svg import plan
from runner.model.transformer import Transformer

SMALL = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 100,
    "vocab_size": 301,
}


@pytest.mark.parametrize(
    "model",
    [*CATALOGUE.values(), SMALL, {**SMALL, "tie_word_embeddings": True}],
    ids=[*CATALOGUE, "small", "small and tied"],
)
def test_the_parameters_counted_by_arithmetic_are_those_of_the_built_model(model: Mapping[str, Any]) -> None:
    numbers = {**model, "rms_norm_eps": float(model.get("rms_norm_eps", 1e-5)), "max_position_embeddings": 8}
    config = ModelConfig.from_json(numbers)
    with torch.device("meta"):
        assert config.parameters == sum(parameter.numel() for parameter in Transformer(config).parameters())


@pytest.mark.parametrize(
    ("name", "count"), [("tinyllama-1.1b", 1_100_048_384), ("smollm2-135m", 134_515_008), ("llama-2-7b", 6_738_415_616)]
)
def test_models_of_the_catalogue_have_their_published_number_of_parameters(name: str, count: int) -> None:
    assert ModelConfig(**CATALOGUE[name], max_position_embeddings=8).parameters == count


# --- a whole tree ----------------------------------------------------------------------------------------

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = Project(ROOT)
VARIANTS = ("v1.1", "v1.1-math-code", "v1.1-chinese")
PAID = SHIPPED.machine("a100-40g-16x4")


def tree(*names: str, project: Project = SHIPPED, size: str = "full") -> dict[str, Any]:
    compiled = [compile_curriculum(project, name, size) for name in names]
    return summary.summarise_tree(project, compiled, "a100-40g-16x4", PAID)


@pytest.mark.promise(
    "Work that several curricula share is counted once in a plan; every key of the plan's JSON is documented"
)
def test_work_that_variants_share_is_counted_once_and_the_savings_are_the_difference() -> None:
    whole = tree(*VARIANTS)
    names = [f"{node['curriculum']}/{node['stage']}" for node in whole["tree"]]
    assert len(names) == len(set(names)) == 7
    assert names[0] == "v1.1/basic"
    assert set(whole["tree"][0]["lineages"]) == set(VARIANTS)
    assert whole["cost"]["tokens"] == 1_500_001_599_488 + 3 * (2_000_000_909_312 - 1_500_001_599_488)
    assert whole["saved"]["tokens"] == 2 * 1_500_001_599_488
    for key in ("updates", "tokens", "gpu_hours", "usd", "storage_bytes", "token_bytes"):
        alone = sum(plan["cost"][key] for plan in whole["curricula"].values())
        assert whole["saved"][key] == pytest.approx(alone - whole["cost"][key])
        assert whole["saved"][key] > 0


def test_a_tree_of_one_saves_nothing_and_costs_what_it_costs() -> None:
    whole = tree("v1.1-math-code")
    assert whole["cost"] == whole["curricula"]["v1.1-math-code"]["cost"]
    assert set(whole["saved"].values()) == {0}


def test_a_trunk_that_variants_leave_at_different_points_counts_as_far_as_the_furthest_goes(tmp_path: Path) -> None:
    for folder in ("stages", "mixtures"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    for name, at in (("early", "0.5T"), ("late", "1T")):
        text = f"from: v1.1@{at}\nstages:\n  - {{name: own, tokens: 100B}}\n"
        (tmp_path / f"stages/{name}.yaml").write_text(text)
    whole = tree("early", "late", project=Project(tmp_path))
    trunk = whole["tree"][0]
    assert trunk["tokens"] == trunk["ends_at"] == trunk["lineages"]["late"]
    assert trunk["lineages"]["early"] < trunk["ends_at"]
    assert whole["saved"]["tokens"] == trunk["lineages"]["early"]
    assert whole["cost"]["tokens"] == trunk["tokens"] + sum(node["tokens"] for node in whole["tree"][1:])


def test_a_plan_says_when_a_machine_s_processes_cannot_share_a_step() -> None:
    project = Project(ROOT)
    compiled = compile_curriculum(project, "v1.1", "full")
    machine = project.machine("a100-40g-16x4")
    fits = summary.summarise(SHIPPED, compiled, "a100", machine)
    assert not [note for stage in fits["stages"] for note in stage["notes"] if "not on machine" in note]
    odd = summary.summarise(SHIPPED, compiled, "a100", machine.model_copy(update={"nodes": 15}))
    for stage in odd["stages"]:
        assert any("cannot be divided evenly among 60 processes; the nearest" in note for note in stage["notes"])


def test_the_first_repeat_is_the_first_step_that_reads_beyond_the_first_pass() -> None:
    for name in VARIANTS:
        for stage in compile_curriculum(SHIPPED, name, "rehearsal").stages:
            shown = summary.stage_summary(stage)["sources"]
            seen: dict[str, int] = {}
            for step in range(stage.plan.first_step, stage.plan.first_step + stage.steps_run):
                draws = stage.plan.draws(step)
                for source in {draws.names[s] for s in draws.source[draws.pass_number >= 1]}:
                    seen.setdefault(source, step)
            for source, entry in shown.items():
                again = stage.plan.items(0).get(source, 0) > stage.plan.sources[source].segments[0].windows
                repeat = entry["first_repeat"]
                assert (repeat["step"] if repeat else None) == (None if again else seen.get(source))


@pytest.mark.promise("`plan` lists what is not the same share of the whole as at full size")
def test_a_smaller_plan_lists_what_differs_from_full_size_and_the_full_one_nothing(tmp_path: Path) -> None:
    for folder in ("stages", "mixtures"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for name in ("sources.yaml", "sizes.yaml", "machines.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    with (tmp_path / "sizes.yaml").open("a") as sizes:
        sizes.write("scaled: {tokens: 1e-2}\n")
    project = Project(tmp_path)

    def differs(name: str, size: str) -> dict[str, tuple[str, str]]:
        rows = summary.summarise(project, compile_curriculum(project, name, size), "m", PAID)["differs"]
        return {row["what"]: (row["here"], row["full_size"]) for row in rows}

    rehearsal = differs("v1.1-math-code", "rehearsal")
    assert rehearsal["highest learning rate"] == ("0.003", "0.0004")
    assert rehearsal["warm-up"] == ("40.96k, 2.04% of all", "3.67B, 0.18% of all")  # 20 * 2,048 and 2,000 * 1,835,008
    assert rehearsal["ramp in continual"] == ("40.96k, 2.04% of all", "6B, 0.30% of all")
    assert rehearsal["batch"] == ("16 sequences", "896 sequences")
    assert "lowest learning rate" not in differs("smollm3", "rehearsal")  # 0 at both
    assert differs("v1.1-chinese", "scaled").keys() == {"length"}  # warm-up and ramp are the same share of it
    assert differs("v1.1-math-code", "full") == {}
    off = "from: v1.1-math-code@1.6T\nstages:\n  - {name: continual, until: 1.9T, mixture: chinese, ramp: 6B}\n"
    project = project.with_draft("off", off)
    ramps = [what for what in differs("off", "rehearsal") if what.startswith("ramp")]
    assert ramps == ["ramp in v1.1-math-code/continual", "ramp in off/continual"]


def test_at_full_size_the_rounding_to_steps_is_no_difference() -> None:
    text = lineages.BASE["stages/root.yaml"].replace("until: 2000 tokens", "until: 2001 tokens")
    text += "  - {name: second, until: 2105, mixture: other, ramp: 9 tokens}\n"
    project = lineages.project_of(
        {"stages/root.yaml": text, "sizes.yaml": "full: {}\nother: {at_least: {ramp: 2 steps}}\n"}
    )
    differs = [
        summary.summarise(project, compile_curriculum(project, "root", size), "m", PAID)["differs"]
        for size in ("full", "other")
    ]
    assert differs[0] == []
    assert [row["what"] for row in differs[1]] == ["ramp in second"]


def keys(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Every key, but names that people gave (of sources, curricula)."""
    if isinstance(value, list):
        for item in value:
            yield from keys(item, path)
    if isinstance(value, dict):
        people_s = path[-1:] in {("sources",), ("curricula",), ("lineages",), ("provenance",)}
        for key, item in value.items():
            if not people_s:
                yield key
            yield from keys(item, (*path, key))


@pytest.mark.promise(
    "Work that several curricula share is counted once in a plan; every key of the plan's JSON is documented"
)
def test_every_key_of_the_json_is_documented() -> None:
    documented = set(re.findall(r"[a-z_]+", " ".join(re.findall(r"`([^`]*)`", document("plan-json.md")))))
    one = summary.summarise(SHIPPED, compile_curriculum(SHIPPED, "v1.1-math-code", "full"), "m", PAID)
    one["provenance"] = {"slimpajama": "hub"}
    one["stages"][1]["skip"] = [{"from": 1, "to": 2, "why": None}]
    one["stages"][1]["leave_out"] = [{"source": "a", "shard": 2, "why": None}]
    for value in (one, tree(*VARIANTS)):
        assert set(keys(value)) <= documented
    assert "first_repeat" in set(keys(one))


def document(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


# --- curves ----------------------------------------------------------------------------------------------


def test_the_curve_holds_every_stage_s_edges_and_the_peak_of_the_warm_up() -> None:
    compiled = compile_curriculum(SHIPPED, "v1.1-math-code", "full")
    rows = summary.curve(compiled.stages)
    positions = [row["position"] for row in rows]
    assert positions == sorted(set(positions))
    assert {stage.stop for stage in compiled.stages} <= set(positions)
    assert max(row["lr"] for row in rows) == 4e-4
    assert next(row["batch_tokens"] for row in rows if row["position"] > 1_850_000_015_360) == 7_340_032
    assert len(rows) < 400


def test_the_curve_of_an_average_ends_where_its_last_step_ends() -> None:
    project = SHIPPED.with_draft("mine", "from: {average: [v1.1, v1.1@1.9T]}\n")
    averaged = compile_curriculum(project, "mine", "full").stages
    assert averaged[-1].steps_run == 0
    trained = compile_curriculum(SHIPPED, "v1.1", "full").stages
    assert summary.curve(averaged) == summary.curve(trained)
    shown = [summary.rates(summary.stage_summary(stage)) for stage in averaged]
    assert shown == ["2e-07 -> 9.29e-05", "9.29e-05 -> 4.5e-05", "4.5e-05 -> 4e-05", "-"]


def test_a_plot_has_its_highest_point_at_the_top_and_zero_at_the_bottom() -> None:
    lines = braille.curve([(1.0, 0.0), (2.0, 10.0), (3.0, 0.0)], 30, 4)
    assert [len(line) for line in lines] == [30] * 4
    blank = chr(0x2800)
    assert set(lines[0][:5] + lines[0][-5:]) == {blank}
    assert set(lines[0]) != {blank}
    assert set(lines[3][:9]) != {blank}
    stairs = braille.curve([(1.0, 1.0), (2.0, 4.0)], 10, 2, stairs=True)
    assert set(stairs[0][:4]) == {blank} != set(stairs[0][6:])


def test_the_picture_of_a_tree_is_well_formed_and_has_a_band_for_every_stage() -> None:
    whole = tree(*VARIANTS)
    text = plan.plan_picture("a <title>", whole["curricula"], whole["tree"])
    root = ElementTree.fromstring(text)
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f"{space}rect")) == 1 + len(whole["tree"])
    words = {element.text for element in root.iter(f"{space}text")}
    assert set(VARIANTS) <= words
    assert len(root.findall(f"{space}polyline")) == 2  # all three have one rate and one batch
    edited = {name: {"curve": list(plan["curve"])} for name, plan in whole["curricula"].items()}
    edited["v1.1"]["curve"] = [{**row, "lr": row["lr"] / 2} for row in edited["v1.1"]["curve"]]
    text = plan.plan_picture("two rates", edited, whole["tree"])
    assert len(ElementTree.fromstring(text).findall(f"{space}polyline")) == 3


def test_a_machine_without_gpus_has_its_time_by_processes_and_no_gpu_hours_or_money(small_project: Path) -> None:
    machines = small_project / "machines.yaml"
    machines.write_text(
        "local: {launcher: process, device: cpu, throughput: 512 tokens/s/gpu, price: 1 USD/gpu-hour}\n"
    )
    project = Project(small_project)
    compiled = compile_curriculum(project, "trunk", "full")
    cost = summary.summarise(project, compiled, "local", project.machine("local"))["cost"]
    compute = 12288 / (1 - cost["evaluation_share"])
    assert cost["days"] == pytest.approx(compute / 512 / 86400)
    assert cost["evaluation_seconds"] == pytest.approx(cost["evaluation_share"] * compute / 512)
    assert (cost["gpu_hours"], cost["usd"]) == (None, None)
    assert any("512 tokens/s on each of 1 processes" in line for line in cost["assumptions"])
