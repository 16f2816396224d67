"""Whether the tokenizer's file is the one that the started stages and the prepared text of a lineage were made with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from curriculum.artifacts.stage_folder import StageFolder
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.tokenizers import tokenizer_file
from curriculum.config.layout import PREFIX
from curriculum.data.manifest import MANIFEST, Manifest
from curriculum.errors import CurriculumError, DataError
from curriculum.plan.stage import StagePlan


def check_tokenizer(texts: PreparedText) -> None:
    """DataError that names the file where it is another one than a started stage or prepared text was made with.

    A file that is not there is none: `prepare` makes it. One that is the project's own may be exchanged until a stage
    has started; one that was made from text may not once that text is prepared.
    """
    loaded = texts.loaded_tokenizer
    if loaded is None:
        return
    for user, digest in (*trained_with(texts), *_prepared_with(texts)):
        if digest is not None and digest != loaded.digest:
            path = tokenizer_file(texts.project, texts.curriculum.tokenizer)
            raise DataError(
                f"the tokenizer `{path}` is not the one that {user} was made with: the SHA-256 of that was "
                f"{digest[:12]}…, and of this one it is {loaded.digest[:12]}…",
                place=texts.tokenizer_place,
                hint=texts.tokenizer_way_out,
            )


def trained_with(texts: PreparedText) -> Iterator[tuple[str, str | None]]:
    """The started stages of the lineage, root first, each with the digest of the tokenizer in its stored plan."""
    for stage in texts.curriculum.stages:
        setting = stage.setting
        folder = StageFolder.open(
            texts.project.stage_folder(texts.curriculum.size_name, setting.curriculum, setting.stage)
        )
        with contextlib.suppress(CurriculumError):  # `verify` and `run` tell of a plan that cannot be read
            if folder.plan.exists():
                yield f"`{folder.name}`", StagePlan.load(folder.plan).tokenizer.get("digest")


def _prepared_with(texts: PreparedText) -> Iterator[tuple[str, str]]:
    """Folders of the same recipe, made with another file of a tokenizer that is itself made from text."""
    name, project = texts.curriculum.tokenizer, texts.project
    if name.startswith(PREFIX) or project.sources.tokenizers[name].path is not None:
        return
    for dataset in texts.datasets():
        folder = texts.folder(dataset)
        if (folder / MANIFEST).exists():
            continue
        for other in sorted(folder.parent.glob(f"*-{folder.name.partition('-')[2]}")):
            with contextlib.suppress(CurriculumError):
                tokenizer = Manifest.load(other).tokenizer
                if tokenizer.name == name:
                    yield f"the prepared text `{other}`", tokenizer.digest
