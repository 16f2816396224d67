"""A source that asks for a special token which its tokenizer lacks is refused before a job is started."""

from __future__ import annotations

from pathlib import Path

import lineages
import pytest
from tokenizers import Tokenizer, models

from curriculum.compiler.prepared_text import PreparedText, check_special_tokens
from curriculum.errors import DataError


@pytest.mark.parametrize(
    ("vocabulary", "keys", "says"),
    [
        ({"</s>": 0, "a": 1}, "", None),
        ({"</s>": 0, "a": 1}, ", bos: true", "`bos: true` of `b`"),
        ({"<bos>": 0, "a": 1}, ", bos: true", "`eos: true` of `b`"),
        ({"<bos>": 0, "a": 1}, ", bos: true, eos: false", None),
        (None, ", bos: true", "`bos: true` of `b`"),
        (None, "", None),
    ],
)
def test_a_special_token_that_the_tokenizer_lacks_is_refused_at_its_key(
    tmp_path: Path, vocabulary: dict[str, int] | None, keys: str, says: str | None
) -> None:
    """Of a tokenizer that is there, and of one that `prepare` trains."""
    sources = lineages.BASE["sources.yaml"].replace("tokens: 148", f"tokens: 148{keys}")
    sources = sources.replace("{folder: a}, held_out: 25%", "{folder: a}, held_out: 25%, eos: false")
    if vocabulary is not None:
        sources = sources.replace("{train: [a], vocab_size: 300}", "{path: tokenizer.json}")
        inner = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
        inner.save(str(tmp_path / "tokenizer.json"))
    project = lineages.project_of({"sources.yaml": sources}, tmp_path)
    texts = PreparedText.open(project, "root", "full")
    if says is None:
        check_special_tokens(texts)
        return
    with pytest.raises(DataError, match=says) as refused:
        check_special_tokens(texts)
    place = refused.value.place
    assert place is not None
    assert place.file == "sources.yaml"
    assert place.line == 5
    assert refused.value.hint is not None
    assert says[1:4] + ": false" in refused.value.hint
