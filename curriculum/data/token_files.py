"""Readers of third-party token files: the format of a file, and the offsets of its tokens and documents.

    datatrove    X.ds, X.ds.index         tokens; uint64 ends of the documents (nanotron reads the same)
    megatron     X.bin, X.idx             tokens; an index that states the width and the documents
    packed       24 bytes, then tokens    TinyLlama's and lit-gpt's chunks: magic, version, width, tokens
    npy          NumPy's own header       one or two dimensions, row after row
    flat         tokens, nothing else     OLMo's `.npy`, nanoGPT's `.bin`; the width must be known or is guessed

Nothing is ever written next to such a file. A width that the file does not state is guessed, and reported as a guess.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from curriculum.data.listing import TEXT_BYTES, is_text
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import DataError

TokenFormat = Literal["datatrove", "megatron", "packed", "npy", "flat"]

PACKED, PACKED_HEADER = b"LITPKDS", 24
MEGATRON = b"MMIDIDX\x00\x00"
NUMPY = b"\x93NUMPY"
# the codes are those of Megatron's and lit-gpt's writers, who took them from fairseq
_WIDTHS = {1: "uint8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
DTYPES = ("uint8", "uint16", "int16", "uint32", "int32", "int64")
_GUESS_TOKENS = 1 << 16
_SAMPLES, _SAMPLE_TOKENS = 8, 512


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFile:
    """One file of tokens: `tokens` little-endian numbers of type `dtype` from byte `offset` of `size` on.

    `guessed`: the width is not stated by the file. `sequence` is the length to which it was packed, if stated. `index`
    is the file with the ends of the documents, None when only special tokens separate them.
    """

    path: Path
    format: TokenFormat
    dtype: str
    offset: int
    tokens: int
    size: int
    guessed: bool = False
    sequence: int | None = None
    index: Path | None = None

    @property
    def numbers(self) -> np.dtype[Any]:
        return np.dtype(self.dtype).newbyteorder("<")

    def read(self, first: int, count: int) -> NDArray[np.int64]:
        """Tokens `first … first + count - 1`, fewer at the end."""
        with self.path.open("rb") as file:
            file.seek(self.offset + first * self.numbers.itemsize)
            data = file.read(max(0, min(count, self.tokens - first)) * self.numbers.itemsize)
        return np.frombuffer(data, self.numbers).astype(np.int64)

    def blocks(self, first: int, stop: int, most: int) -> Iterator[bytes]:
        """The bytes of tokens `first … stop - 1`, `most` bytes at a time."""
        remaining = (stop - first) * self.numbers.itemsize
        with self.path.open("rb") as file:
            file.seek(self.offset + first * self.numbers.itemsize)
            while remaining:
                data = file.read(min(most, remaining))
                if not data:
                    raise truncation_error(self.path, "it became shorter while it was read")
                remaining -= len(data)
                yield data

    def document_ends(self) -> NDArray[np.int64] | None:
        """Per document the token at which it ends (exclusive), from the file's index; None without an index."""
        if self.index is None:
            return None
        if self.format == "datatrove":
            return np.fromfile(self.index, "<u8").astype(np.int64)
        return _read_megatron_index(self.path, self.index)[1]

    def filler_from(self, eos: int | None) -> int:
        """The first token of the filler that repeats one token at the end of a packed chunk; `tokens` if none.

        A run shorter than 32 counts as text, and the first of a run of EOS ends the last document.
        """
        end = self.tokens
        if self.format != "packed" or not end:
            return end
        last = self.read(end - 1, 1)[0]
        while end:
            begin = max(0, end - _GUESS_TOKENS)
            other = np.flatnonzero(self.read(begin, end - begin) != last)
            if other.size:
                end = begin + int(other[-1]) + 1
                break
            end = begin
        if self.tokens - end < 32:
            return self.tokens
        return end + (last == eos and end > 0)


