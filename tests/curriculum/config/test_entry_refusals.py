"""What is refused in each file: every fault at its place with the way out, and no traceback whatever is written."""

from __future__ import annotations

import copy
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from entries import HEAD, NUMBERS, STAGES, refusal
from hypothesis import given, settings, strategies as st
from pydantic import BaseModel
from shipped import FILES

from curriculum.config import CurriculumFile, MachinesFile, MixtureFile, SizesFile, SourcesFile, fields, validate
from curriculum.config.yaml import Document, load_yaml
from curriculum.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]


def test_an_unknown_key_is_shown_with_the_one_that_was_meant() -> None:
    assert refusal(MixtureFile, "about: x\nweigths: {a: 1}\n").render() == (
        "error: this file has no key `weigths`\n"
        "  f.yaml:2:1\n"
        "  2 │ weigths: {a: 1}\n"
        "    │ ^\n"
        "hint: did you mean `weights`? there are: about, evidence, passes, take, weights"
    )


def test_no_length_is_suggested_that_would_be_refused_for_its_unit() -> None:
    stages = "stages:\n  - {name: a, until: 1T, batch: 40kb}\n"
    assert (refusal(CurriculumFile, stages).hint or "").startswith("a length is a number")
    stages = "stages:\n  - {name: a, until: 1T, ramp: 40kb}\n"
    assert (refusal(CurriculumFile, stages).hint or "").startswith("did you mean `40k`?")


def test_a_missing_key_is_shown_at_its_mapping_with_what_belongs_there() -> None:
    assert refusal(CurriculumFile, HEAD.replace("shape: cosine, ", "") + STAGES).render() == (
        "error: `learning_rate` lacks `shape`\n"
        "  f.yaml:6:16\n"
        "  6 │ learning_rate: {max: 4e-4, min: 4e-5, warmup: 2000 steps, horizon: 2T}\n"
        "    │                ^\n"
        "hint: add `shape:`, how the rate moves after the warm-up; as in `cosine`."
    )


def test_equal_learning_rates_are_shown_at_the_lower_one() -> None:
    assert refusal(CurriculumFile, HEAD.replace("min: 4e-5", "min: 4e-4") + STAGES).render() == (
        "error: `learning_rate.min` of 0.0004 is not below `max`, 0.0004\n"
        "  f.yaml:6:48\n"
        "  6 │ learning_rate: {shape: cosine, max: 4e-4, min: 4e-4, warmup: 2000 steps, horizon: 2T}\n"
        "    │                                                ^\n"
        "hint: a rate that stays is `shape: constant`; else one of the two is mistyped"
    )


def test_a_word_that_yaml_1_1_took_for_a_boolean_is_refused_as_the_text_it_is() -> None:
    assert refusal(MachinesFile, "m: {deterministic: no}").render() == (
        "error: `m.deterministic` must be true or false, not the text `no`\n"
        "  f.yaml:1:20\n"
        "  1 │ m: {deterministic: no}\n"
        "    │                    ^\n"
        "hint: write `true` or `false`, without quotes"
    )


def test_of_several_faults_the_first_in_the_file_is_shown() -> None:
    error = refusal(MixtureFile, "weights:\n  b: -1\n  a: x\nabout: 3\n")
    assert error.place is not None
    assert error.place.line == 2


