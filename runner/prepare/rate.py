"""Records what a preparation took, for the costs of what is not prepared yet."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from curriculum.data.manifest import Split
from curriculum.data.preparation_rate import PreparationRate
from curriculum.data.requests import PrepareRequest
from curriculum.data.tokenizer import Tokenizer


def write_rate(
    request: PrepareRequest,
    tokenizer: Tokenizer,
    encoder: str,
    splits: Iterable[Split],
    stored: int,
    total: int | None,
    seconds: float,
    folder: Path,
    *,
    whole: bool,
) -> None:
    """Record that `seconds` of processors made what is in `folder` of `stored` of the files' `total` bytes."""
    if not request.rates:
        return
    splits = list(splits)
    rate = PreparationRate(
        dataset=request.dataset,
        tokenizer=tokenizer.digest,
        encoder=encoder,
        whole=whole,
        documents=sum(split.documents for split in splits),
        tokens=sum(split.tokens for split in splits),
        text_bytes=sum(split.text_bytes for split in splits),
        disk_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
        stored_bytes=stored,
        total_bytes=total,
        core_seconds=seconds,
    )
    rate.write(Path(request.rates), Path(request.output).name)
