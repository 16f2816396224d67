"""What a token file or a folder of them is: format, width, documents, and pieces of it as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.data.listing import TOKEN_FILES, list_files
from curriculum.data.manifest import MANIFEST, Manifest
from curriculum.data.token_files import TokenFile, agreement, open_token_file
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import CurriculumError, NotFound

LOOKED_AT = 1 << 23
"""Tokens at a file's beginning that are looked at: what is counted beyond would take long to say."""

CHARACTERS = 160


def inspect(path: Path, tokenizer: Tokenizer | None = None, samples: int = 3) -> dict[str, Any]:
    """Everything that `curriculum inspect` shows, as plain values. NotFound or DataError when it is no token file."""
    if path.is_dir():
        return _folder(path, tokenizer, samples)
    if not path.exists():
        raise NotFound(f"there is no `{path}`", hint="a token file is wanted, or a folder of them")
    own = _own_manifest(path.parent.parent) if path.suffix == ".ds" else None
    found = _file(open_token_file(path), tokenizer, samples)
    if own is not None:
        found["prepared"] = _prepared(own)
    return found


def _folder(folder: Path, tokenizer: Tokenizer | None, samples: int) -> dict[str, Any]:
    own = _own_manifest(folder)
    listed: Sequence[Path]
    if own is not None and own.elsewhere:
        listed = sorted({Path(at.path) for at in own.elsewhere.values()})
    else:
        names = [
            Path(file.path) for file in list_files({"tokenised": str(folder), "files": list(TOKEN_FILES)})
        ]
        listed = names
    kinds: dict[tuple[str, str, bool], dict[str, Any]] = {}
    wrong = []
    first: TokenFile | None = None
    for path in listed:
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
    return {
        "path": str(folder),
        "files": len(listed),
        "kinds": list(kinds.values()),
        "wrong": wrong,
        **({"first": _file(first, tokenizer, samples)} if first else {}),
        **({"prepared": _prepared(own)} if own else {}),
    }


def _file(file: TokenFile, tokenizer: Tokenizer | None, samples: int) -> dict[str, Any]:
    looked = file.read(0, LOOKED_AT)
    eos = tokenizer.eos_id if tokenizer else None
    ends, by = file.stated_ends(), "its index"
    if ends is None and eos is not None:
        assert tokenizer is not None
        ends, by = np.flatnonzero(looked == eos) + 1, f"the mark {tokenizer.mark(eos)}"
    found: dict[str, Any] = {
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
        "looked_at": len(looked),
        "largest_id": int(looked.max(initial=-1)),
        "smallest_id": int(looked.min(initial=0)),
    }
    if tokenizer is not None:
        fits = found["largest_id"] < tokenizer.vocab_size and found["smallest_id"] >= 0
        found["tokenizer"] = {
            "digest": tokenizer.digest,
            "vocab_size": tokenizer.vocab_size,
            "fits": fits,
            "agreement": agreement(file, _borders(file, ends), tokenizer) if fits else None,
        }
        found["samples"] = _samples(file, _borders(file, ends), tokenizer, samples) if fits else []
    return found


def _borders(file: TokenFile, ends: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """The documents' ends, where none are known those of sixteen even pieces."""
    if ends is not None and len(ends):
        return ends
    return np.unique(np.linspace(0, min(file.tokens, LOOKED_AT), 17).astype(np.int64)[1:])


def _samples(
    file: TokenFile, ends: NDArray[np.int64], tokenizer: Tokenizer, samples: int
) -> list[dict[str, Any]]:
    made = []
    for at in sorted({len(ends) * each // samples for each in range(samples)}):
        first = int(ends[at - 1]) if at else 0
        ids = file.read(first, min(CHARACTERS, int(ends[at]) - first))
        text = tokenizer.decode(ids.tolist())
        made.append(
            {"token": first, "document": at, "tokens": int(ends[at]) - first, "text": text[:CHARACTERS]}
        )
    return made


def _own_manifest(folder: Path) -> Manifest | None:
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