# The fault is marked by what stands between « and »; the place is where that begins.
FAULTS: list[tuple[type[BaseModel], str, str, str]] = [
    (CurriculumFile, "«about»: x", "lacks `stages`", "add `stages:`"),
    (CurriculumFile, HEAD + "stages: «[]»", "is empty", "- {name:"),
    (CurriculumFile, HEAD + "stages:\n  «a»: {until: 1T}", "must be a list, not a mapping", "- "),
    (CurriculumFile, HEAD + "stages:\n  - «3»", "must be a mapping, not the number 3", "its keys are: name"),
    (CurriculumFile, HEAD + STAGES + "«form»: v1", "has no key `form`", "did you mean `from`?"),
    (CurriculumFile, HEAD + STAGES.replace("ba", "«rmap»: 6B, ba"), "`stages[0]` has no key `rmap`", "`ramp`"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "1T, «ramp»: "), "gives `ramp` no value", "leave the key out"),
    (CurriculumFile, HEAD + STAGES.replace("until: 1T, ", "").replace("{", "«{»"), "lacks one of", "`until: 2T`"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "1T, tokens: «3B»"), "one too many", "`tokens: 150B` a length"),
    (CurriculumFile, HEAD + STAGES + "  - {name: «a», until: 2T}", "is taken", "unique"),
    (CurriculumFile, HEAD + STAGES.replace(": a,", ": «../a»,"), "must be a name, not the text `../a`", "no `..`"),
    (CurriculumFile, HEAD + STAGES.replace(": m,", ": «a/b»,"), "`stages[0].mixture` must be a name", "a name is"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "«1X»"), "must be a length, not the text `1X`", "as in `1.5T`"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "«1.5»"), "must be a length, not the number 1.5", "1.5T"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "«-1»"), "must be a length", "1.5T"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "«0»"), "must be more than 0", "1.5T"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "«true»"), "must be a length, not `true`", "1.5T"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "«20 steps»"), "must be in tokens, not in steps", "1.5T"),
    (
        CurriculumFile,
        HEAD + STAGES.replace("8 sequences", "«8»"),
        "does not say its unit",
        "`8 sequences` or `8 tokens`",
    ),
    (CurriculumFile, HEAD + STAGES.replace("8 sequences", "«1.8M»"), "does not say its unit", "`1.8M sequences`"),
    (CurriculumFile, HEAD + STAGES.replace("8 sequences", "«8 steps»"), "not in steps", "896 sequences"),
    (CurriculumFile, "from: v\n" + STAGES.replace("1T", "1T, ramp: «2000»"), "does not say its unit", "2000 steps"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "1T, ramp: «6B»"), "nothing to continue from", "`from:`"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "1T, optimizer: «reset»"), "nothing to continue from", "`from:`"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "1T, positions: «restart»"), "nothing to continue from", "`from:`"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "1T, rewarm: «6B»"), "nothing to continue from", "`from:`"),
    (CurriculumFile, HEAD + STAGES.replace("1T", "1T, skip: [{from: 2B, to: «2B»}]"), "must be after `from`", "1.2T"),
    (CurriculumFile, HEAD.replace("seed: 1", "seed: «no»") + STAGES, "must be a whole number from 0", "3407"),
    (CurriculumFile, HEAD.replace("seed: 1", "seed: «-1»") + STAGES, "must be a whole number from 0", "3407"),
    (CurriculumFile, HEAD.replace("seed: 1", "seed: «true»") + STAGES, "must be a whole number from 0", "3407"),
    (CurriculumFile, HEAD.replace("th: 8", "th: «0»") + STAGES, "must be a whole number from 1", "2048"),
    (CurriculumFile, HEAD.replace("th: 8", "th: «3000000000»") + STAGES, "to 2,147,483,647", "2048"),
    (CurriculumFile, HEAD.replace("tinyllama-1.1b", "«tinylama»") + STAGES, "no model", "`tinyllama-1.1b`"),
    (CurriculumFile, HEAD.replace("tinyllama-1.1b", "«[1]»") + STAGES, "no model of the catalogue: a list", "there"),
    (CurriculumFile, HEAD.replace("tinyllama-1.1b", "«{hidden_size: 2}»") + STAGES, "lacks `num_hidden_layers`", "add"),
    (
        CurriculumFile,
        HEAD.replace("tinyllama-1.1b", NUMBERS.replace("heads: 4", "heads: «5»")) + STAGES,
        "does not cut a width of 64",
        "4 or 8 would do",
    ),
    (
        CurriculumFile,
        HEAD.replace("tinyllama-1.1b", NUMBERS.replace("heads: 2", "heads: «3»")) + STAGES,
        "does not divide 4 query heads",
        "2 or 4 would do",
    ),
    (CurriculumFile, HEAD.replace("max: 4e-4", "max: «high»") + STAGES, "must be a number above 0", "4e-4"),
    (CurriculumFile, HEAD.replace("max: 4e-4", "max: «-1»") + STAGES, "must be a number above 0", "4e-4"),
    (CurriculumFile, HEAD.replace("min: 4e-5", "min: «5e-4»") + STAGES, "is not below `max`", "constant"),
    (CurriculumFile, HEAD.replace("cosine", "«cosin»") + STAGES, "cannot be the text `cosin`", "`cosine`"),
    (CurriculumFile, HEAD.replace("cosine", "«[1]»") + STAGES, "cannot be a list", "constant, cosine, decay"),
    (CurriculumFile, HEAD.replace(", horizon: 2T", "").replace("{shape", "«{»shape") + STAGES, "`horizon`", "2T"),
    (CurriculumFile, HEAD.replace("cosine", "constant").replace("4e-5", "«4e-5»") + STAGES, "not supported", "leave"),
    (CurriculumFile, HEAD.replace("{shape: cosine", "«{»shape: wsd") + STAGES, "lacks `decay`", "200B"),
    (CurriculumFile, HEAD.replace("2T}", "2T, decay: «1T»}") + STAGES, "not supported with `shape: cosine`", "wsd"),
    (CurriculumFile, HEAD.replace("2000 steps", "«2000»") + STAGES, "does not say its unit", "`2000 steps`"),
    (CurriculumFile, HEAD.replace("0.1}", "0.1, betas: «[0.9]»}") + STAGES, "list of two numbers", "[0.9, 0.95]"),
    (CurriculumFile, HEAD.replace("0.1}", "0.1, betas: [0.9, «1.0»]}") + STAGES, "betas[1]` must be", "0.9"),
    (CurriculumFile, "- x", "must be a mapping, not a list", "begins with a key"),
    (CurriculumFile, "about: «2024»\n" + HEAD + STAGES, "must be text, not the number 2024", 'quotes: "2024"'),
    (CurriculumFile, "every: {checkpoint: «1000»}\n" + HEAD + STAGES, "does not say its unit", "`1000 steps`"),
    (MixtureFile, "weights: {a: «-1»}", "must be a number from 0 up, not the number -1", "75"),
    (MixtureFile, "weights: «{a: 0, b: 0.0}»", "gives no source any weight", "as in"),
    (MixtureFile, "weights: «{}»", "gives no source any weight", "as in"),
    (MixtureFile, "weights: {a: 1, b: «no»}", "not the text `no`", "75"),
    (MixtureFile, "weights: {a: 1, «b»: }", "must be a number from 0 up, not nothing", "75"),
    (MixtureFile, "weights: «[a]»", "must be a mapping, not a list", "name: value"),
    (MixtureFile, "weights: {a: 1, «B»: 1}", "`weights.B` must be a name", "a-z"),
    (MixtureFile, "weights: {code: 1}\npasses: {«cod»: 2}", "limits `cod`", "did you mean `code`?"),
    (MixtureFile, "weights: {a: 1}\npasses: {a: «0»}", "must be a number above 0, not", "4"),
    (MixtureFile, "«weights»:", "gives `weights` no value", "give it one"),
    (SourcesFile, "sources: {a: «{»read: {folder: x}}}", "`sources.a` lacks `held_out`", "`5%`"),
    (SourcesFile, "sources: {a: {read: {folder: «x», hub: a/b}, held_out: 5%}}", "one too many", "{folder:"),
    (SourcesFile, "sources: {a: {read: «{}», held_out: 5%}}", "lacks one of `hub`, `installed`", "{folder:"),
    (SourcesFile, "sources: {a: {read: «x», held_out: 5%}}", "must be a mapping, not the text `x`", "hub, inst"),
    (SourcesFile, "sources: {a: {read: {hub: «x»}, held_out: 5%}}", "must be a dataset of the hub", "cerebras/"),
    (SourcesFile, "sources: {a: {read: {stdlib: «false»}, held_out: 5%}}", "can only be true", "another"),
    (
        SourcesFile,
        "sources: {a: {read: {stdlib: true, files: «x»}, held_out: 5%}}",
        "not supported with `stdlib`",
        "hub",
    ),
    (
        SourcesFile,
        "sources: {a: {read: {folder: x, revision: «x»}, held_out: 5%}}",
        "not supported with `folder`",
        "hub",
    ),
    (SourcesFile, "sources: {a: {read: {folder: x, files: [a, «3»]}, held_out: 5%}}", "files[1]` must be text", '"3"'),
    (SourcesFile, "sources: {a: {read: {folder: x, files: «[]»}, held_out: 5%}}", "an empty list", "at least one"),
    (SourcesFile, "sources: {a: {read: {folder: x}, held_out: «5»}}", "at most 50%, not the number 5", "5%"),
    (SourcesFile, "sources: {a: {read: {folder: x}, held_out: «[1]»}}", "at most 50%, not a list", "5%"),
    (SourcesFile, "sources: {a: {read: {folder: x}, held_out: «{}»}}", "lacks one of `share`, `split`", "5%"),
    (SourcesFile, "sources: {a: {read: {folder: x}, held_out: {«spit»: v}}}", "no key `spit`", "`split`"),
    (SourcesFile, "sources: {a: {read: {folder: x}, held_out: 5%, drop: {c: [«1.5»]}}}", "value of the col", "text"),
    (SourcesFile, "sources: {a: {read: {folder: x}, held_out: 5%, tokens: «many»}}", "a whole number", "659B"),
    (SourcesFile, "sources: {a: {read: {folder: x}, held_out: 5%, extract: «all»}}", "cannot be", "chinese-docs"),
    (SourcesFile, "sources: {}\ntokenizers: {t: «{}»}", "lacks one of `path`, `train`", "tokenizer.json"),
    (SourcesFile, "sources: {}\ntokenizers: {t: «{train: [a]}»}", "lacks `vocab_size`", "4096"),
    (SourcesFile, "sources: {}\ntokenizers: {t: {train: [a], vocab_size: «256»}}", "256 bytes", "257"),
    (
        SourcesFile,
        "tokenizers: {t: {train: [code, «cod»], vocab_size: 257}}\nsources: {code: {read: {folder: x}, held_out: 5%}}",
        "is no source: `cod`",
        "did you mean `code`?",
    ),
    (SizesFile, "«full»:", "must be a mapping, not nothing", "an empty one is written `{}`"),
    (SizesFile, "r: {tokens: «2»}", "must be a number above 0, at most 1, not the number 2", "as in `1e-6`"),
    (SizesFile, "r: {tokens: «0»}", "must be a number above 0", "as in `1e-6`"),
    (SizesFile, "r: {batch: «896»}", "must say which batch becomes which", "896 -> 16 sequences"),
    (SizesFile, "r: {batch: «0 -> 3 sequences»}", "must say which batch becomes which", "896 -> 16 sequences"),
    (SizesFile, "r: {batch: «896 -> 16 steps»}", "must say which batch becomes which", "896 -> 16 sequences"),
    (SizesFile, "r: {learning_rate: {max: 1e-3, min: «1e-3»}}", "is not below `max`", "constant"),
    (SizesFile, "r: {learning_rate: {«shape»: wsd}}", "`r.learning_rate` has no key `shape`", "max, min"),
    (SizesFile, "r: {model: {hidden_size: 64, num_attention_heads: «64»}}", "heads of even size", "32 would do"),
    (SizesFile, "r: {at_least: {ramp: «20»}}", "does not say its unit", "`20 steps`"),
    (SizesFile, "r: {at_most: {evaluations: «0»}}", "must be a whole number from 1", "2048"),
    (SizesFile, "r: {stand_ins: {a: «B»}}", "`r.stand_ins.a` must be a name", "a-z"),
    (SizesFile, "«R»: {}", "`R` must be a name", "a-z"),
    (MachinesFile, "m: {nodes: «2»}", "cannot be 2 with launcher process", "slurm"),
    (MachinesFile, "m: {processes: «2»}", "cannot be 2 with launcher process", "torchrun"),
    (MachinesFile, "m: {launcher: «k8s»}", "cannot be the text `k8s`", "process, slurm, torchrun"),
    (MachinesFile, "m: {launcher: slurm, gpus_per_node: «four»}", "must be a whole number from 0", "4"),
    (MachinesFile, "m: {launcher: torchrun, gpus_per_node: 2, processes: «3»}", "more than 2 GPUs", "one process"),
    (MachinesFile, "m: {device: cpu, gpus_per_node: «2»}", "not supported with `device: cpu`", "leave one"),
    (MachinesFile, "m: {throughput: «24k»}", "must be in tokens/s/gpu", "24k tokens/s/gpu"),
    (MachinesFile, "m: {throughput: «0 tokens/s/gpu»}", "above 0", "24k tokens/s/gpu"),
    (MachinesFile, "m: {memory: «80»}", "must be an amount of memory above 0, not the number 80", "80GB"),
    (MachinesFile, "m: {memory: «0GB»}", "must be an amount of memory above 0", "80GB"),
    (MachinesFile, "m: {device: cpu, memory: «80GB»}", "not supported with `device: cpu`", "leave it out"),
    (MachinesFile, "m: {price: «2»}", "must be in USD/gpu-hour", "2 USD/gpu-hour"),
    (MachinesFile, "m: {compile: «no»}", "must be true, false or auto, not the text `no`", "auto"),
    (MachinesFile, "m: {precision: «fp16»}", "cannot be the text `fp16`", "bf16"),
]


