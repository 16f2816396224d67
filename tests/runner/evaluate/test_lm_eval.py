"""What is kept of lm-evaluation-harness's results, and how it refuses; the harness itself is not loaded."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from curriculum import fs
from curriculum.artifacts import jobs
from curriculum.errors import DataError, PlanError
from runner.evaluate import lm_eval


def sample(number: int, value: float, chosen: str = "none") -> dict[str, Any]:
    request = [(f"question {number}", " yes"), (f"question {number}", " no")]
    hashes = {"doc_hash": f"d{number}", "prompt_hash": "p", "target_hash": "t"}
    return {"doc_id": number, "arguments": request, **hashes, "filter": chosen, "acc": value}


FOUND: dict[str, Any] = {
    "results": {
        "quiz": {
            "alias": "quiz",
            "sample_len": 4,
            "acc,none": 0.5,
            "acc_stderr,none": 0.25,
            "acc,strict": 0.25,
            "acc_stderr,strict": "N/A",
            "perplexity,none": float("nan"),
        },
        "both": {"alias": "both"},
    },
    "group_subtasks": {"both": ["quiz"]},
    "configs": {
        "quiz": {"task": "quiz", "doc_to_text": "{{q}}", "num_fewshot": 2, "metadata": {"config_source": "/a"}}
    },
    "versions": {"quiz": 1.0},
    "n-shot": {"quiz": 2},
    "higher_is_better": {"quiz": {"acc": True}},
    "n-samples": {"quiz": {"original": 9, "effective": 2}},
    "samples": {"quiz": [sample(0, 1.0), sample(0, 0.0, "strict"), sample(1, 0.0), sample(1, 0.0, "strict")]},
}


def test_a_record_keeps_numbers_versions_shots_and_the_score_of_every_document() -> None:
    kept = lm_eval.summarise(FOUND)
    quiz = kept["tasks"]["quiz"]
    assert quiz["metrics"] == {
        "acc,none": {"value": 0.5, "error": 0.25, "higher_is_better": True},
        "acc,strict": {"value": 0.25, "error": None, "higher_is_better": True},
    }
    assert (quiz["version"], quiz["num_fewshot"], quiz["documents"], quiz["of"]) == (1.0, 2, 2, 9)
    assert (quiz["preferred"], quiz["per_document"]) == ("acc,none", [1.0, 0.0])
    assert kept["groups"] == {"both": {"members": ["quiz"], "metrics": {}, "preferred": None}}
    json.dumps(kept, allow_nan=False)


def test_a_record_knows_other_documents_and_another_prompt_but_not_where_the_file_lay() -> None:
    def changed(key: str, value: Any) -> dict[str, Any]:
        config = {**FOUND["configs"]["quiz"], key: value}
        return lm_eval.summarise({**FOUND, "configs": {"quiz": config}})["tasks"]["quiz"]

    quiz = lm_eval.summarise(FOUND)["tasks"]["quiz"]
    assert changed("metadata", {"config_source": "/b"})["definition"] == quiz["definition"]
    assert changed("doc_to_text", "{{other}}")["definition"] != quiz["definition"]
    fewer = {**FOUND, "samples": {"quiz": FOUND["samples"]["quiz"][2:]}}
    assert lm_eval.summarise(fewer)["tasks"]["quiz"]["digest"] != quiz["digest"]


@pytest.mark.parametrize(
    ("metrics", "chosen"),
    [
        (["acc,none", "acc_norm,none"], "acc_norm,none"),
        (["em,none", "f1,none"], "f1,none"),
        (["pass@1,create_test"], "pass@1,create_test"),
        (["exact_match,strict-match", "exact_match,flexible"], "exact_match,strict-match"),
        ([], None),
    ],
)
def test_one_metric_stands_for_a_task_as_the_harness_s_tables_have_it(metrics: list[str], chosen: str | None) -> None:
    assert lm_eval.preferred({key: {} for key in metrics}) == chosen


def test_a_document_without_one_number_leaves_no_list() -> None:
    odd = {**FOUND, "samples": {"quiz": [{**sample(0, 1.0), "acc": (1, 2)}]}}
    assert lm_eval.summarise(odd)["tasks"]["quiz"]["per_document"] is None


class Context:
    """A model of the harness with a context of 8 tokens, each a character."""

    max_length = 8

    def __init__(self) -> None:
        self.scored: list[Any] = []

    def tok_encode(self, text: str) -> list[int]:
        return list(map(ord, text))

    def tok_batch_encode(self, strings: list[str], left_truncate_len: int | None = None) -> list[str]:
        return [text[-(left_truncate_len or 0) :] for text in strings]

    def _loglikelihood_tokens(self, requests: list[Any], disable_tqdm: bool = False) -> None:
        self.scored += [(context + continuation)[-9:] for _, context, continuation in requests]


@pytest.mark.promise("Questions that were cut to fit the model's context are counted in the record and the tables")
def test_a_document_is_cut_when_one_of_its_requests_is_longer_than_the_context_and_the_token_it_predicts() -> None:
    model = Context()
    cut = lm_eval.record_cuts(model)
    texts = [("1234567", "89"), ("12345678", "9a"), ("", "123456789")]
    model._loglikelihood_tokens([(pair, list(pair[0]), list(pair[1])) for pair in texts], disable_tqdm=True)
    assert cut == {"123456789a"}
    assert list(map(len, model.scored)) == [9, 9, 9]
    assert model.tok_batch_encode(["12345", "123456"], left_truncate_len=5) == ["12345", "23456"]
    assert cut == {"123456789a", "123456"}
    model.tok_batch_encode(["123456789abcdef"])
    assert len(cut) == 2

    samples = [
        {**sample(0, 1.0), "arguments": [("12345678", "9"), ("12345678", "9a")]},
        {**sample(0, 1.0, "strict"), "arguments": [("12345678", "9a")]},
        {**sample(1, 1.0), "arguments": [("123456", {"until": ["."]})]},
        {**sample(2, 1.0), "arguments": [("1234567", "89")]},
    ]
    assert lm_eval.summarise({**FOUND, "samples": {"quiz": samples}}, cut)["tasks"]["quiz"]["cut"] == 2
    assert lm_eval.summarise(FOUND, cut)["tasks"]["quiz"]["cut"] == 0


@dataclass
class Entry:
    cfg: dict[str, Any] | None = None


INDEX = {
    "all": Entry({"group": "all", "task": ["quiz", {"group": "inner", "num_fewshot": 3}, {"task": "code"}]}),
    "inner": Entry({"group": "inner", "task": ["quiz", "gone", {"task": "here", "dataset_path": "json"}]}),
    "quiz": Entry({"task": "quiz"}),
    "code": Entry({"task": "code", "unsafe_code": True}),
}


def test_a_name_that_no_file_defines_is_found_however_deep_it_stands() -> None:
    assert lm_eval._undefined(INDEX, ["all", "nothing"]) == [("nothing", None), ("gone", "inner")]
    assert lm_eval._undefined(INDEX, ["quiz"]) == []


@pytest.mark.promise(
    "Scores are compared only with scores of the same task version, document by document; code that the "
    "model wrote runs only with consent"
)
def test_a_task_that_runs_the_model_s_code_wants_consent_also_inside_a_group() -> None:
    index = {**INDEX, "inner": Entry({"group": "inner", "task": ["quiz"]})}
    lm_eval._check_safe(index, ["quiz", "inner"])
    with pytest.raises(PlanError, match="`code` runs code that the model wrote") as refused:
        lm_eval._check_safe(index, ["all"])
    assert "--confirm-run-unsafe-code" in str(refused.value.hint)


def offline() -> None:
    try:
        raise ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)\nmore")
    except ConnectionError as error:
        raise FileNotFoundError("Dataset a/b is not cached") from error


def missing_file() -> None:
    raise FileNotFoundError("Unable to find '/x/quiz.jsonl'")


@pytest.mark.parametrize(
    ("fault", "what", "hint"),
    [
        (
            offline,
            r"the data of `quiz` is not available: Couldn't reach 'a/b' on the Hub \(OfflineModeIsEnabled\)",
            "HF_HOME",
        ),
        (missing_file, r"`quiz` cannot be loaded: FileNotFoundError: Unable to find '/x/quiz.jsonl'", "relative paths"),
    ],
)
def test_missing_data_is_reported_with_the_way_out(fault: Callable[[], None], what: str, hint: str) -> None:
    with pytest.raises(DataError, match=what) as refused, lm_eval._refusals("quiz"):
        fault()
    assert hint in str(refused.value.hint)


def job(tmp_path: Path) -> jobs.HarnessJob:
    return jobs.HarnessJob(
        attempt_folder=str(tmp_path), model="m", outputs={"quiz": str(tmp_path / "quiz.json")}, identity={}
    )


def test_without_the_harness_the_job_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PlanError, match="not installed") as refused:
        lm_eval.measure(job(tmp_path))
    assert "curriculum[eval]" in str(refused.value.hint)


def test_a_record_that_is_there_is_left_as_it_is(tmp_path: Path) -> None:
    fs.write_json(tmp_path / "quiz.json", {"kept": True})
    assert lm_eval.measure(job(tmp_path)) == {"outcome": jobs.DONE}
    assert json.loads((tmp_path / "quiz.json").read_bytes()) == {"kept": True}


def test_a_job_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = jobs.HarnessJob(
        attempt_folder="a", model="m", outputs={"quiz": "o"}, identity={"position": 4}, folders=("x", "y"), limit=3
    )
    jobs.save(written, tmp_path / "job.json")
    assert jobs.load(tmp_path / "job.json") == written
