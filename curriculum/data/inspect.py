"""The summary of a token file or folder: format, width, documents, and samples of its text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.data.listing import TOKEN_FILES, list_files
from curriculum.data.manifest import MANIFEST, Manifest
from curriculum.data.token_files import TokenFile, agreement, open_token_file
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import CurriculumError, DataError, NotFound

TOKENS_READ = 1 << 23
"""Tokens at a file's beginning that are read."""

CHARACTERS = 160


def inspect(path: Path, tokenizer: Tokenizer | None = None, samples: int = 3) -> dict[str, Any]:
    """Everything that `curriculum inspect` shows, as plain values; NotFound or DataError for other files."""
    if path.is_dir():
        return _folder(path, tokenizer, samples)
    if not path.exists():
        raise NotFound(f"there is no `{path}`", hint="give a token file, or a folder of them")
    manifest = _manifest(path.parent.parent) if path.suffix == ".ds" else None
    summary = _file(open_token_file(path), tokenizer, samples)
    return {**summary, "prepared": _prepared(manifest)} if manifest else summary


def _folder(folder: Path, tokenizer: Tokenizer | None, samples: int) -> dict[str, Any]:
    manifest = _manifest(folder)
    if manifest is not None and manifest.elsewhere:
        paths = sorted({Path(location.path) for location in manifest.elsewhere.values()})
    else:
        paths = [Path(file.path) for file in list_files({"tokenised": str(folder), "files": TOKEN_FILES})]
    kinds: dict[tuple[str, str, bool], dict[str, Any]] = {}
    wrong = []
    first: TokenFile | None = None
    for path in paths:
        try:
            file = open_token_file(path)
        except CurriculumError as error:
            wrong.append({"file": str(path), "what": error.what})
            continue
        first = first or file
        kind = kinds.setdefault(
            (file.format, file.dtype, file.guessed),
            {"format": file.format, "dtype": file.dtype, "guessed": file.guessed, "files": 0, "tokens": 0},
        )
        kind["files"] += 1
        kind["tokens"] += file.tokens
    if first is None:
        raise DataError(
            f"no file in `{folder}` holds tokens that can be read\n" + "\n".join(one["what"] for one in wrong[:8]),
            hint="name one file, or a folder of token files",
        )
    return {
        "path": str(folder),
        "files": len(paths),
        "kinds": list(kinds.values()),
        "wrong": wrong,
        "first": _file(first, tokenizer, samples),
        **({"prepared": _prepared(manifest)} if manifest else {}),
    }


def _file(file: TokenFile, tokenizer: Tokenizer | None, samples: int) -> dict[str, Any]:
    tokens = file.read(0, TOKENS_READ)
    eos = tokenizer.eos_id if tokenizer else None
    ends, by = file.document_ends(), "its index"
    if ends is None and eos is not None:
        assert tokenizer is not None
        ends, by = np.flatnonzero(tokens == eos) + 1, f"the mark {tokenizer.mark(eos)}"
    summary: dict[str, Any] = {
        "path": str(file.path),
        "format": file.format,
        "dtype": file.dtype,
        "guessed": file.guessed,
        "offset": file.offset,
        "bytes": file.size,
        "tokens": file.tokens,
        "sequence_length": file.sequence,
        "documents": None if ends is None else len(ends),
        "documents_by": None if ends is None else by,
        "filler": file.tokens - file.filler_from(eos),
        "looked_at": len(tokens),
        "largest_id": int(tokens.max(initial=-1)),
        "smallest_id": int(tokens.min(initial=0)),
    }
    if tokenizer is not None:
        if ends is None or not len(ends):  # sixteen equal parts instead of documents
            ends = np.unique(np.linspace(0, min(file.tokens, TOKENS_READ), 17).astype(np.int64)[1:])
        fits = summary["largest_id"] < tokenizer.vocab_size and summary["smallest_id"] >= 0
        summary["tokenizer"] = {
            "digest": tokenizer.digest,
            "vocab_size": tokenizer.vocab_size,
            "fits": fits,
            "agreement": agreement(file, ends, tokenizer) if fits else None,
        }
        summary["samples"] = _samples(file, ends, tokenizer, samples) if fits else []
    return summary


def _samples(file: TokenFile, ends: NDArray[np.int64], tokenizer: Tokenizer, samples: int) -> list[dict[str, Any]]:
    texts = []
    for at in sorted({len(ends) * number // samples for number in range(samples)}):
        first = int(ends[at - 1]) if at else 0
        ids = file.read(first, min(CHARACTERS, int(ends[at]) - first))
        text = tokenizer.decode(ids.tolist())
        texts.append({"token": first, "document": at, "tokens": int(ends[at]) - first, "text": text[:CHARACTERS]})
    return texts


def _manifest(folder: Path) -> Manifest | None:
    return Manifest.load(folder) if (folder / MANIFEST).is_file() else None


def _prepared(manifest: Manifest) -> Mapping[str, Any]:
    return {
        "dataset": manifest.dataset,
        "tokenizer": {"name": manifest.tokenizer.name, "digest": manifest.tokenizer.digest},
        "policy": asdict(manifest.policy),
        "digest": manifest.digest,
        "in_place": bool(manifest.elsewhere),
        "splits": {
            name: {
                key: value
                for key, value in asdict(split).items()
                if key in ("documents", "tokens", "filler", "dropped", "max_token")
            }
            for name, split in manifest.splits.items()
        },
    }
