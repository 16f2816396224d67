"""Recognises whose recipe some files are, by what they hold, and reads it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from curriculum.config.recipes import megatron, megatron_blend, nanotron, olmo_core, tinyllama
from curriculum.config.recipes.recipe import Recipe
from curriculum.config.recipes.shell import Flags, read_flags
from curriculum.config.yaml import Document, load_text, parse_yaml
from curriculum.errors import ConfigError, Place

_YAML: Final = (".yaml", ".yml", ".json")
_KNOWN: Final = (
    "what is read: nanotron's YAML with `data_stages`; Megatron-LM's flags, in a script, a file of arguments or YAML, "
    "and blend files; OLMo-core's YAML with `sources` and `target_ratio`; TinyLlama's script with `train_data_config`"
)


def read_recipe(files: Sequence[Path]) -> Recipe:
    """The recipe of one run's files; ConfigError for one that is not known, and for files of several trainers."""
    documents: dict[str, list[Document]] = {"nanotron": [], "OLMo-core": []}
    flags: list[Flags] = []
    blends: list[megatron_blend.BlendFile] = []
    scripts: list[Recipe] = []
    for path in files:
        file = str(path)
        text = load_text(path, file)
        document = parse_yaml(text.encode(), file) if path.suffix.lower() in _YAML else None
        if document is not None and nanotron.is_nanotron(document):
            documents["nanotron"].append(document)
        elif document is not None and olmo_core.is_olmo_core(document):
            documents["OLMo-core"].append(document)
        elif (blend := _blend(document, text, file)) is not None:
            blends.append(blend)
        elif path.suffix == ".py" and (recipe := tinyllama.read(text, file)) is not None:
            scripts.append(recipe)
        elif (launch := _flags(document, text, file)) is not None and path.suffix != ".py":
            flags.append(launch)
        else:
            raise _unknown(file, text)
    files_of: dict[str, Sequence[object]] = {**documents, "Megatron-LM": [*flags, *blends], "TinyLlama": scripts}
    trainers = [trainer for trainer, sources in files_of.items() if sources]
    if len(trainers) > 1 or len(scripts) > 1:
        shown = " and ".join(trainers) if len(trainers) > 1 else f"{len(scripts)} scripts of TinyLlama"
        raise ConfigError(
            f"the files are of {shown}: they cannot be one run",
            place=Place(str(files[-1]), 1),
            hint="give one at a time",
        )
    if documents["nanotron"]:
        return nanotron.read(documents["nanotron"])
    if documents["OLMo-core"]:
        return olmo_core.read(documents["OLMo-core"])
    return scripts[0] if scripts else megatron.read(flags, blends)


def _blend(document: Document | None, text: str, file: str) -> megatron_blend.BlendFile | None:
    return megatron_blend.of_text(text, file) if document is None else megatron_blend.of_document(document)


def _flags(document: Document | None, text: str, file: str) -> Flags | None:
    """The flags of a file in which there is one that makes a recipe."""
    flags = (
        read_flags(text, file, megatron.BLEND_FLAGS.__contains__)
        if document is None
        else megatron.flags_of_document(document)
    )
    distinctive = (*megatron.BLEND_FLAGS, *megatron.BLEND_FILES, "--seq-length")
    return flags if flags is not None and flags.first(*distinctive) is not None else None


def _unknown(file: str, text: str) -> ConfigError:
    lines = text.splitlines()
    number = next((number for number, line in enumerate(lines, 1) if line.strip() and line.lstrip()[0] != "#"), 1)
    shown = lines[number - 1] if lines else ""
    return ConfigError(f"{file} is no recipe that is known here", place=Place(file, number, 1, shown), hint=_KNOWN)
