"""What a Hugging Face directory of a model holds, checked before it is used. No tensors here.

A directory is refused, by name, for whatever would run code when it is opened and for whatever our model would
compute differently.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.artifacts.huggingface import families, keys, mismatch
from curriculum.artifacts.huggingface.files import (
    CARRIED,
    CONFIG,
    LICENCES,
    TOKENIZER,
    Tensor,
    inside,
    read_json,
    refused,
    stored_tensors,
)
from curriculum.artifacts.huggingface.places import key_place
from curriculum.errors import DataError
from curriculum.plan.model import ModelConfig

NOT_WEIGHTS = ".rotary_emb.inv_freq"
"""The end of the names of tables that older directories store and that every reader computes itself."""

_NO_CODE = "models are read by their numbers alone, and no code of theirs is run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory that was found sound. `model` holds its numbers under Hugging Face's key names."""

    folder: Path
    config: Mapping[str, Any]
    model: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    left_out: Mapping[str, Tensor]
    carried: tuple[str, ...]

    @property
    def unread(self) -> tuple[str, ...]:
        """Notes on its configuration: keys that no class reads, and what our training does not do."""
        kind = str(self.config["model_type"])
        lines = []
        for key in keys.unread(kind, self.config):
            place, similar = key_place(self.folder / CONFIG, (key,)), keys.resembled(kind, key)
            lines.append(
                f"`{key}` in line {place.line if place else 1} of its {CONFIG} changes no logits: neither "
                f"{families.FAMILIES[kind].architecture} of transformers nor our model reads it"
                + (f"; `{similar}` is read" if similar else "")
            )
        if self.config.get("attention_dropout"):
            lines.append(f"`attention_dropout: {self.config['attention_dropout']}`: training here has no dropout")
        return tuple(lines)

    @property
    def weight_files(self) -> tuple[str, ...]:
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))

    @property
    def identity_files(self) -> tuple[str, ...]:
        """The files whose bytes decide what is imported."""
        return (CONFIG, *(name for name in self.carried if name == TOKENIZER), *self.weight_files)

    @property
    def parameters(self) -> int:
        return ModelConfig.from_json(self.model).parameters

    @property
    def weight_bytes(self) -> int:
        return sum((self.folder / file).stat().st_size for file in self.weight_files)

    @property
    def dtype(self) -> str:
        """The dtype of most parameters."""
        counted: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counted[tensor.dtype] += math.prod(tensor.shape)
        return counted.most_common(1)[0][0]

    @property
    def dtypes(self) -> dict[str, str]:
        """The tensors of another dtype than most, by name."""
        return {name: t.dtype for name, t in sorted(self.tensors.items()) if t.dtype != self.dtype}


def read(folder: Path, *, with_tokenizer: bool = True) -> Directory:
    """Check the directory and say what it holds; DataError names the first thing that keeps it from being used."""
    if not folder.is_dir():
        raise DataError(
            f"`{folder}` is not a directory",
            hint="`hf:` is followed by a directory on this machine, from the project's folder or absolute",
        )
    code = sorted(path.name for path in folder.glob("*.py"))
    if code:
        raise refused(folder, f"it brings code of its own, `{code[0]}`", _NO_CODE)
    names = sorted(path.name for path in folder.iterdir())
    carried = tuple(name for name in names if name in CARRIED or name.startswith(LICENCES))
    for name in carried:
        if name.endswith(".json") and "auto_map" in read_json(folder, name):
            place = key_place(folder / name, ("auto_map",))
            raise refused(folder, f"`auto_map` in its `{name}` asks for code of its own", _NO_CODE, place)
        inside(folder, name)
    config = read_json(folder, CONFIG)
    model = families.model_of(folder, config)
    if with_tokenizer and TOKENIZER not in carried:
        raise refused(
            folder,
            f"it has no `{TOKENIZER}`",
            "transformers writes one: `AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)`",
        )
    stored = stored_tensors(folder)
    shapes = ModelConfig.from_json(model).shapes()
    left_out = {name: tensor for name, tensor in stored.items() if name not in shapes and _is_left_out(name, model)}
    mismatch.check(folder, config, model, {name: stored[name] for name in stored.keys() - left_out.keys()})
    return Directory(
        folder=folder,
        config=config,
        model=model,
        tensors={name: stored[name] for name in shapes},
        left_out=left_out,
        carried=carried,
    )


def _is_left_out(name: str, model: Mapping[str, Any]) -> bool:
    """Whether a stored tensor that our model has not may be there: what a reader computes, and a tied output weight."""
    return name.endswith(NOT_WEIGHTS) or (name == "lm_head.weight" and model["tie_word_embeddings"])
