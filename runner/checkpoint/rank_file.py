"""The file of one rank in a checkpoint: its rows as safetensors, written a block at a time, from a copy or in place.

`safetensors.save_file` would copy all of a GPU's tensors to the host at once, and the digest would read the file again.
The bytes are those that it writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch

from curriculum import fs
from curriculum.errors import RunFailed

DTYPES = {torch.float32: "F32"}  # weights and moments are fp32 whatever the step computes in


class Staging:
    """One flat buffer in host memory to which a save copies its tensors; pinned where a GPU copies, and used again."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)

    def copy(self, tensors: Mapping[str, torch.Tensor]) -> Callable[[], dict[str, torch.Tensor]]:
        """What waits for copies of the tensors, by name, and returns them; they hold until the next call.

        A GPU copies in the order of its stream, so that what this thread issues afterwards may change the tensors. A
        CPU copies when what is returned is called, in any thread, and until then nothing may.
        """
        sizes = [tensor.numel() * tensor.element_size() for tensor in tensors.values()]
        on_gpu = any(tensor.is_cuda for tensor in tensors.values())
        if len(self._buffer) < sum(sizes):
            self._buffer = torch.empty(sum(sizes), dtype=torch.uint8)
            if on_gpu:
                _pin(self._buffer)
        copies = {}
        for (key, tensor), part in zip(tensors.items(), torch.split(self._buffer[: sum(sizes)], sizes), strict=True):
            copies[key] = part.view(tensor.dtype).view(tensor.shape)
            if on_gpu:
                copies[key].copy_(tensor, non_blocking=True)
        issued = torch.cuda.current_stream().record_event() if on_gpu else None

        def copied() -> dict[str, torch.Tensor]:
            if issued is not None:
                issued.synchronize()
            else:
                for key, tensor in tensors.items():
                    np.copyto(copies[key].numpy(), tensor.numpy())  # torch's copy would take the training's threads
            return copies

        return copied


def write(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    """Write and sync the file, and return its BLAKE3; RunFailed at the first number that is not finite."""
    return fs.write_blocks(path, _blocks(tensors))


def _blocks(tensors: Mapping[str, torch.Tensor]) -> Iterator[memoryview]:
    """The file in blocks: length and JSON of the header, then each tensor's numbers, in the order of their names."""
    header, end = {}, 0
    for key in sorted(tensors):
        begin, end = end, end + tensors[key].numel() * tensors[key].element_size()
        shape = list(tensors[key].shape)
        header[key] = {"dtype": DTYPES[tensors[key].dtype], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    window: torch.Tensor | None = None
    for key in sorted(tensors):
        flat = tensors[key].reshape(-1)
        length = fs.BLOCK_BYTES // flat.element_size()
        for piece in torch.split(flat, length):
            if piece.is_cuda and window is None:
                window = torch.empty(length, dtype=piece.dtype, pin_memory=True)
            numbers = (piece if window is None else window[: len(piece)].copy_(piece)).numpy()
            if not np.isfinite(numbers).all():
                raise RunFailed(
                    f"`{key}` is not finite any more: nothing is saved of this state",
                    hint="the last good checkpoint is kept; the same command continues from it",
                )
            yield numbers.data.cast("B")


def _pin(buffer: torch.Tensor) -> None:
    """Pin the buffer as it is: torch's allocator of pinned memory rounds up to a power of two."""
    cudart = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    torch.cuda.check_error(int(cudart.cudaHostRegister(buffer.data_ptr(), len(buffer), 0)))
