"""The `tokenizer` job: trains one on the project's own text, or converts a SentencePiece model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from curriculum import fs
from curriculum.data import sentencepiece
from curriculum.data.requests import TokenizerRequest
from curriculum.data.tokenizer import TRAINED_EOS
from curriculum.errors import DataError
from runner.prepare.corpus import Corpus
from runner.prepare.extract import chinese_docstrings
from runner.prepare.readers import at_source, dataset_shards, list_sources, without_text
from runner.prepare.tally import Tally, log_to

LONGEST_WORD = 1024  # bytes


def train_tokenizer(request: TokenizerRequest) -> None:
    """Train byte-level BPE on an even sample of the datasets, or convert a SentencePiece model.

    An existing `request.output` is kept. DataError where the text gives fewer ids than requested: the model
    would have rows that no text uses.

    The same documents give the same file on any number of threads. Id 0 is the end-of-text token, 1 to
    256 the bytes, so every text can be encoded and decoded without loss.
    """
    from tokenizers import Tokenizer as Inner, decoders, models, pre_tokenizers, trainers

    output = Path(request.output)
    if output.exists():
        return
    if request.sentencepiece is not None:
        _convert(request, output)
        return
    inner = Inner(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # The time to train grows with the square of a word's length: a longer one counts as several.
    inner.pre_tokenizer = pre_tokenizers.Sequence([byte_level, pre_tokenizers.FixedLength(LONGEST_WORD)])
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=request.vocab_size,
        special_tokens=[TRAINED_EOS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    samples = (text for name in sorted(request.reads) for text in _named_sample(request, name))
    fs.make_directory(output.parent)
    with log_to(output.with_name("sample.log")):
        inner.train_from_iterator(samples, trainer)
    inner.pre_tokenizer = byte_level
    size = inner.get_vocab_size()
    if size < request.vocab_size:
        raise DataError(
            f"`{request.name}`: the text gives {size:,} of the {request.vocab_size:,} ids asked for",
            hint=f"`vocab_size: {size}`, of the tokenizer and of the model; or train it on more text",
            entry=("tokenizers", request.name, "vocab_size"),
        )
    fs.write_bytes(output, inner.to_str(pretty=True).encode(), replace=True)


def _convert(request: TokenizerRequest, output: Path) -> None:
    """The model as `tokenizer.json`: the published one with it, where it gives the same ids (DataError otherwise)."""
    assert request.sentencepiece is not None
    model = Path(request.sentencepiece)
    data = sentencepiece.convert(model)
    fs.make_directory(output.parent)
    if request.published is not None:
        published = Path(request.published)
        ours = output.with_name("from-model.json")
        fs.write_bytes(ours, data, replace=True)
        probe = sentencepiece.first_difference(ours, published)
        if probe is not None:
            raise DataError(
                f"`{published}` does not encode as `{model}` does: they differ on {probe[:40]!r}",
                hint="bind the name to the one that the text was or is to be made with: `path: …/tokenizer.model`",
            )
        data = published.read_bytes()
    fs.write_bytes(output, data, replace=True)


def _named_sample(request: TokenizerRequest, dataset: str) -> Iterator[str]:
    with at_source(dataset):
        yield from _sample(request, dataset)


def _sample(request: TokenizerRequest, dataset: str) -> Iterator[str]:
    """Documents of every k-th file, then of every k-th after those, up to `sample_bytes`."""
    read = request.reads[dataset]
    shards = dataset_shards(read, request.root)
    files, _ = list_sources(read, request.root) if shards is None else shards.list_shards(None)
    step = max(1, sum(file.bytes or 0 for file in files) // request.sample_bytes)
    remaining = request.sample_bytes
    spread = [file for first in range(step) for file in files[first::step]]
    texts: Iterator[str]
    tally, column = Tally(), read.get("text", "text")
    if read.get("extract"):
        texts = (text for _, text in chinese_docstrings(spread))
    else:
        ahead = 1 + request.sample_bytes // 1000  # small: what is read beyond the sample's end is read for nothing
        corpus = Corpus(spread, format=read.get("format"), text=column, shards=shards, batch_bytes=ahead, tally=tally)
        texts = (text[: request.sample_bytes] for batch in corpus.batches() for text in batch.texts.strings())
    for text in texts:
        yield text
        remaining -= len(text.encode())
        if remaining <= 0:
            return
    if remaining == request.sample_bytes:
        raise without_text(dataset, column, tally.columns, tally.unread)
