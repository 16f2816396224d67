"""Other projects' loaders over the same text: each gives batches `[16, 2048]` of int64 in its own random order.

A peer is a function of (root with the sources' folders, scratch folder) to an endless iterator of tensors; what it
needs to write first it writes into scratch, once. Each runs in a process of its own and may be absent.
"""

from __future__ import annotations

import importlib.machinery
import itertools
import os
import random
import shutil
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.text import BATCH, END, LENGTH, NAMES, VOCABULARY, WEIGHTS, documents_of, tokens_of

SHARES = [WEIGHTS[name] / sum(WEIGHTS.values()) for name in NAMES]
DECLARED = 1_000_000
"""Samples that a peer with an index plans for: no more than it needs here, so its index stays small."""

Batches = Iterator[Any]


def _loader(dataset: Any, *, workers: int = 0, **how: Any) -> Batches:
    from torch.utils.data import DataLoader

    while True:
        yield from DataLoader(dataset, num_workers=workers, **how)


def memmap(root: Path, scratch: Path, *, workers: int = 0) -> Batches:
    """torch's DataLoader over memory-mapped files: the loader many projects write themselves."""
    import torch

    class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __init__(self, files: list[np.ndarray]) -> None:
            self.files = files
            self.ends = np.cumsum([(len(file) - 1) // LENGTH for file in files])

        def __len__(self) -> int:
            return int(self.ends[-1])

        def __getitem__(self, at: int) -> Any:
            file = int(np.searchsorted(self.ends, at, side="right"))
            begin = (at - (int(self.ends[file - 1]) if file else 0)) * LENGTH
            return torch.from_numpy(self.files[file][begin : begin + LENGTH].astype(np.int64))

    sources = [Rows(tokens_of(root / name)) for name in NAMES]
    weights = torch.tensor([share / len(s) for s, share in zip(sources, SHARES, strict=True) for _ in range(len(s))])
    sampler = torch.utils.data.WeightedRandomSampler(weights.double(), 100_000, replacement=True)
    return _loader(torch.utils.data.ConcatDataset(sources), workers=workers, sampler=sampler, batch_size=BATCH)


def packed(root: Path, scratch: Path) -> Batches:
    """The method of TinyLlama's PackedDataset, written from its description (it is no package).

    Files of 1,024 blocks, eight open at a time, their blocks shuffled; sources drawn at random by weight.
    """
    import torch

    class Blocks(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __init__(self, files: list[np.ndarray], seed: int) -> None:
            self.files, self.seed = files, seed

        def __iter__(self) -> Iterator[Any]:
            draw = np.random.default_rng(self.seed)
            chunk = 1024 * (LENGTH + 1)
            chunks = [(file, at) for file in self.files for at in range(0, len(file) - chunk + 1, chunk)]
            chunks = chunks or [(self.files[0], 0)]
            while True:
                for first in range(0, len(chunks), 8):
                    opened = [memoryview(file[at : at + chunk]) for file, at in chunks[first : first + 8]]
                    blocks = len(opened[0]) // (LENGTH + 1)
                    for number in draw.permutation(blocks * len(opened)):
                        which, block = divmod(int(number), blocks)
                        begin = block * (LENGTH + 1) * 2
                        ids = np.frombuffer(opened[which], "<u2", count=LENGTH + 1, offset=begin)
                        yield torch.from_numpy(ids.astype(np.int64))

    class Combined(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Any]:
            draw = random.Random(1)
            sources = [iter(Blocks(tokens_of(root / name), seed)) for seed, name in enumerate(NAMES)]
            while True:
                (source,) = draw.choices(sources, weights=SHARES, k=1)
                yield next(source)

    return (batch[:, :LENGTH] for batch in _loader(Combined(), batch_size=BATCH))


def datatrove(root: Path, scratch: Path) -> Batches:
    """datatrove's folder dataset, which reads our files as they are, a source drawn at random by weight."""
    import torch
    from datatrove.utils.dataset import DatatroveFolderDataset

    class Drawn(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
        def __iter__(self) -> Iterator[Any]:
            draw = random.Random(1)
            sources = [
                DatatroveFolderDataset(
                    str(root / name / "train"),
                    LENGTH,
                    filename_pattern="*.ds",
                    token_size=2,
                    shuffle=True,
                    return_positions=False,
                )
                for name in NAMES
            ]
            at = [0] * len(sources)
            while True:
                (which,) = draw.choices(range(len(sources)), weights=SHARES, k=1)
                yield sources[which][at[which] % len(sources[which])]["input_ids"][:LENGTH]
                at[which] += 1

    return _loader(Drawn(), batch_size=BATCH)


def megatron(root: Path, scratch: Path) -> Batches:
    """Megatron-core's blended GPT datasets."""
    warnings.filterwarnings("ignore")
    import torch
    from megatron.core.datasets.blended_megatron_dataset_builder import BlendedMegatronDatasetBuilder
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    class Tokenizer:
        vocab_size, eod, pad = VOCABULARY, END, -1
        unique_identifiers: Any = {"class": "generated"}  # noqa: RUF012

    for name in NAMES:
        if not (scratch / f"{name}.idx").exists():
            builder = IndexedDatasetBuilder(str(scratch / f"{name}.bin"), dtype=np.uint16)
            for document in documents_of(root / name):
                builder.add_document(torch.from_numpy(document), [len(document)])
            builder.finalize(str(scratch / f"{name}.idx"))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    config = GPTDatasetConfig(
        random_seed=1234,
        sequence_length=LENGTH,
        split="1,0,0",
        path_to_cache=str(scratch / "cache"),
        blend=([str(scratch / name) for name in NAMES], SHARES),
        tokenizer=Tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
    )
    data = BlendedMegatronDatasetBuilder(GPTDataset, [DECLARED, 0, 0], lambda: True, config).build()[0]
    return (batch["tokens"] for batch in _loader(data, batch_size=BATCH))


def olmo_core(root: Path, scratch: Path) -> Batches:
    """OLMo-core's composable sources, mixed."""
    import logging

    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    from olmo_core.data import DataCollator, TokenizerConfig
    from olmo_core.data.composable import (
        ComposableDataLoader,
        ConcatAndChunkInstanceSource,
        MixingInstanceSource,
        NumpyDocumentSource,
    )

    tokenizer = TokenizerConfig(vocab_size=VOCABULARY, eos_token_id=END, pad_token_id=1)
    specs = []
    for name, share in zip(NAMES, SHARES, strict=True):
        paths = [str(path) for path in sorted((root / name / "train").glob("*.ds"))]
        documents = NumpyDocumentSource(source_paths=paths, dtype=np.uint16, work_dir=scratch, tokenizer=tokenizer)
        chunks = ConcatAndChunkInstanceSource(documents, sequence_length=LENGTH, work_dir=scratch, label=name)
        specs.append(MixingInstanceSource.Spec(source=chunks, ratio=share, max_repetition_factor=1e6, label=name))
    mixed = MixingInstanceSource(*specs, work_dir=scratch, seed=1, num_instances=DECLARED)
    loader = ComposableDataLoader(
        mixed,
        collator=DataCollator(pad_token_id=1, vocab_size=VOCABULARY),
        tokenizer=tokenizer,
        work_dir=scratch,
        global_batch_size=BATCH * LENGTH,
        seed=1,
        num_workers=0,
        num_threads=0,
        dp_world_size=1,
        dp_rank=0,
        fs_local_rank=0,
        display_source_visualization=False,
    )
    loader.reshuffle(1)
    return (batch["input_ids"] for batch in loader)


def streaming(root: Path, scratch: Path) -> Batches:
    """MosaicML Streaming with three weighted streams."""
    for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets"):
        if name not in sys.modules:  # it imports them for pictures, of which there are none here
            module = types.ModuleType(name)
            module.__spec__ = importlib.machinery.ModuleSpec(name, None)
            module.__path__ = []
            module.__dict__.update(to_tensor=None, VisionDataset=object)
            sys.modules[name] = module
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]  # type: ignore[attr-defined]
    sys.modules["torchvision.transforms"].functional = sys.modules[  # type: ignore[attr-defined]
        "torchvision.transforms.functional"
    ]
    sys.modules["torchvision"].datasets = sys.modules["torchvision.datasets"]  # type: ignore[attr-defined]
    import streaming as mosaic

    mosaic.base.util.clean_stale_shared_memory()
    for name in NAMES:
        if not (scratch / name / "index.json").exists():
            shutil.rmtree(scratch / name, ignore_errors=True)
            columns = {"tokens": f"ndarray:uint16:{LENGTH + 1}"}
            with mosaic.MDSWriter(out=str(scratch / name), columns=columns, size_limit=64 << 20) as writer:
                for ids in tokens_of(root / name):
                    for at in range(0, len(ids) - LENGTH, LENGTH + 1):
                        writer.write({"tokens": np.array(ids[at : at + LENGTH + 1])})
    streams = [
        mosaic.Stream(local=str(scratch / name), proportion=share) for name, share in zip(NAMES, SHARES, strict=True)
    ]
    data = mosaic.StreamingDataset(
        streams=streams, epoch_size=DECLARED, shuffle=True, shuffle_seed=1, batch_size=BATCH, num_canonical_nodes=8
    )
    loader = mosaic.StreamingDataLoader(data, batch_size=BATCH, num_workers=0)
    return (batch["tokens"][:, :LENGTH].long() for batch in loader)


def litdata(root: Path, scratch: Path) -> Batches:
    """LitData's combined streaming datasets of token blocks."""
    for key, sub in (("DATA_OPTIMIZER_CACHE_FOLDER", "chunks"), ("DATA_OPTIMIZER_DATA_CACHE_FOLDER", "data")):
        os.environ[key] = str(scratch / "working" / sub)  # it empties these, and by default they are anybody's
    import litdata as lit

    for name in NAMES:
        if not (scratch / name / "index.json").exists():
            shutil.rmtree(scratch / name, ignore_errors=True)
            files = [str(path) for path in sorted((root / name / "train").glob("*.ds"))]
            lit.optimize(
                _pieces,
                files,
                str(scratch / name),
                chunk_size=(LENGTH + 1) * 2048,
                num_workers=1,
                item_loader=lit.TokensLoader(block_size=LENGTH + 1),
                verbose=False,
            )
    parts = [
        lit.StreamingDataset(
            str(scratch / name),
            item_loader=lit.TokensLoader(block_size=LENGTH + 1),  # it remembers its dataset's chunks
            shuffle=True,
            drop_last=True,
            seed=1,
        )
        for name in NAMES
    ]
    data = lit.CombinedStreamingDataset(parts, seed=1, weights=SHARES, iterate_over_all=False)

    def endless() -> Batches:
        while True:
            yield from lit.StreamingDataLoader(data, batch_size=BATCH, num_workers=0)

    return (batch[:, :LENGTH].long() for batch in endless())


def _pieces(path: str) -> Iterator[Any]:
    import torch

    ids = np.fromfile(path, "<u2")
    for begin, end in itertools.pairwise([0, *np.fromfile(f"{path}.index", "<u8").tolist()]):
        yield torch.from_numpy(ids[begin:end])


PEERS: dict[str, tuple[Callable[[Path, Path], Batches], str]] = {
    "torch DataLoader over memmaps": (memmap, "torch"),
    "PackedDataset's method (TinyLlama)": (packed, "torch"),
    "datatrove folder dataset (nanotron)": (datatrove, "datatrove"),
    "LitData": (litdata, "litdata"),
    "MosaicML Streaming": (streaming, "mosaicml-streaming"),
    "Megatron-core": (megatron, "megatron-core"),
    "OLMo-core composable": (olmo_core, "ai2-olmo-core"),
}