@pytest.mark.parametrize(
    ("model", "marked", "what", "hint"), FAULTS, ids=[f"{fault[0].__name__} {fault[2]}" for fault in FAULTS]
)
def test_a_fault_is_refused_where_it_stands_with_the_way_out(
    model: type[BaseModel], marked: str, what: str, hint: str
) -> None:
    before = marked.split("«")[0] if "«" in marked else ""
    error = refusal(model, marked.replace("«", "").replace("»", ""))
    assert what in error.what.replace("\n", " ")
    assert hint in (error.hint or "").replace("\n", " ")
    assert error.place is not None
    assert (error.place.line, error.place.column) == (before.count("\n") + 1, len(before.split("\n")[-1]) + 1)
    fits(error)


def fits(error: ConfigError) -> None:
    """The whole refusal is shown: nothing of what it says is cut off."""
    assert all(len(line) <= 93 for text in (error.what, error.hint or "") for line in text.splitlines())
    shown = error.render().splitlines()
    assert len(shown) <= 24
    assert max(map(len, shown)) <= 100


def test_a_fault_inside_a_long_list_of_names_still_fits_a_screen() -> None:
    sources = "".join(f"  source-{'x' * 50}-{i}: {{read: {{folder: x}}, held_out: 5%}}\n" for i in range(300))
    error = refusal(SourcesFile, f"tokenizers: {{t: {{train: nowhere, vocab_size: 300}}}}\nsources:\n{sources}")
    fits(error)
    assert "is no source" in error.what


