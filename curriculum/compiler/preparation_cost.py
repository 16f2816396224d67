"""The cost of text that is not prepared yet: core-hours and disk, by what a sample or another preparation measured."""

from __future__ import annotations

from typing import Any

from curriculum.compiler.prepared_text import PreparedText
from curriculum.data.listing import kind_of
from curriculum.data.preparation_rate import rates


def preparation_costs(texts: PreparedText) -> list[dict[str, Any]]:
    """A row for each dataset of the lineage that is not prepared, as JSON values (docs/plan-json.md).

    Its tokens are those that sources.yaml declares, else the sample's, in proportion to the files' bytes. The rate is
    that of its own sample, else of the largest text that was measured with the same tokenizer. None for what is not
    known. Nothing for tokens that are read in place, or while there is no tokenizer.
    """
    tokenizer = texts.loaded_tokenizer
    missing = [dataset for dataset in texts.datasets() if texts.manifest(dataset) is None]
    if tokenizer is None or not missing:
        return []
    measured = [(key, rate) for key, rate in rates(texts.project.data / "rates") if rate.tokenizer == tokenizer.digest]
    others = sorted((rate for _, rate in measured if rate.tokens), key=lambda rate: rate.tokens)
    rows: list[dict[str, Any]] = []
    for dataset in missing:
        source = texts.project.sources.sources[dataset]
        if kind_of(source.read_options()) == "tokenised":
            continue
        key = texts.folder(dataset).name
        own = next((rate for name, rate in measured if (name, rate.dataset) == (key, dataset)), None)
        rate = own or (others[-1] if others else None)
        tokens = source.tokens or (own.expected_tokens if own else None)
        rows.append(
            {
                "dataset": dataset,
                "tokens": tokens,
                "declared": source.tokens is not None,
                "core_hours": rate.core_seconds * tokens / rate.tokens / 3600 if rate and tokens else None,
                "disk_bytes": rate.disk_bytes * tokens // rate.tokens if rate and tokens else None,
                "measured_on": rate.dataset if rate else None,
                "measured_tokens": rate.tokens if rate else None,
                "whole": rate.whole if rate else None,
                "tokens_a_core_second": rate.tokens / rate.core_seconds if rate and rate.core_seconds else None,
                "encoder": rate.encoder if rate else None,
            }
        )
    return rows
