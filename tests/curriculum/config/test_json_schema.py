"""The schemas that editors read: as wide as our own reader on every file that it accepts, and nearly as strict."""

from __future__ import annotations

import json
import re
import typing
import warnings
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings, strategies as st
from jsonschema import Draft7Validator
from pydantic import BaseModel, RootModel, ValidationError

from curriculum.compiler.lineage import lineage
from curriculum.config import ROOT_KEYS, CurriculumFile, json_schema
from curriculum.config.entry import Entry
from curriculum.config.project import Project
from curriculum.config.yaml import load_yaml, parse_yaml
from curriculum.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
MESSAGES = ROOT / "tests" / "messages"
SHIPPED = sorted(
    str(path.relative_to(ROOT))
    for folder in (".", "stages", "mixtures", "studies")
    for path in (ROOT / folder).glob("*.yaml")
)
VALIDATORS = {name: Draft7Validator(json_schema.schema_of(model)) for name, model in json_schema.FILES.items()}


def for_file(path: str) -> Draft7Validator:
    folder, _, name = path.rpartition("/")
    return VALIDATORS[folder or name.removesuffix(".yaml")]


def as_an_editor_reads(value: Any) -> Any:
    """Our loader's values as YAML 1.2's: a number with a fraction or an exponent is a float."""
    if isinstance(value, dict):
        return {key: as_an_editor_reads(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_an_editor_reads(item) for item in value]
    return float(value) if isinstance(value, Decimal) else value


@pytest.mark.parametrize("name", json_schema.FILES)
def test_a_schema_is_well_formed_closed_and_made_without_a_warning(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = json_schema.schema_of(json_schema.FILES[name])
    Draft7Validator.check_schema(made)
    json.dumps(made, allow_nan=False)
    for entry in (made, *made.get("definitions", {}).values()):
        assert entry["additionalProperties"] is not True
        if "properties" in entry:
            assert entry["additionalProperties"] is False
            for key, described in entry["properties"].items():
                assert described["description"], key
    assert not re.search(r'"type": "null"|\$defs', json.dumps(made))


@pytest.mark.parametrize("path", SHIPPED)
def test_a_shipped_file_fits_its_schema_under_yaml_1_2_and_1_1(path: str) -> None:
    text = (ROOT / path).read_text()
    for_file(path).validate(as_an_editor_reads(parse_yaml(text.encode(), path).value))
    for_file(path).validate(yaml.safe_load(text))


@pytest.mark.parametrize("path", SHIPPED)
def test_a_shipped_file_names_its_schema_in_its_first_line(path: str) -> None:
    first = (ROOT / path).read_text().splitlines()[0]
    assert first == json_schema.modeline(path)
    named = (ROOT / path).parent / first.rpartition("=")[2]
    made = json_schema.texts()[str(named.resolve().relative_to(ROOT))]
    assert named.read_text() == made, "run `make docs`"


RATE = "from: b\nstages: [{name: a, until: 2T}]\nlearning_rate: {shape: cosine, max: 1"
EXPRESSIBLE = [
    "batch-in-steps",
    "empty",
    "kubernetes-name-of-capitals",
    "kubernetes-namespace-of-capitals",
    "kubernetes-quantity",
    "kubernetes-volume-of-capitals",
    "kubernetes-without-image",
    "length-without-unit",
    "machine-word",
    "name-with-dots",
    "name-with-dots-inside",
    "name-with-slash",
    "not-a-mapping",
    "root-without-model",
    "unknown-key",
    "unknown-model",
    "weight-negative",
    "weight-not-a-number",
]
"""The wrong files of tests/messages that one file's schema can refuse."""


@pytest.mark.promise(
    "The JSON schemas for editors accept everything that the program accepts, and refuse what one file "
    "suffices to refuse except arithmetic; reference and key tables are generated from the code"
)
@pytest.mark.parametrize("name", EXPRESSIBLE)
def test_a_schema_refuses_a_wrong_file_that_it_can_express(name: str) -> None:
    text = (MESSAGES / f"{name}.yaml").read_text()
    path = re.search(r"^# file: (.*)$", text, re.MULTILINE)
    assert path is not None
    assert not for_file(path[1]).is_valid(yaml.safe_load(text))


@pytest.mark.promise(
    "The JSON schemas for editors accept everything that the program accepts, and refuse what one file "
    "suffices to refuse except arithmetic; reference and key tables are generated from the code"
)
@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("stages/a.yaml", "from: b\nstages: [{name: a}]"),
        ("stages/a.yaml", "from: b\nstages: [{name: a, until: 2T, tokens: 1T}]"),
        ("stages/a.yaml", "from: b\nstages: [{name: a, until: 2T, ramp: 6}]"),
        ("stages/a.yaml", "from: b\nstages: [{name: a, until: 2T, batch: 896}]"),
        ("stages/a.yaml", "from: b\nstages: [{name: a, until: 2T, batch: 896 steps}]"),
        ("stages/a.yaml", "from: b\nstages: [{name: a, until: 2Q}]"),
        ("stages/a.yaml", "from: b\nstages: [{name: a, until: 0}]"),
        ("stages/a.yaml", "from: b\nstages: {name: a, until: 2T}"),
        ("stages/a.yaml", "from: b\nstages: []"),
        ("stages/a.yaml", "from: b\nstages: [{name: a, until: 2T, batch: 0 sequences}]"),
        ("stages/a.yaml", "from: b\nstages: [{name: a, until: 2T, batch: 0_0.0e2k  tokens}]"),
        ("stages/a.yaml", "from: b\nstages: [{name: a, until: 0.0T}]"),
        ("stages/a.yaml", "from: b\nstages: [{name: a, until: 2T, ramp: 0B}]"),
        ("stages/a.yaml", f"{RATE}, min: 0}}"),
        ("stages/a.yaml", f"{RATE}, horizon: 2T}}"),
        ("stages/a.yaml", f"{RATE}, min: 0, horizon: 2T, decay: 1T}}"),
        ("stages/a.yaml", f"{RATE}, min: 0, horizon: 2T, decay_shape: sqrt}}"),
        ("stages/a.yaml", f"{RATE}, min: 0, horizon: 2T}}".replace("cosine", "wsd")),
        ("stages/a.yaml", f"{RATE}, min: 0}}".replace("cosine", "constant")),
        ("stages/a.yaml", f"{RATE}, horizon: 2T}}".replace("cosine", "constant")),
        ("stages/a.yaml", "from: b\nseed: 1.5\nstages: [{name: a, until: 2T}]"),
        ("stages/a.yaml", "from: b\nabout:\nstages: [{name: a, until: 2T}]"),
        ("stages/a.yaml", "from: b\nabout: 3\nstages: [{name: a, until: 2T}]"),
        ("stages/a.yaml", "from: b\noptimizer: {name: sgd, weight_decay: 0}\nstages: [{name: a, until: 2T}]"),
        ("mixtures/a.yaml", "about: no weights"),
        ("mixtures/a.yaml", "weights: {a: many}"),
        ("mixtures/a.yaml", "weights: {A: 1}"),
        ("mixtures/a.yaml", "weights: {a: 1}\npasses: {a: 0}"),
        ("sources.yaml", "sources: {a: {read: {folder: a, hub: b/c}, held_out: 5%}}"),
        ("sources.yaml", "sources: {a: {read: {folder: a}}}"),
        ("sources.yaml", "sources: {a: {read: {folder: a}, held_out: 60.0}}"),
        ("sizes.yaml", "small: {tokens: 2.0}"),
        ("sizes.yaml", "small: {batch: 896 to 16}"),
        ("machines.yaml", "a: {launcher: pigeon}"),
        ("machines.yaml", "a: {compile: maybe}"),
        ("machines.yaml", "a: {throughput: 24k}"),
        ("machines.yaml", "a: {nodes: 0}"),
    ],
)
def test_a_schema_refuses_what_our_reader_refuses(path: str, text: str) -> None:
    value = parse_yaml(text.encode(), path).value
    with pytest.raises(ValidationError):
        json_schema.FILES[path.split("/")[0].removesuffix(".yaml")].model_validate(value)
    assert not for_file(path).is_valid(as_an_editor_reads(value))


