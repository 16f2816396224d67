"""Tokenizers of a project: the file of each, and the request that trains or converts it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from curriculum import config, fs
from curriculum.artifacts import huggingface
from curriculum.config.layout import PREFIX, directory_of
from curriculum.config.project import Project
from curriculum.data import sentencepiece
from curriculum.data.requests import TokenizerRequest
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError, NotFound, did_you_mean


def tokenizer_file(project: Project, name: str) -> Path:
    """The `tokenizer.json` that `name` is bound to: a file of the project or an import, or one trained from text."""
    if name.startswith(PREFIX):
        return directory_of(project.root, name) / huggingface.TOKENIZER
    entry = project.sources.tokenizers[name]
    folder = project.data / "tokenizers"
    if entry.path is not None:
        model, published = _files(project.root / entry.path)
        if model is None:
            return published
        recipe = fs.sha256_file(model) + (fs.sha256_file(published) if published.is_file() else "")
        return folder / f"{name}-{fs.digest(recipe)[:8]}" / "tokenizer.json"
    recipe = fs.digest({"reads": _reads(project, entry), "vocab_size": entry.vocab_size})
    return folder / f"{name}-{recipe[:8]}" / "tokenizer.json"


def _files(path: Path) -> tuple[Path | None, Path]:
    """The SentencePiece model at `path`, if it is one or holds one, and the `tokenizer.json` next to it."""
    if path.is_dir():
        model = path / "tokenizer.model"
        return (model if model.is_file() else None), path / "tokenizer.json"
    if path.suffix == ".model" and path.is_file():
        return path, path.with_name("-")  # the file itself was named: its directory is not looked at
    return None, path


def tokenizer_request(project: Project, name: str) -> TokenizerRequest | None:
    """The request that makes tokenizer `name`; None when its file exists, DataError when it cannot be made."""
    path = tokenizer_file(project, name)
    if path.is_file():
        return None
    entry = project.sources.tokenizers[name]
    if entry.path is not None:
        model, published = _files(project.root / entry.path)
        if model is not None:
            return TokenizerRequest(
                output=str(path), sentencepiece=str(model), published=str(published) if published.is_file() else None
            )
        raise DataError(
            f"tokenizer `{name}` is bound to `{entry.path}`, which is not there",
            place=project.sources_document.place(("tokenizers", name, "path")),
            hint="put a `tokenizer.json` or `tokenizer.model` there, or bind the name to another file in sources.yaml",
        )
    assert entry.vocab_size is not None
    return TokenizerRequest(
        name=name, reads=_reads(project, entry), vocab_size=entry.vocab_size, output=str(path), root=str(project.root)
    )


def named_tokenizer(word: str) -> Tokenizer:
    """The tokenizer at the path `word` (a file, or its folder), or else the one of that name in sources.yaml."""
    if Path(word).exists():
        model, path = _files(Path(word))
        if model is not None and not path.is_file():
            return Tokenizer.from_bytes(sentencepiece.convert(model), str(model))
        return Tokenizer.load(path)
    project = Project.find()
    if word not in project.sources.tokenizers:
        raise NotFound(f"no tokenizer is called `{word}`", hint=did_you_mean(word, project.sources.tokenizers))
    path = tokenizer_file(project, word)
    if not path.is_file():
        raise DataError(
            f"the tokenizer `{word}` is not there yet: `{path}`",
            hint="`curriculum prepare` of a curriculum that uses it makes it",
        )
    return Tokenizer.load(path)


def _reads(project: Project, entry: config.TokenizerEntry) -> dict[str, dict[str, Any]]:
    reads = {}
    for dataset in entry.train or ():
        source = project.sources.sources[dataset]
        extra = {"text": source.read.text, "extract": source.extract}
        reads[dataset] = {**source.read_options(), **{key: value for key, value in extra.items() if value is not None}}
    return reads
