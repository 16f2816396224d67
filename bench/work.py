"""The work that readers are measured on, and how: contenders take turns in one process, round after round."""

from __future__ import annotations

import hashlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curriculum import durable
from curriculum.mixing import integer_weights
from curriculum.plan import Blend, Piece, Segment, SourcePlan, StagePlan
from curriculum.schedule import LearningRate
from curriculum.shards.format import Manifest, Shard, Split
from curriculum.units import parse_fraction

SEQUENCE_LENGTH, BATCH, VOCABULARY, EOS = 2048, 16, 32_000, 0
SHARES = {"general": 0.75, "code": 0.15, "mathematics": 0.10}  # of the text, and of the mixture


def documents(tokens: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Synthetic text of about `tokens` uint16 ids and its documents' ends; mean length 600, lognormal."""
    draw = np.random.default_rng(seed)
    lengths = np.maximum(2, draw.lognormal(np.log(600) - 0.5, 1.0, size=tokens // 500).astype(np.int64))
    ends = np.cumsum(lengths)
    ends = ends[: int(np.searchsorted(ends, tokens))]
    ids = draw.integers(1, VOCABULARY, size=int(ends[-1]), dtype=np.uint16)
    ids[ends - 1] = EOS
    return ids, ends


def write_dataset(folder: Path, name: str, tokens: int, seed: int, shards: int = 4) -> Path:
    """A prepared data folder as `curriculum prepare` leaves it, from synthetic documents."""
    block = 1 << 20
    records = []
    (folder / "train").mkdir(parents=True)
    for number in range(shards):
        ids, ends = documents(tokens // shards, seed * 100 + number)
        path = folder / "train" / f"{number:05d}.ds"
        path.write_bytes(ids.astype("<u2").tobytes())
        lines = [f'"{name}/{number}/{row}"\n'.encode() for row in range(len(ends))]
        path.with_suffix(".ids").write_bytes(b"".join(lines))
        path.with_suffix(".ids.index").write_bytes(
            np.cumsum([len(line) for line in lines]).astype("<u8").tobytes()
        )
        path.with_suffix(".ds.index").write_bytes(ends.astype("<u8").tobytes())
        digests = b"".join(hashlib.sha256(part).digest() for part in durable.blocks(path, block))
        path.with_suffix(".ds.blocks").write_bytes(digests)
        records.append(
            Shard(
                file=f"train/{path.name}",
                tokens=len(ids),
                documents=len(ends),
                text_bytes=len(ids) * 4,
                sha256=durable.sha256_file(path),
                blocks_sha256=hashlib.sha256(digests).hexdigest(),
                index_sha256=durable.sha256_file(path.with_suffix(".ds.index")),
                ids_sha256=durable.sha256_file(path.with_suffix(".ids")),
                ids_index_sha256=durable.sha256_file(path.with_suffix(".ids.index")),
            )
        )
    split = Split(
        documents=sum(record.documents for record in records),
        tokens=sum(record.tokens for record in records),
        text_bytes=sum(record.text_bytes for record in records),
        max_token=VOCABULARY - 1,
        filler=sum(record.documents for record in records),
        dropped={},
        shards=tuple(records),
    )
    manifest = Manifest(
        dataset=name,
        tokenizer_digest="0" * 64,
        tokenizer_name="synthetic",
        vocab_size=VOCABULARY,
        bos=None,
        eos=EOS,
        dtype="uint16",
        block_bytes=block,
        recipe={},
        recipe_digest="0" * 64,
        provenance={},
        splits={"train": split},
    )
    durable.write_json(folder / "manifest.json", manifest.to_json())
    return folder


def plan(windows: Mapping[str, int], *, steps: int, batch: int = BATCH, text: str = "75:15:10") -> StagePlan:
    """One stage over sources of so many windows, at constant shares."""
    weights = integer_weights(dict(zip(SHARES, map(parse_fraction, text.split(":")), strict=True)))
    return StagePlan(
        seed=3407,
        model={"vocab_size": VOCABULARY},
        tokenizer={"name": "synthetic", "digest": "0" * 64, "vocab_size": VOCABULARY, "eos": EOS},
        optimizer={},
        learning_rate=LearningRate(shape="constant", max=1e-3, min=0.0, warmup=0, horizon=0),
        sequence_length=SEQUENCE_LENGTH,
        batch_sequences=batch,
        first_step=0,
        steps=steps,
        start=0,
        sources={
            name: SourcePlan(dataset=name, segments=(Segment(first_item=0, pass_number=0, windows=count),))
            for name, count in windows.items()
        },
        blends=(Blend(weights=weights, base={}),),
        pieces=(Piece(first=0, blend=0, index=0),),
        read_before={},
        parent=None,
    )


@dataclass(frozen=True, slots=True)
class Rates:
    """Tokens a second of one contender, a value a round."""

    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def ratio_to(self, other: Rates) -> tuple[float, float, float]:
        """Median, lowest and highest of the ratios of the same round."""
        ratios = sorted(mine / theirs for mine, theirs in zip(self.values, other.values, strict=True))
        return statistics.median(ratios), ratios[0], ratios[-1]


def take_turns(contenders: Mapping[str, Iterator[int]], *, rounds: int, seconds: float) -> list[Rates]:
    """Let each contender run `seconds` in every round; it yields the tokens of each batch it has read."""
    values: dict[str, list[float]] = {name: [] for name in contenders}
    for batches in contenders.values():  # maps, caches and threads are warm before the clock runs
        _run(batches, seconds / 4)
    for turn in range(rounds):
        names = list(contenders)
        for name in names if turn % 2 == 0 else reversed(names):
            values[name].append(_run(contenders[name], seconds))
    return [Rates(name, tuple(each)) for name, each in values.items()]


def _run(batches: Iterator[int], seconds: float) -> float:
    tokens, begun = 0, time.perf_counter()
    while (now := time.perf_counter()) - begun < seconds:
        tokens += next(batches)
    return tokens / (now - begun)


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def show(value: float) -> str:
    """A rate with its suffix, three digits."""
    for suffix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale:
            return f"{value / scale:.3g}{suffix}"
    return f"{value:.3g}"


def heading(what: str) -> None:
    print(
        f"# {what}\n# {platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}, {time.strftime('%Y-%m-%d')}\n"
    )
