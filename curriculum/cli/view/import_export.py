"""The tables of `import` and `export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view.tables import table
from curriculum.units import show_bytes, show_count, show_exact


def model_view(summary: Mapping[str, Any]) -> RenderableType:
    """The model, weights and tokenizer of a Hugging Face directory; fits 80 columns."""
    model, tokenizer = summary["model"], summary["tokenizer"]
    tied = ", tied embeddings" if model["tie_word_embeddings"] else ""
    others = f", {len(summary['dtypes'])} tensors of another" if summary["dtypes"] else ""
    rows = [
        (
            "model",
            f"{summary['family']}, {show_exact(summary['parameters'])} parameters "
            f"({show_count(summary['parameters'])}){tied}",
        ),
        (
            "",
            f"{model['num_hidden_layers']} layers, width {show_exact(model['hidden_size'])}, "
            f"{model['num_attention_heads']} heads on {model['num_key_value_heads']}, "
            f"feed-forward {show_exact(model['intermediate_size'])}",
        ),
        ("positions", f"{show_exact(model['max_position_embeddings'])}, rotary with {summary['rotary']}"),
        (
            "weights",
            f"{summary['dtype']}{others}, {show_bytes(summary['bytes'])} in {len(summary['files'])} "
            f"file{'s' if len(summary['files']) > 1 else ''}",
        ),
        (
            "tokenizer",
            f"{show_exact(tokenizer['ids'])} ids for {show_exact(model['vocab_size'])} rows, "
            f"documents end with {tokenizer['end_of_text'] or 'no known end-of-text token'}",
        ),
    ]
    if summary["left_out"]:
        count = len(summary["left_out"])
        rows.append(("left out", f"{count} tensor{'s' if count > 1 else ''}, as {summary['left_out'][0]}"))
    drawn = table("what", "value", rows=((Text(name, style="bold"), value) for name, value in rows))
    drawn.show_header = False
    return drawn


def written_view(to: Path, address: str, dtype: str) -> RenderableType:
    """The files of an export, and how to load it."""
    drawn = table(
        "file", "#bytes", rows=((path.name, show_exact(path.stat().st_size)) for path in sorted(to.iterdir()))
    )
    return Group(
        Text(f"{address} in {dtype}: {to}"), drawn, Text(f'AutoModelForCausalLM.from_pretrained("{to}")', style="dim")
    )