def without(value: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: item for key, item in value.items() if key not in keys}


ROOT_FILE: dict[str, Any] = load_yaml(ROOT / "stages" / "v1.1.yaml", root=ROOT).value
FIRST, *LATER = ROOT_FILE["stages"]
ROOTS = {
    "whole": ROOT_FILE,
    **{f"without {key}": without(ROOT_FILE, key) for key in ROOT_KEYS},
    **{
        f"{key} in its first stage": {**without(ROOT_FILE, key), "stages": [{**FIRST, key: ROOT_FILE[key]}, *LATER]}
        for key in ("sequence_length", "learning_rate")
    },
    "sequence_length in a later stage": {
        **without(ROOT_FILE, "sequence_length"),
        "stages": [FIRST, {**LATER[0], "sequence_length": 2048}],
    },
    **{
        f"{key} left out of its first stage": {**ROOT_FILE, "stages": [without(FIRST, key), *LATER]}
        for key in ("mixture", "batch")
    },
    "from another, with nothing else": {"from": "v1.1/basic", "stages": [{"name": "a", "until": "1.6T"}]},
}


@pytest.mark.parametrize("root", ROOTS)
def test_a_schema_asks_of_a_root_what_its_lineage_does(root: str) -> None:
    value = as_an_editor_reads(ROOTS[root])
    try:
        lineage(Project(ROOT).with_draft("mine", json.dumps(value)), "mine")
        accepted = True
    except ConfigError:
        accepted = False
    assert VALIDATORS["stages"].is_valid(value) == accepted


