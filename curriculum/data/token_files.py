"""Token files as others write them: which format a file has, and where its tokens and documents lie in it.

    datatrove    X.ds, X.ds.index         tokens; uint64 ends of the documents (nanotron reads the same)
    megatron     X.bin, X.idx             tokens; an index that states the width and the documents
    packed       24 bytes, then tokens    TinyLlama's and lit-gpt's chunks: magic, version, width, tokens
    npy          NumPy's own header       one or two dimensions, row after row
    flat         tokens, nothing else     OLMo's `.npy`, nanoGPT's `.bin`; the width must be known or is guessed

Nothing is ever written beside such a file. What it does not state (a flat file's width) is guessed and said to be.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

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

    `guessed` says that the file itself does not tell its width. `sequence` is the length that it was packed to,
    where it says so. `index` is the file that tells the documents apart, None when only marks between them do.
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
        left = (stop - first) * self.numbers.itemsize
        with self.path.open("rb") as file:
            file.seek(self.offset + first * self.numbers.itemsize)
            while left:
                data = file.read(min(most, left))
                if not data:
                    raise truncation_error(self.path, "it became shorter while it was read")
                left -= len(data)
                yield data

    def stated_ends(self) -> NDArray[np.int64] | None:
        """Per document the token at which it ends (exclusive), as the index beside the file says; else None."""
        if self.index is None:
            return None
        if self.format == "datatrove":
            return np.fromfile(self.index, "<u8").astype(np.int64)
        return _megatron(self.path, self.index)[1]

    def filler_from(self, eos: int | None) -> int:
        """Where a packed chunk ends in one token alone: writers filled their last chunk up; `tokens` if nowhere.

        A run of under 32 is text, and the first of many EOS still ends the last document.
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
    """What the file at `path` is. `format` and `dtype` are believed where the file does not say otherwise.

    DataError when it is not what it claims to be, is cut short, or is empty.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(128)
    except OSError as reason:
        raise DataError(
            f"`{path}` cannot be read: {reason.strerror}", hint="see `read` of its source"
        ) from None
    if not size:
        raise truncation_error(path, "it is empty")
    kind = format or _recognised(path, head)
    made = {"datatrove": _datatrove, "packed": _packed, "npy": _npy, "flat": _flat}.get(kind)
    if kind == "megatron":
        index = path.with_suffix(".idx")
        found = _megatron(path, index)[0]
        file_ = TokenFile(
            path=path,
            format="megatron",
            dtype=found["dtype"],
            offset=0,
            tokens=found["tokens"],
            size=size,
            index=index,
        )
    else:
        assert made is not None
        file_ = made(path, size, head, dtype)
    if dtype is not None and dtype != file_.dtype:
        raise DataError(
            f"`{path}` holds {file_.dtype}, but `dtype` says {dtype}",
            hint="leave `dtype` out: the file states it",
        )
    if file_.tokens * file_.numbers.itemsize + file_.offset > size:
        wanted = file_.tokens * file_.numbers.itemsize + file_.offset
        raise truncation_error(path, f"it has {size:,} of {wanted:,} bytes")
    return file_


def truncation_error(path: Path, how: str) -> DataError:
    return DataError(
        f"`{path}` is not whole: {how}",
        hint="fetch it again, or leave it out with `exclude`; the rest is kept",
    )


def _recognised(path: Path, head: bytes) -> TokenFormat:
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
        flat = _flat(path, size, head, dtype)
        return TokenFile(
            path=path,
            format="datatrove",
            dtype=flat.dtype,
            offset=0,
            tokens=flat.tokens,
            size=size,
            guessed=flat.guessed,
        )
    ends = np.fromfile(index, "<u8")
    tokens = int(ends[-1]) if len(ends) else 0
    widths = {2 * tokens: "uint16", 4 * tokens: "uint32"}
    if not tokens or size not in widths or (np.diff(ends.astype(np.int64)) < 0).any():
        raise truncation_error(path, f"its index ends at token {tokens:,}, and it has {size:,} bytes")
    return TokenFile(
        path=path, format="datatrove", dtype=widths[size], offset=0, tokens=tokens, size=size, index=index
    )


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
            read = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, fortran, found = read(file)
            offset = file.tell()
    except ValueError as reason:
        raise DataError(
            f"`{path}` has no NumPy header that can be read: {reason}", hint="see `format`"
        ) from None
    name = found.newbyteorder("=").name
    if name not in DTYPES or found.str[0] == ">" or (fortran and len(shape) > 1) or not 1 <= len(shape) <= 2:
        raise DataError(
            f"`{path}` is an array of {found.str} of shape {shape}",
            hint=f"token ids are wanted, little-endian, in rows: {', '.join(DTYPES)}",
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
    guessed = dtype is None
    name = dtype or _guessed_width(path, size)
    width = np.dtype(name).itemsize
    if size % width:
        raise truncation_error(path, f"its {size:,} bytes are no whole number of {name}")
    return TokenFile(
        path=path, format="flat", dtype=name, offset=0, tokens=size // width, size=size, guessed=guessed
    )


def _guessed_width(path: Path, size: int) -> str:
    """uint32 when the upper halves of its first numbers are next to nothing, else uint16: no text looks so."""
    with path.open("rb") as file:
        halves = np.frombuffer(file.read(min(size - size % 4, 4 * _GUESS_TOKENS)), "<u2")
    if not size % 4 and halves.size and halves[1::2].max(initial=0) < 16 and halves[::2].max() >= 16:
        return "uint32"
    return "uint16"


def _megatron(path: Path, index: Path) -> tuple[Mapping[str, Any], NDArray[np.int64]]:
    """What the index states, and the ends of the documents, in tokens."""
    try:
        data = index.read_bytes()
    except OSError as reason:
        raise DataError(
            f"`{index}` cannot be read: {reason.strerror}", hint=f"it belongs to `{path}`"
        ) from None
    begin = len(MEGATRON) + 8 + 1 + 16
    if not data.startswith(MEGATRON) or len(data) < begin:
        raise DataError(
            f"`{index}` is no index of Megatron's", hint="say `format: flat` to read the tokens alone"
        )
    version, code, sequences, documents = struct.unpack("<QBQQ", data[len(MEGATRON) : begin])
    if version != 1 or code not in _WIDTHS:
        raise DataError(
            f"`{index}` is of version {version} with numbers of type {code}",
            hint=f"version 1 is read, with {', '.join(_WIDTHS.values())}",
        )
    if len(data) < begin + 12 * sequences + 8 * documents:
        raise truncation_error(
            index, f"it has {len(data):,} of {begin + 12 * sequences + 8 * documents:,} bytes"
        )
    lengths = np.frombuffer(data, "<i4", sequences, begin).astype(np.int64)
    pointers = np.frombuffer(data, "<i8", sequences, begin + 4 * sequences)
    borders = np.frombuffer(data, "<i8", documents, begin + 12 * sequences)
    after = np.concatenate([[0], np.cumsum(lengths)])
    width = np.dtype(_WIDTHS[code]).itemsize
    if (pointers != after[:-1] * width).any() or (borders > sequences).any() or (np.diff(borders) < 0).any():
        raise DataError(
            f"`{index}` does not lay its sequences one behind the other",
            hint="merge it anew with Megatron's own tools, or say `format: flat`",
        )
    ends = after[borders[1:] if documents and borders[0] == 0 else borders]
    if not len(ends) or ends[-1] != after[-1]:
        ends = np.append(ends, after[-1])
    return {"dtype": _WIDTHS[code], "tokens": int(after[-1])}, np.unique(ends)


def agreement(file: TokenFile, ends: NDArray[np.int64], tokenizer: Tokenizer) -> float | None:
    """The share of tokens that come back when pieces of documents are decoded and encoded again; None without any."""
    marks = [i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None]
    same = seen = 0
    for at in sorted({len(ends) * each // _SAMPLES for each in range(_SAMPLES)}) if len(ends) else ():
        first = int(ends[at - 1]) if at else 0
        ids = file.read(first, min(_SAMPLE_TOKENS, int(ends[at]) - first))
        ids = ids[~np.isin(ids, marks)]
        if not len(ids) or int(ids.max()) >= tokenizer.vocab_size or int(ids.min()) < 0:
            continue
        again = tokenizer.encode(tokenizer.decode(ids.tolist()))
        left, right = set(_pairs(ids.tolist())), set(_pairs(again))
        same += len(left & right)
        seen += len(left)
    return same / seen if seen else None


def _pairs(ids: Sequence[int]) -> list[tuple[int, int]]:
    """Neighbours: a piece cut out of a document may begin otherwise, which must not shift all that follows."""
    return list(pairwise(ids)) or [(ids[0], -1)]
