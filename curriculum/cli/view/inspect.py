"""What `curriculum inspect` says of a token file, in lines that fit a screen."""

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
    "flat": "tokens and nothing else (OLMo, nanoGPT)",
}


def inspection_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """One fact a line; what the file does not state is said to be guessed."""
    yield found["path"]
    if "prepared" in found:
        yield from _prepared(found["prepared"])
    if "kinds" not in found:
        yield from _file(found)
        return
    for kind in found["kinds"]:
        yield _line("files", f"{kind['files']:,} of {FORMATS[kind['format']]}, {_width(kind)}")
        yield _line("tokens", show_exact(kind["tokens"]))
    for wrong in found["wrong"]:
        yield _line("wrong", wrong["what"])
    if "first" in found:
        yield ""
        yield found["first"]["path"]
        yield from _file(found["first"])


def _file(found: Mapping[str, Any]) -> Iterator[str]:
    begin = f", from byte {found['offset']} on" if found["offset"] else ""
    yield _line("format", FORMATS[found["format"]])
    yield _line(
        "tokens", f"{show_exact(found['tokens'])}, {_width(found)}{begin}; {show_bytes(found['bytes'])}"
    )
    if found["sequence_length"]:
        yield _line(
            "sequences", f"{found['tokens'] // found['sequence_length']:,} of {found['sequence_length']:,}"
        )
    if found["documents"] is None:
        yield _line("documents", "not told apart without the tokenizer's mark (`--tokenizer`)")
    else:
        part = (
            ""
            if found["documents_by"] == "its index" or found["looked_at"] == found["tokens"]
            else ", so far"
        )
        yield _line("documents", f"{found['documents']:,}, by {found['documents_by']}{part}")
    if found["filler"]:
        yield _line(
            "filler", f"its last {found['filler']:,} tokens are one and the same; they are not trained on"
        )
    looked = "" if found["looked_at"] == found["tokens"] else f", in the first {found['looked_at']:,}"
    yield _line("ids", f"{found['smallest_id']} to {found['largest_id']}{looked}")
    if "tokenizer" not in found:
        return
    told = found["tokenizer"]
    if not told["fits"]:
        yield _line("tokenizer", f"not this one: it has {told['vocab_size']:,} ids")
    elif told["agreement"] is not None:
        yield _line("tokenizer", f"{told['agreement']:.1%} of the text, encoded again, gives the same tokens")
    for sample in found["samples"]:
        yield _line("sample", f"document {sample['document']}, from token {sample['token']:,}")
        yield f"    {json.dumps(sample['text'], ensure_ascii=False)}"


def _prepared(prepared: Mapping[str, Any]) -> Iterator[str]:
    tokenizer = prepared["tokenizer"]
    place = "digests of tokens that lie elsewhere" if prepared["in_place"] else "prepared text"
    yield _line("is", f"{place} of the source `{prepared['dataset']}`")
    yield _line("tokenizer", f"{tokenizer['name'] or 'unnamed'} {tokenizer['digest'][:12]}")
    marks = ", ".join(
        f"{name.upper()} {'none' if number is None else number}"
        for name, number in prepared["policy"].items()
    )
    yield _line("marks", marks)
    for name, split in prepared["splits"].items():
        yield _line(name, f"{show_exact(split['tokens'])} tokens in {split['documents']:,} documents")


def _width(found: Mapping[str, Any]) -> str:
    return f"{found['dtype']} ({'guessed' if found['guessed'] else 'stated'})"


def _line(name: str, value: str) -> str:
    return f"  {name:<10} {value}"