@pytest.mark.parametrize("rate", ["4e-4", "4E-4", "0.0004", "4_0e-5", "'4e-4'"])
@pytest.mark.parametrize("length", ["1_000", "1e3", "1k", "1000", "'1_000 tokens'", "+1000", "0x3e8"])
def test_every_way_to_write_a_number_is_a_number_to_both(rate: str, length: str) -> None:
    text = (
        f"from: a\nlearning_rate: {{shape: cosine, max: {rate}, min: 0, horizon: {length}}}\n"
        f"stages: [{{name: a, until: {length}}}]"
    )
    value = parse_yaml(text.encode(), "stages/a.yaml").value
    read = CurriculumFile.model_validate(value)
    assert read.learning_rate is not None
    assert float(read.learning_rate.max) == 4e-4
    assert read.stages[0].until is not None
    assert read.stages[0].until.amount == 1000
    VALIDATORS["stages"].validate(as_an_editor_reads(value))


# --- whatever the models accept, the schemas accept ------------------------------------------------------

WRITTEN = (
    *("a", "sotu", "v1.1", "no", "a text", "owner/name", "x" * 64, "reset", "restart", "auto", "tinyllama-1.1b"),
    *("1.5T", "6B", "6 B", " 24k ", "10_000", "1e9", "7", "2.0", "0.5", "4e-4", "5%", "5 %", "1e-6", "50%"),
    *("6B tokens", "2000 steps", "1 step", "896 sequences", "1.5k  sequence", "1_0e1 tokens", "896 -> 16"),
    *("kept", "x0.5", "train_*", "before + 0.02", "control", "20%..40%", "12T tokens", "domains@0001", "a from 0"),
    *("896->128 sequences", "24k tokens/s/gpu", "2 USD/gpu-hour", "0.5  USD/gpu-hour"),
)
NUMBERS = (Decimal("1e9"), Decimal("4e-4"), Decimal("2.0"), Decimal("1e-40"), 1, 2, 8, 300)
VALUES = (
    st.sampled_from(WRITTEN)
    | st.text("a1.BT%e_- >/", max_size=8)
    | st.integers(0, 10**18)
    | st.integers(1, 64)
    | st.decimals(0, 2, places=6)
    | st.booleans()
    | st.sampled_from(NUMBERS)
)


def entries_in(annotation: Any) -> list[type[Entry]]:
    """The entries that a field's type holds, however wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, Entry):
        return [annotation]
    return [found for part in typing.get_args(annotation) for found in entries_in(part)]


def words_in(annotation: Any) -> list[Any]:
    """The words of the Literals in a field's type."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [found for part in typing.get_args(annotation) for found in words_in(part)]


