"""The texts of a benchmark's items, as an evaluation reads them; the harness itself is not loaded."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from runner.evaluate.task_items import items


class Task:
    """A task with two documents, as far as `items` asks for it; `kind` is how its requests are answered."""

    task_name = "quiz"

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.config = SimpleNamespace(target_delimiter=" ", description="These are questions.\n")

    def set_config(self, key: str, value: Any) -> None:
        setattr(self.config, key, value)

    def doc_iterator(self) -> Any:
        return enumerate([{"q": "Who is", "a": ["she", "he"]}, {"q": "What is", "a": "it"}])

    def doc_to_prefix(self, document: Any) -> str:
        return ""

    def doc_to_target(self, document: Any) -> Any:
        return document["a"] if self.kind == "generate_until" else 0

    def fewshot_context(self, document: Any, num_fewshot: int, gen_prefix: str) -> str:
        assert num_fewshot == 0
        return f"{self.config.description}{document['q']}"

    def construct_requests(self, doc: Any, ctx: str, metadata: tuple[str, int, int]) -> Any:
        if self.kind == "generate_until":
            return SimpleNamespace(request_type=self.kind, args=(ctx, {"until": ["\n"]}))
        pairs = [(ctx, f" {answer}") for answer in doc["a"]] + [("", " she")]
        return [SimpleNamespace(request_type="loglikelihood", args=pair) for pair in pairs]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("generate_until", [["Who is she", "Who is he"], ["What is it"]]),
        ("multiple_choice", [["Who is she", "Who is he"], ["What is i", "What is t", " she"]]),
    ],
)
def test_an_item_is_its_prompt_with_each_answer_and_neither_examples_nor_the_task_s_description(
    kind: str, expected: list[list[str]]
) -> None:
    assert list(items(Task(kind))) == list(enumerate(expected))
