"""A sample of a source prepared and thrown away, for what preparing all of it will take."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from curriculum import fs
from curriculum.data.listing import SourceFile
from curriculum.data.manifest import Split
from curriculum.data.requests import PrepareRequest
from curriculum.errors import DataError
from runner.prepare.job import Preparation
from runner.prepare.rate import write_rate
from runner.prepare.shard_writer import RECORD, Meter, ShardWriter
from runner.prepare.tally import Tally, log_to
from runner.prepare.texts import Documents

SAMPLE_BYTES = 1 << 25
"""Text of a sample, unless the source has less."""
PLACES = 8
"""Places of a source's files, evenly spread, from which a sample reads on."""


def measure_sample(request: PrepareRequest) -> None:
    """Prepare about SAMPLE_BYTES of a source's text in a temporary folder, and record the rate in `request.rates`.

    DataError where no text is found, and as for a preparation.
    """
    data = Path(request.output).parent
    fs.make_directory(data)
    with tempfile.TemporaryDirectory(prefix=".sample-", dir=data) as name, log_to(Path(name, "datatrove.log")):
        folder = Path(name)
        preparation = Preparation(replace(request, tasks=1), folder)
        files, _ = preparation.list_files()
        train, held_out = preparation.by_split(files)
        choice = preparation.encoder.choice()  # its proof is not of this text
        tally = Tally()
        started = time.process_time()
        writer = ShardWriter(
            preparation.request,
            preparation.tokenizer,
            preparation.encoder.for_task(choice, threads=False),
            folder / "task",
            "",
            tally=tally,
            meter=Meter(folder / "progress.jsonl", None),
            stop=threading.Event(),
        )
        writer.write(_spread(preparation, train, tally), 0)
        seconds = time.process_time() - started
        record = fs.parse_json((folder / "task" / RECORD).read_bytes())
        splits = [fs.from_json(Split, value) for value in record["splits"].values()]
        if not any(split.tokens for split in splits):
            raise DataError(
                f"no text was found where `{request.dataset}` was sampled",
                hint="`curriculum prepare` reads all of it, and says what its files have",
                entry=("sources", request.dataset, "read"),
            )
        sizes = [file.bytes for file in (*train, *held_out)]
        total = None if None in sizes else sum(size for size in sizes if size is not None)
        write_rate(
            request,
            preparation.tokenizer,
            choice.encoder,
            splits,
            record["stored"],
            total,
            seconds,
            folder / "task",
            whole=False,
        )


def _spread(preparation: Preparation, files: Sequence[SourceFile], tally: Tally) -> Iterator[Documents]:
    """Documents from PLACES places of the files, of about as much text from each."""
    bounds = sorted({len(files) * place // PLACES for place in range(PLACES + 1)})
    for first, stop in pairwise(bounds):
        read = 0
        for batch in preparation.batches(files[first:stop], [], tally, 0, 1):
            yield batch
            read += len(batch.texts.data)
            if read >= SAMPLE_BYTES // (len(bounds) - 1):
                break