LEAST: dict[str, dict[str, Any]] = {
    "ProfileEntry": {"from_step": 20},
    "KubernetesEntry": {"image": "a", "volume": "a"},
    "RopeScaling": {"factor": 32, "original_max_position_embeddings": 8192},
    "YarnScaling": {"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 8192},
    "LinearScaling": {"rope_type": "linear", "factor": 4},
    # a root's many keys have a test of their own: no model refuses one without them, but the lineage does
    "CurriculumFile": {"from": "v1.1", "stages": [{"name": "a", "until": "2T"}]},
    "StageEntry": {"name": "a", "until": "2T"},
    "TrainerEntry": {"name": "mine", "run": ["python", "train.py"]},
    "SkipEntry": {"from": 1, "to": 2},
    "LeaveOutEntry": {"source": "a", "shard": 0},
    "LearningRateEntry": {"shape": "cosine", "max": 1, "min": 0, "horizon": "2T"},
    "BatchEntry": {"from": "8 sequences", "at": {"1B": "16 sequences"}},
    "AverageEntry": {"average": ["a", "b-2"]},
    "LastEntry": {"last": 5, "of": "a"},
    "PointEntry": {"at": "1B", "rate": 1},
    "OptimizerEntry": {"weight_decay": 0},
    "ModelNumbers": {
        **dict.fromkeys(("num_hidden_layers", "num_attention_heads", "num_key_value_heads"), 1),
        **dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 8),
    },
    "MixtureFile": {"weights": {"a": 1}},
    "StudyFile": {"for": "a/b", "vary": {"list": ["a", "b"]}, "goal": {"lower": {"b": 1}}},
    "GoalEntry": {"lower": {"b": 1}},
    "SwarmEntry": {"around": "a"},
    "ShareEntry": {"of": "a", "at": "5%"},
    "AddEntry": {"sources": "a", "share": "5%"},
    "AnnealEntry": {"to": 0},
    "ForecastEntry": {"shape": "cosine", "horizon": "2T"},
    "TableEntry": {"shares": "a.csv", "losses": "b.csv"},
    "SourcesFile": {"sources": {"a": {"read": {"folder": "a"}, "held_out": "5%"}}},
    "SourceEntry": {"read": {"folder": "a"}, "held_out": "5%"},
    "TokenizerEntry": {"path": "a", "vocab_size": 300},
    "ReadEntry": {"folder": "a"},
    "HeldOutEntry": {"share": "5%"},
    "SizesFile": {"a": {}},
    "MachinesFile": {"a": {}},
}
"""The least that must be written of what cannot be empty."""

_RATES: dict[str, Any] = {"max": 1, "min": Decimal("0.1"), "horizon": "2T"}
SHAPES: dict[str, list[dict[str, Any]]] = {
    "LearningRateEntry": [
        {"shape": "cosine", **_RATES},
        {"shape": "constant", "max": 1},
        {"shape": "wsd", "decay": "6B", **_RATES},
        {"shape": "wsd", "decay": "6B", "max": 1, "horizon": "2T", "decay_shape": "exponential", "half_life": "1B"},
        {"shape": "exponential", **_RATES},
        {"shape": "power", "max": 1, "warmup": "2000 steps", "horizon": "2T", "decay": "6B"},
        {"shape": "wsd-s", "max": 1, "min": Decimal("0.1"), "cycles": ["50B", "2T"], "decay": "6B"},
        {"shape": "points", "points": [{"at": "2000 steps", "rate": 1}, {"at": "1T", "rate": 0}]},
        {"shape": "decay", "min": 0, "decay": "6B"},
    ],
    "AverageEntry": [
        {"average": ["a", "b-2"]},
        {"average": ["a", "b-2"], "weights": [1, 2]},
        {"average": {"last": 5, "of": "a"}},
    ],
    "BatchEntry": [
        {"from": "8 sequences", "at": {"1B": "16 sequences"}},
        {"from": "8 sequences", "to": "16 sequences", "over": "1B", "in": 8},
    ],
}
"""Several ways to write the least, where one key decides which others there are."""


