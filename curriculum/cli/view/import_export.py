"""What an import found and what an export wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from curriculum.cli.view.tables import table
from curriculum.units import show_bytes, show_count, show_exact


def found_view(found: Mapping[str, Any]) -> RenderableType:
    """The model, weights and tokenizer of a Hugging Face directory; fits 80 columns."""
    model, tokenizer = found["model"], found["tokenizer"]
    tied = ", tied embeddings" if model["tie_word_embeddings"] else ""
    others = f", {len(found['dtypes'])} tensors of another" if found["dtypes"] else ""
    rows = [
        (
            "model",
            f"Llama, {show_exact(found['parameters'])} parameters ({show_count(found['parameters'])}){tied}",
        ),
        (
            "",
            f"{model['num_hidden_layers']} layers, width {show_exact(model['hidden_size'])}, "
            f"{model['num_attention_heads']} heads on {model['num_key_value_heads']}, "
            f"feed-forward {show_exact(model['intermediate_size'])}",
        ),
        ("positions", f"{show_exact(model['max_position_embeddings'])}, rotary with {found['rotary']}"),
        (
            "weights",
            f"{found['dtype']}{others}, {show_bytes(found['bytes'])} in {len(found['files'])} "
            f"file{'s' if len(found['files']) > 1 else ''}",
        ),
        (
            "tokenizer",
            f"{show_exact(tokenizer['ids'])} ids for {show_exact(model['vocab_size'])} rows, "
            f"documents end with {tokenizer['end_of_text'] or 'no mark that is known'}",
        ),
    ]
    if found["left_out"]:
        count = len(found["left_out"])
        rows.append(("left out", f"{count} tensor{'s' if count > 1 else ''}, as {found['left_out'][0]}"))
    drawn = table(("what", "left"), ("found", "left"))
    drawn.show_header = False
    for name, value in rows:
        drawn.add_row(Text(name, style="bold"), value)
    return drawn


def written_view(to: Path, address: str, dtype: str) -> RenderableType:
    """The files of an export, and how to load it."""
    drawn = table(("file", "left"), ("bytes", "right"))
    for path in sorted(to.iterdir()):
        drawn.add_row(path.name, show_exact(path.stat().st_size))
    return Group(
        Text(f"{address} in {dtype}: {to}"),
        drawn,
        Text(f'AutoModelForCausalLM.from_pretrained("{to}")', style="dim"),
    )