def open_token_file(path: Path, format: TokenFormat | None = None, dtype: str | None = None) -> TokenFile:
    """The token file at `path`; `format` and `dtype` are used where the file does not state them.

    DataError when the file is empty, truncated or contradicts them.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(TEXT_BYTES)
    except OSError as reason:
        raise DataError(f"`{path}` cannot be read: {reason.strerror}", hint="see `read` of its source") from None
    if not size:
        raise truncation_error(path, "it is empty")
    readers = {"datatrove": _datatrove, "megatron": _megatron, "packed": _packed, "npy": _npy, "flat": _flat}
    token_file = readers[format or _detect_format(path, head)](path, size, head, dtype)
    if dtype is not None and dtype != token_file.dtype:
        raise DataError(
            f"`{path}` holds {token_file.dtype}, but `dtype` says {dtype}", hint="leave `dtype` out: the file states it"
        )
    needed = token_file.tokens * token_file.numbers.itemsize + token_file.offset
    if needed > size:
        raise truncation_error(path, f"it has {size:,} of {needed:,} bytes")
    if needed < size:
        stated = f"its index `{token_file.index.name}` states" if token_file.index else "its header states"
        raise DataError(
            f"`{path}` has {size:,} bytes, and {stated} {token_file.tokens:,} tokens, which end at byte {needed:,}",
            hint="fetch both again: they are not of one file; `format: flat` reads the tokens alone"
            if token_file.index
            else "write it again: what follows would not be read",
        )
    if not token_file.tokens:
        raise DataError(f"`{path}` holds no tokens: its {size:,} bytes state none", hint="leave it out with `exclude`")
    return token_file


def truncation_error(path: Path, how: str) -> DataError:
    return DataError(
        f"`{path}` is not complete: {how}", hint="fetch it again, or leave it out with `exclude`; the rest is kept"
    )


def _detect_format(path: Path, head: bytes) -> TokenFormat:
    if head.startswith(PACKED):
        return "packed"
    if head.startswith(NUMPY):
        return "npy"
    if path.suffix == ".ds":
        return "datatrove"
    if path.suffix == ".bin" and path.with_suffix(".idx").exists():
        return "megatron"
    return "flat"


def _datatrove(path: Path, size: int, head: bytes, dtype: str | None) -> TokenFile:
    index = path.with_name(path.name + ".index")
    if not index.exists():
        return replace(_flat(path, size, head, dtype), format="datatrove")
    ends = np.fromfile(index, "<u8")
    tokens = int(ends[-1]) if len(ends) else 0
    widths = {2 * tokens: "uint16", 4 * tokens: "uint32"}
    if not tokens or size not in widths or (np.diff(ends.astype(np.int64)) < 0).any():
        raise truncation_error(path, f"its index ends at token {tokens:,}, and it has {size:,} bytes")
    return TokenFile(path=path, format="datatrove", dtype=widths[size], offset=0, tokens=tokens, size=size, index=index)


def _packed(path: Path, size: int, head: bytes, dtype: str | None) -> TokenFile:
    if len(head) < PACKED_HEADER or not head.startswith(PACKED):
        raise DataError(f"`{path}` does not begin as a packed chunk does", hint="another `format`, or none")
    version, code, tokens = struct.unpack("<QBQ", head[7:PACKED_HEADER])
    if version != 1 or code not in _WIDTHS:
        raise DataError(
            f"`{path}` is a packed chunk of version {version} with numbers of type {code}",
            hint=f"version 1 is read, with {', '.join(_WIDTHS.values())}",
        )
    lengths = [length for length in (2049, 4097, 8193) if tokens % length == 0]
    return TokenFile(
        path=path,
        format="packed",
        dtype=_WIDTHS[code],
        offset=PACKED_HEADER,
        tokens=tokens,
        size=size,
        sequence=lengths[0] if lengths else None,
    )


def _npy(path: Path, size: int, head: bytes, dtype: str | None) -> TokenFile:
    try:
        with path.open("rb") as file:
            version = np.lib.format.read_magic(file)
            header = np.lib.format
            read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
            shape, fortran, numbers = read(file)
            offset = file.tell()
    except ValueError as reason:
        raise DataError(f"`{path}` has no NumPy header that can be read: {reason}", hint="see `format`") from None
    name = numbers.newbyteorder("=").name
    if name not in DTYPES or numbers.str[0] == ">" or (fortran and len(shape) > 1) or not 1 <= len(shape) <= 2:
        raise DataError(
            f"`{path}` is an array of {numbers.str} of shape {shape}",
            hint=f"it must hold token ids, little-endian, in rows: {', '.join(DTYPES)}",
        )
    return TokenFile(
        path=path,
        format="npy",
        dtype=name,
        offset=offset,
        tokens=int(np.prod(shape)),
        size=size,
        sequence=shape[1] if len(shape) == 2 else None,
    )


def _flat(path: Path, size: int, head: bytes, dtype: str | None) -> TokenFile:
    if dtype is None and is_text(head):
        raise DataError(
            f"`{path}` holds text, not tokens", hint="`read: {folder: …}` reads text; a `dtype` reads it as tokens"
        )
    name = dtype or _guess_dtype(path, size)
    width = np.dtype(name).itemsize
    if size % width:
        raise truncation_error(path, f"its {size:,} bytes are no whole number of {name}")
    return TokenFile(
        path=path, format="flat", dtype=name, offset=0, tokens=size // width, size=size, guessed=dtype is None
    )


def _guess_dtype(path: Path, size: int) -> str:
    """uint32 when the upper halves of the first numbers are below 16, as never in text of uint16 ids; else uint16."""
    with path.open("rb") as file:
        halves = np.frombuffer(file.read(min(size - size % 4, 4 * _GUESS_TOKENS)), "<u2")
    if not size % 4 and halves.size and halves[1::2].max(initial=0) < 16 and halves[::2].max() >= 16:
        return "uint32"
    return "uint16"


def _megatron(path: Path, size: int, head: bytes, dtype: str | None) -> TokenFile:
    index = path.with_suffix(".idx")
    name, ends = _read_megatron_index(path, index)
    return TokenFile(path=path, format="megatron", dtype=name, offset=0, tokens=int(ends[-1]), size=size, index=index)


def _read_megatron_index(path: Path, index: Path) -> tuple[str, NDArray[np.int64]]:
    """The type of the tokens, and the token at which each document ends; the last is their number."""
    try:
        data = index.read_bytes()
    except OSError as reason:
        raise DataError(f"`{index}` cannot be read: {reason.strerror}", hint=f"it belongs to `{path}`") from None
    begin = len(MEGATRON) + 8 + 1 + 16
    if not data.startswith(MEGATRON) or len(data) < begin:
        raise DataError(f"`{index}` is no index of Megatron's", hint="say `format: flat` to read the tokens alone")
    version, code, sequences, documents = struct.unpack("<QBQQ", data[len(MEGATRON) : begin])
    if version != 1 or code not in _WIDTHS:
        raise DataError(
            f"`{index}` is of version {version} with numbers of type {code}",
            hint=f"version 1 is read, with {', '.join(_WIDTHS.values())}",
        )
    if len(data) < begin + 12 * sequences + 8 * documents:
        raise truncation_error(index, f"it has {len(data):,} of {begin + 12 * sequences + 8 * documents:,} bytes")
    lengths = np.frombuffer(data, "<i4", sequences, begin).astype(np.int64)
    pointers = np.frombuffer(data, "<i8", sequences, begin + 4 * sequences)
    borders = np.frombuffer(data, "<i8", documents, begin + 12 * sequences)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    width = np.dtype(_WIDTHS[code]).itemsize
    if (pointers != bounds[:-1] * width).any() or (borders > sequences).any() or (np.diff(borders) < 0).any():
        raise DataError(
            f"the sequences of `{index}` are not contiguous",
            hint="merge it again with Megatron's own tools, or say `format: flat`",
        )
    ends = bounds[borders[1:] if documents and borders[0] == 0 else borders]
    return _WIDTHS[code], np.unique(np.append(ends, bounds[-1]))


def agreement(file: TokenFile, ends: NDArray[np.int64], tokenizer: Tokenizer) -> float | None:
    """The share of token pairs that are the same after samples are decoded and encoded again; None without samples."""
    special = [i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None]
    same = total = 0
    for at in sorted({len(ends) * number // _SAMPLES for number in range(_SAMPLES)}) if len(ends) else ():
        first = int(ends[at - 1]) if at else 0
        ids = file.read(first, min(_SAMPLE_TOKENS, int(ends[at]) - first))
        ids = ids[~np.isin(ids, special)]
        if not len(ids) or int(ids.max()) >= tokenizer.vocab_size or int(ids.min()) < 0:
            continue
        again = tokenizer.encode(tokenizer.decode(ids.tolist()))
        before, after = set(_pairs(ids.tolist())), set(_pairs(again))
        same += len(before & after)
        total += len(before)
    return same / total if total else None


def _pairs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Pairs of neighbours: another first token of a sample must not shift the comparison of the others."""
    return list(pairwise(ids)) or [(ids[0], -1)]
