"""The weights of a Hugging Face directory under our names: an index like that of our own checkpoints, and checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from curriculum.artifacts import huggingface
from curriculum.errors import DataError
from curriculum.plan.model import ModelConfig


def index_of(directory: huggingface.Directory) -> dict[str, Any]:
    """For each of our tensors its shape, and which of its rows are which `tensor` of which file.

    DataError where an output weight stored with a tied embedding is another tensor than the embedding.
    """
    if "lm_head.weight" in directory.left_out:
        _check_tied(directory)
    index: dict[str, Any] = {}
    for ours, theirs in ModelConfig.from_json(directory.model).fused_tensors().items():
        rows, shape, parts = 0, tuple[int, ...](), list[dict[str, Any]]()
        for name, shape in theirs.items():
            parts.append({"file": directory.tensors[name].file, "tensor": name, "rows": [rows, rows + shape[0]]})
            rows += shape[0]
        index[f"model.{ours}"] = {"shape": [rows, *shape[1:]], "parts": parts}
    return index


def read_rows(folder: Path, part: dict[str, Any], key: str, first: int, last: int) -> torch.Tensor:
    """Rows of a part of the tensor `key`, counted from the part's first; `part` is of `index_of` or of our own index.

    DataError where a number of another program's weights is not finite.
    """
    name = part.get("tensor", key)
    with safe_open(folder / part["file"], framework="pt") as file:
        rows: torch.Tensor = file.get_slice(name)[first:last]
    if "tensor" in part and not bool(torch.isfinite(rows).all()):
        raise DataError(
            f"`{folder}` cannot be imported: `{name}` holds numbers that are not finite",
            hint="weights with NaN or Inf cannot be trained further",
        )
    return rows


def _check_tied(directory: huggingface.Directory) -> None:
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    tensors = []
    for name, stored in ((embedding, directory.tensors[embedding]), (head, directory.left_out[head])):
        with safe_open(directory.folder / stored.file, framework="pt") as file:
            tensors.append(file.get_tensor(name).float())
    if not torch.equal(tensors[0], tensors[1]):
        raise DataError(
            f"`{directory.folder}` cannot be imported: its embeddings are tied, yet `{head}` is another tensor",
            hint=f"either `tie_word_embeddings: false` belongs in its {huggingface.CONFIG}, or `{head}` is stale",
        )