ANYTHING = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18), 10**18)
    | st.decimals(-(10**6), 10**6, places=4)
    | st.text("aB1.T%{}[]/-> _\n", max_size=12)
    | st.sampled_from(["auto", "1.5T", "6B", "2000 steps", "reset", "5%", "1e-6", "896 -> 16", "\x1b", "{x}", "%s"])
    | st.sampled_from([[], {}, [1], {"a": 1}, [[]], [{}], {"a": {"a": None}}, [None]])
)


@pytest.mark.promise("YAML is read as people mean it; no input at all gives a traceback (fuzzed)")
@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_whatever_is_put_anywhere_in_a_shipped_file_is_read_or_refused(name: str, data: st.DataObject) -> None:
    document = load_yaml(ROOT / name, root=ROOT)
    value = copy.deepcopy(document.value)
    owner: Any = value
    while True:
        keys = list(owner) if isinstance(owner, dict) else list(range(len(owner)))
        key = data.draw(st.sampled_from(keys))
        below = owner[key]
        if not isinstance(below, dict | list) or not below or data.draw(st.booleans()):
            break
        owner = below
    match data.draw(st.sampled_from(["replace", "remove", "add"])):
        case "replace":
            owner[key] = data.draw(ANYTHING)
        case "remove":
            del owner[key]
        case _ if isinstance(owner, dict):
            owner[data.draw(st.text("abB./{}% ", min_size=1, max_size=9))] = data.draw(ANYTHING)
        case _:
            owner.append(data.draw(ANYTHING))
    changed = Document(document.file, value, document.lines, *_places(document, value))
    try:
        validate(FILES[name], changed)
    except ConfigError as refused:
        error = refused
    else:
        return
    fits(error)
    assert error.hint
    assert error.place is not None


def _places(document: Document, value: Any) -> tuple[dict[Any, Any], dict[Any, Any]]:
    """A place for whatever the changed value holds, as reading it would have given."""
    found: dict[Any, Any] = {}

    def visit(path: tuple[str | int, ...], value: Any) -> None:
        found[path] = (0, 0)
        for key, item in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            visit((*path, key), item)

    visit((), value)
    return found, found


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no", "the text `no`"),
        ("a\n  b", "the text `a b`"),
        ("x" * 41, f"the text `{'x' * 39}…`"),
        (" ", "an empty text"),
        (False, "`false`"),
        (3, "the number 3"),
        (Decimal("1.10"), "the number 1.10"),
        (None, "nothing"),
        ([1], "a list"),
        ({}, "a mapping"),
    ],
)
def test_a_refused_value_is_shown_in_a_few_words(value: object, words: str) -> None:
    assert fields.describe(value) == words