def accepts(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate(value)
    except ValidationError:
        return False
    return True


@cache
def values_of(model: type[BaseModel], key: str, annotation: Any) -> st.SearchStrategy[st.SearchStrategy[Any]]:
    """What may be tried as a key's value: of the written words those that it takes, entries, and anything."""
    least = LEAST.get(model.__name__, {})
    others = {k: v for k, v in least.items() if k not in getattr(model, "one_of", ())}
    pool = [*WRITTEN, *NUMBERS, *words_in(annotation), True, ["a", "b-2"], ["0.5", 0], {"a": 1}, {"a": ["b", 2]}]
    pool += [["6B", "7B"], [True, False], ["kept", "x0.5"], ["1 sequence", "2 sequences"]]
    taken = [v for v in pool if accepts(model, {**least, key: v}) or accepts(model, {**others, key: v})]
    names = st.sampled_from(["a", "sotu", "v1.1", "b-2"])
    values = [VALUES] + [st.sampled_from(taken)] * 4 * bool(taken)
    for inner in entries_in(annotation):
        nested = entries(inner)
        values += [nested, st.lists(nested, min_size=1, max_size=2), st.dictionaries(names, nested, max_size=2)]
    return st.sampled_from(values)


@cache
def names_in_any_order(model: type[BaseModel]) -> st.SearchStrategy[list[str]]:
    return st.permutations(list(model.model_fields))


@st.composite
def entries(draw: st.DrawFn, model: type[BaseModel]) -> dict[str, Any]:
    """An entry that `model` accepts: the least there can be, and of freely drawn keys those that it lets through."""
    entry = dict(LEAST.get(model.__name__, {}))
    if model.__name__ in SHAPES:
        entry = dict(draw(st.sampled_from(SHAPES[model.__name__])))
    if issubclass(model, RootModel):
        (inner,) = entries_in(model.model_fields["root"].annotation)
        return {draw(st.sampled_from(["a", "v1.1"])): draw(entries(inner))}
    for name in draw(names_in_any_order(model)):
        field = model.model_fields[name]
        key = field.alias or name
        more = {**entry, key: draw(draw(values_of(model, key, field.annotation)))}
        instead = {k: v for k, v in more.items() if k == key or k not in getattr(model, "one_of", ())}
        entry = next((attempt for attempt in (more, instead) if accepts(model, attempt)), entry)
    return entry


MODELS = sorted({*Entry.__subclasses__(), *json_schema.FILES.values()}, key=lambda model: model.__name__)


@pytest.mark.promise(
    "The JSON schemas for editors accept everything that the program accepts, and refuse what one file "
    "suffices to refuse except arithmetic; reference and key tables are generated from the code"
)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_what_a_model_accepts_its_schema_accepts(model: type[BaseModel]) -> None:
    validator = Draft7Validator(json_schema.schema_of(model))
    drawn: set[str] = set()

    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(entries(model))
    def check(value: Any) -> None:
        validator.validate(as_an_editor_reads(value))
        drawn.update(value)

    check()
    if not issubclass(model, RootModel):
        never = {field.alias or name for name, field in model.model_fields.items()} - drawn
        assert len(never) <= len(model.model_fields) // 3, f"never drawn: {never}"


@pytest.mark.promise(
    "The JSON schemas for editors accept everything that the program accepts, and refuse what one file "
    "suffices to refuse except arithmetic; reference and key tables are generated from the code"
)
def test_where_blanks_around_a_word_are_read_its_schema_accepts_them() -> None:
    """Of every key and every written word: random values have blanks around the right word of a key too seldom."""
    read = set()
    for model in MODELS:
        least, validator = LEAST.get(model.__name__, {}), Draft7Validator(json_schema.schema_of(model))
        others = {key: value for key, value in least.items() if key not in getattr(model, "one_of", ())}
        for name, field in model.model_fields.items() if not issubclass(model, RootModel) else ():
            for word in WRITTEN:
                entry = {**others, field.alias or name: f" {word.strip()} "}
                if accepts(model, entry):
                    read.add(word)
                    assert validator.is_valid(entry), (model.__name__, entry)
    assert len(read) > len(WRITTEN) // 2
