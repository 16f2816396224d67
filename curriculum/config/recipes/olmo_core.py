"""OLMo-core's source mixtures: `SourceMixtureList` as YAML, or a `SourceMixtureDatasetConfig` with it inside.

`target_ratio` is a share, `max_repetition_ratio` (else 1) the passes allowed. Stages are Python there and are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Final

from curriculum.config.recipes.recipe import Blend, Fact, Recipe, RecipeStage, Statement, Text, blend, fact, spelled
from curriculum.config.recipes.values import Values
from curriculum.config.yaml import Document, KeyPath
from curriculum.errors import ConfigError

_TOLERANCE: Final = Decimal("1.001e-5")
"""How far from 1 OLMo-core lets ratios add up: numpy's `allclose`."""


def is_olmo_core(document: Document) -> bool:
    return _path(document) is not None


def _path(document: Document) -> KeyPath | None:
    """Where the sources are listed."""
    value = document.value
    if not isinstance(value, dict):
        return None
    for path in (("sources",), ("source_list", "sources")):
        inside = value.get(path[0])
        inside = inside.get("sources") if len(path) > 1 and isinstance(inside, dict) else inside
        if isinstance(inside, list) and inside and all(isinstance(s, dict) and "target_ratio" in s for s in inside):
            return path
    return None


def read(documents: Sequence[Document]) -> Recipe:
    """One stage, whose length and batch are those of `requested_tokens` and `global_batch_size`, where stated."""
    if len(documents) > 1:
        raise ConfigError(
            f"{len(documents)} source mixtures are given, but nothing says how long each is trained on",
            place=documents[-1].place(()),
            hint="give one at a time; then put the stages into one file of stages/ and state their lengths",
        )
    (document,) = documents
    values, path = Values(documents), _path(document)
    assert path is not None
    notes: list[str] = []
    texts: dict[str, Text] = {}
    mixed = _blend(values, document, path, notes, texts)
    tokens, batch = values.get("requested_tokens"), values.get("global_batch_size")
    return Recipe(
        trainer="OLMo-core",
        files=(document.file,),
        stages=[
            RecipeStage(
                "main",
                Fact("") if tokens is None else fact(f"{tokens.integer():_} tokens", tokens),
                Fact("") if batch is None else fact(f"{batch.integer():_} tokens", batch),
                mixed,
            )
        ],
        texts=texts,
        root={},
        notes=[*notes, "the width of the tokens is not stated; preparation guesses it from the files"],
        left_out=values.left_out(),
    )


def _blend(values: Values, document: Document, path: KeyPath, notes: list[str], texts: dict[str, Text]) -> Blend:
    weighted: list[tuple[Text, Statement]] = []
    passes: dict[str, Fact] = {}
    listed = values.of(document, *path)
    assert listed is not None
    for number, source in enumerate(listed.value):
        name, ratio, repeated, paths = (
            values.of(document, *path, number, key)
            for key in ("source_name", "target_ratio", "max_repetition_ratio", "paths")
        )
        if name is None or ratio is None or paths is None or not isinstance(paths.value, list):
            raise ConfigError(
                "a source lacks `source_name`, `target_ratio` or a list of `paths`",
                place=document.place((*path, number)),
                hint="OLMo-core needs it too; add it there",
            )
        fraction = source.get("max_source_fraction", 1)
        if fraction == 1:
            values.of(document, *path, number, "max_source_fraction")
        text = _text(str(name.value), paths)
        if any(text.name == earlier.name for earlier, _ in weighted):
            raise name.refused(f"`{name.value}` is here for the second time", "a source's name is unique there")
        weighted.append((text, ratio))
        repeated = repeated or Statement("max_repetition_ratio", 1, None)
        passes[text.path] = fact(spelled(repeated.number()), repeated)
    mixed = blend(weighted, notes, texts)
    total = sum(mixed.shares().values(), Decimal(0))
    if abs(total - 1) > _TOLERANCE:
        raise listed.refused(
            f"have ratios that add up to {total}, not to 1", "OLMo-core refuses it as well: one of them is mistyped"
        )
    if total != 1:
        notes.append(f"{listed.origin}: ratios add up to {total}; a share is a ratio by that sum")
    return Blend(mixed.weights, {path: limit for path, limit in passes.items() if path in mixed.weights})


def _text(name: str, paths: Statement) -> Text:
    """The files of a source below the longest folder that they share."""
    split = [PurePosixPath(str(path)).parts for path in paths.value]
    shared = 0
    while all(
        shared < len(parts) - 1 and "*" not in parts[shared] and parts[shared] == split[0][shared] for parts in split
    ):
        shared += 1
    text = str(paths.value[0])
    folder = (
        "/".join(split[0][:shared]).replace(":/", "://") if "://" in text else str(PurePosixPath(*split[0][:shared]))
    )
    files = tuple(dict.fromkeys("/".join(parts[shared:]) for parts in split))
    return Text(name, {"tokenised": folder or ".", "files": files, "format": "flat"}, paths, name)
