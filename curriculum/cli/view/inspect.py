"""The lines of `curriculum inspect`: format, size and documents of a token file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from curriculum.units import show_bytes, show_exact

FORMATS = {
    "datatrove": "datatrove's tokens (also nanotron's)",
    "megatron": "Megatron's .bin with its .idx",
    "packed": "a packed chunk (TinyLlama, lit-gpt)",
    "npy": "a NumPy array",
    "flat": "raw tokens (OLMo, nanoGPT)",
}


def inspection_lines(summary: Mapping[str, Any]) -> Iterator[str]:
    """One property a line; what the file does not state is marked as guessed."""
    yield summary["path"]
    if "prepared" in summary:
        yield from _prepared(summary["prepared"])
    if "kinds" not in summary:
        yield from _file(summary)
        return
    for kind in summary["kinds"]:
        yield _line("files", f"{kind['files']:,} of {FORMATS[kind['format']]}, {_width(kind)}")
        yield _line("tokens", show_exact(kind["tokens"]))
    for wrong in summary["wrong"]:
        yield _line("wrong", wrong["what"])
    yield ""
    yield summary["first"]["path"]
    yield from _file(summary["first"])


def _file(summary: Mapping[str, Any]) -> Iterator[str]:
    begin = f", from byte {summary['offset']} on" if summary["offset"] else ""
    yield _line("format", FORMATS[summary["format"]])
    yield _line("tokens", f"{show_exact(summary['tokens'])}, {_width(summary)}{begin}; {show_bytes(summary['bytes'])}")
    if summary["sequence_length"]:
        yield _line(
            "sequences", f"{summary['tokens'] // summary['sequence_length']:,} of {summary['sequence_length']:,}"
        )
    if summary["documents"] is None:
        yield _line("documents", "not known without the tokenizer's end-of-text token (`--tokenizer`)")
    else:
        part = "" if summary["documents_by"] == "its index" or summary["looked_at"] == summary["tokens"] else ", so far"
        yield _line("documents", f"{summary['documents']:,}, by {summary['documents_by']}{part}")
    if summary["filler"]:
        yield _line("filler", f"its last {summary['filler']:,} tokens are identical; they are not trained on")
    looked = "" if summary["looked_at"] == summary["tokens"] else f", in the first {summary['looked_at']:,}"
    yield _line("ids", f"{summary['smallest_id']} to {summary['largest_id']}{looked}")
    if "tokenizer" not in summary:
        return
    tokenizer = summary["tokenizer"]
    if not tokenizer["fits"]:
        yield _line("tokenizer", f"not this one: it has {tokenizer['vocab_size']:,} ids")
    elif tokenizer["agreement"] is not None:
        yield _line("tokenizer", f"{tokenizer['agreement']:.1%} of the text, encoded again, gives the same tokens")
    for sample in summary["samples"]:
        yield _line("sample", f"document {sample['document']}, from token {sample['token']:,}")
        yield f"    {json.dumps(sample['text'], ensure_ascii=False)}"


def _prepared(prepared: Mapping[str, Any]) -> Iterator[str]:
    tokenizer = prepared["tokenizer"]
    place = "digests of tokens in another folder" if prepared["in_place"] else "prepared text"
    yield _line("is", f"{place} of the source `{prepared['dataset']}`")
    yield _line("tokenizer", f"{tokenizer['name'] or 'unnamed'} {tokenizer['digest'][:12]}")
    special = ", ".join(
        f"{name.upper()} {'none' if number is None else number}" for name, number in prepared["policy"].items()
    )
    yield _line("special", special)
    for name, split in prepared["splits"].items():
        yield _line(name, f"{show_exact(split['tokens'])} tokens in {split['documents']:,} documents")


def _width(summary: Mapping[str, Any]) -> str:
    return f"{summary['dtype']} ({'guessed' if summary['guessed'] else 'stated'})"


def _line(name: str, value: str) -> str:
    return f"  {name:<10} {value}"
