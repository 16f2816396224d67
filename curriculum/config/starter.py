"""The template of a first project for the user's own text: small files that train unchanged, with comments.

The amount of text is estimated from file sizes alone: no tokenizer is trained yet. The lengths and the held-out
share allow for an estimate that is wrong by half.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final

from curriculum import config
from curriculum.config.evaluation_budget import evaluation_budget
from curriculum.config.fields import LONGEST_NAME
from curriculum.config.yaml import parse_yaml
from curriculum.data.held_out import few_documents
from curriculum.data.listing import list_files
from curriculum.errors import ConfigError, DataError
from curriculum.units import show_bytes, show_count, show_share

CURRICULUM: Final = "first"
SEQUENCE_LENGTH: Final = 128
VOCABULARY: Final = 2048
LARGEST_RUN: Final = 2_000_000
"""Tokens, some minutes on a laptop: a first run should be short, however much text there is."""
PASSES: Final = 16
"""Allowed where the text sets the length of the run: 2 are meant, but the amount of text is estimated from its bytes,
and which of few documents are held out, small ones or large ones, is decided by content."""
LEAST_TEXT: Final = 20_000
"""Tokens: half of them held out are about the 64 windows needed, with some to spare."""
LEAST_DOCUMENTS: Final = 20
TOKENIZER: Final = "mine-2k"
_HELD_OUT_TOKENS: Final = (16_000, 100_000)
"""The target: twice the 64 windows that are needed, and no more than an evaluation reads in seconds."""
_HELD_OUT_DOCUMENTS: Final = 4
"""The target: which documents are held out is decided by content, so of fewer there might be none."""
_COMPRESSION: Final = 3  # the ratio of gzip, zstd and Parquet, roughly


@dataclass(frozen=True, slots=True)
class Source:
    """A folder of text and its name as a source: `folder` as in sources.yaml, `tokens` estimated at 4 bytes each.

    `documents` are its files where each is one, None where rows are."""

    name: str
    folder: str
    bytes: int
    tokens: int
    held_out: Fraction
    documents: int | None

    @property
    def trained_on(self) -> int:
        return int(self.tokens * (1 - self.held_out))

    @property
    def held_out_note(self) -> str | None:
        """What is to be said where about too few documents are held out to judge differences by."""
        return None if self.documents is None else few_documents(round(self.documents * self.held_out))


def sources(project: Path, folders: Sequence[str]) -> list[Source]:
    """The sources in `folders`, for a project at `project`; ConfigError for a folder that cannot be trained on."""
    root = project.resolve()
    by_folder: dict[Path, Source] = {}
    for argument in folders:
        folder = Path(argument).resolve()
        if not folder.is_dir():
            hint = "name a folder of .txt, .md, .jsonl or .parquet files that is there"
            if "://" in argument:
                hint = "begin with a local folder; then say `read: {folder: URL}` in sources.yaml"
            raise ConfigError(f"`{argument}` is not a directory; nothing was written", hint=hint)
        if root.is_relative_to(folder) or any(
            folder.is_relative_to(root / own) for own in ("stages", "mixtures", "runs", "data")
        ):
            raise ConfigError(
                f"`{argument}` would also hold files that the project writes, and they would be read as text",
                hint="put the text into a folder of its own, as in `texts`",
            )
        if not str(folder).isprintable():
            raise ConfigError(f"the name of {argument!r} cannot be written into a file", hint="rename the folder")
        if folder not in by_folder:
            name = free_name(folder.name, {source.name for source in by_folder.values()})
            path = str(folder) if Path(argument).is_absolute() else os.path.relpath(folder, root)
            by_folder[folder] = _source(name, path, argument, folder)
    return list(by_folder.values())


def files(sources: Sequence[Source]) -> dict[str, str]:
    """The YAML files of the project, by path, each without its modeline."""
    names = [source.name for source in sources]
    cooldown = first = names[0]
    end = _rounded(min(LARGEST_RUN, 2 * sources[0].trained_on))  # both stages read the first source about twice
    until = _rounded(end * 4 // 5)
    may_repeat = any(2 * source.trained_on < LARGEST_RUN for source in sources)
    mixtures = {name: _mixture(f"{name} alone", {name: 1}, may_repeat=may_repeat) for name in names}
    if len(sources) > 1:
        cooldown = free_name("blend", names)
        about = f"{first} with the other text mixed in"
        mixtures[cooldown] = _mixture(about, _blend(sources, end - until), may_repeat=may_repeat)
    return {
        "sources.yaml": _sources_file(sources),
        "sizes.yaml": SIZES,
        "machines.yaml": MACHINES,
        **{f"mixtures/{name}.yaml": text for name, text in mixtures.items()},
        f"stages/{CURRICULUM}.yaml": _stages_file(sources, until, end, cooldown),
    }


def free_name(folder: str, taken: Collection[str]) -> str:
    """The folder's name as a valid name of a source that is not in `taken`."""
    name = re.sub(r"[^a-z0-9.]+", "-", folder.lower()).lstrip("-.0123456789")
    name = re.sub(r"\.{2,}", ".", name)[: LONGEST_NAME - 8].rstrip("-.") or "text"
    if parse_yaml(f"name: {name}".encode(), "name").value != {"name": name}:  # `null`, `true`
        name += "-text"
    assert config.is_name(name)
    candidates = (name, *(f"{name}-{n}" for n in range(2, 1000)))
    return next(candidate for candidate in candidates if candidate not in taken)


def _source(name: str, path: str, argument: str, folder: Path) -> Source:
    try:
        files = list_files({"folder": str(folder)})
    except DataError:
        raise ConfigError(
            f"`{argument}` holds no file that can be read as text; nothing was written",
            hint="what is read: .txt and .md (a file is a document), .jsonl and .parquet (a row is one), "
            "also packed as .gz or .zst",
        ) from None
    except OSError as error:
        raise ConfigError(f"`{argument}` cannot be read: {error}", hint="mend or remove that file") from None
    sizes = [
        (file.bytes or 0) * (_COMPRESSION if file.name.endswith((".gz", ".zst", ".parquet")) else 1) for file in files
    ]
    names = [file.name.removesuffix(".gz").removesuffix(".zst") for file in files]
    by_rows = any(not file.endswith((".txt", ".md")) for file in names)
    tokens = sum(sizes) // 4
    if tokens < LEAST_TEXT:
        raise ConfigError(
            f"`{argument}` holds {show_bytes(sum(sizes))} of text: too little to hold some of it out and train on the "
            "rest",
            hint=f"{show_bytes(4 * LEAST_TEXT)} would do",
        )
    if not by_rows and len(files) < LEAST_DOCUMENTS:
        raise ConfigError(
            f"`{argument}` holds {len(files)} document{'s' * (len(files) > 1)}: whole ones are held out to measure the "
            "loss on, so there must be more",
            hint=f"{LEAST_DOCUMENTS} would do, a hundred are better; "
            "`split -n l/100 --additional-suffix=.txt FILE FOLDER/part-` cuts a file into a hundred",
        )
    documents = None if by_rows else len(files)
    return Source(name, path, sum(sizes), tokens, _held_out(tokens, documents), documents)


def _held_out(tokens: int, documents: int | None) -> Fraction:
    """5%, or more where that would be too little to measure on, or less where it would take long."""
    least, most = (Fraction(target, tokens) for target in _HELD_OUT_TOKENS)
    if documents is not None:
        least = max(least, Fraction(_HELD_OUT_DOCUMENTS, documents))
    share = max(least, min(most, Fraction(5, 100)))
    scale = 100 if share >= Fraction(1, 100) else 10 ** (len(str(int(1 / share))) + 1)
    return min(Fraction(1, 2), Fraction(math.ceil(share * scale), scale))


def _rounded(tokens: int) -> int:
    """Two digits, which are enough for an estimate."""
    scale: int = 10 ** (len(str(tokens)) - 2)
    return round(tokens / scale) * scale


def _blend(sources: Sequence[Source], tokens: int) -> dict[str, int]:
    """Percents for a stage of `tokens`: half for the others together, but none of them read more than twice."""
    first, *others = sources
    most = max(1, 50 // len(others))
    weights = {other.name: max(1, min(most, 200 * other.trained_on // tokens)) for other in others}
    return {first.name: max(1, 100 - sum(weights.values())), **weights}


def _mixture(about: str, weights: Mapping[str, int], *, may_repeat: bool) -> str:
    shown = ", ".join(f"{name}: {weight}" for name, weight in weights.items())
    text = f"about: {about}\nweights: {{{shown}}}    # proportions of tokens, on any scale\n"
    if may_repeat:
        passes = ", ".join(f"{name}: {PASSES}" for name in weights)
        text += f"passes: {{{passes}}}    # how often each may be read; without this line 4 times\n"
    return text


def _sources_file(sources: Sequence[Source]) -> str:
    entries = "".join(_entry(source) for source in sources)
    trained = ", ".join(source.name for source in sources)
    return f"""\
# What the names in mixtures/ and stages/ are bound to here.
tokenizers:
  # A byte-level BPE, trained on your text in seconds. One that you have is named by `path: FOLDER/tokenizer.json`.
  {TOKENIZER}: {{train: [{trained}], vocab_size: {VOCABULARY}}}

sources:
  # `folder` is absolute or from this project's; every .txt, .md, .jsonl and .parquet in it is read. A row
  # of the last two is a document, its column `text` the text; another one is named there, as in `text: body`.
  # `held_out` is never trained on: the loss is measured on it. It needs 64 windows of whole documents.
  # `licence` is for people: `plan` and model cards show it.
{entries}"""


def _entry(source: Source) -> str:
    return f"""\
  {source.name}:
    about: {show_bytes(source.bytes)} of text, about {show_count(source.tokens)} tokens at 4 bytes each
    read: {{folder: {json.dumps(source.folder, ensure_ascii=False)}}}
    held_out: {show_share(source.held_out)}
    licence: not stated
"""


def _stages_file(sources: Sequence[Source], until: int, end: int, cooldown: str) -> str:
    first = sources[0]
    parts, windows = evaluation_budget((until, end), len(sources), SEQUENCE_LENGTH, (4, 2, 1))
    other = "" if cooldown == first.name else f" mixture: {cooldown},"
    evaluate, checkpoint = (show_count(_rounded(end // number)) for number in (parts, 4))
    return f"""\
# One file is one curriculum. A stage keeps whatever it does not change.
about: a first curriculum, on {first.name}
seed: 1
# Small, so that the first run takes minutes; `model: tinyllama-1.1b` would name one of the catalogue.
model: {{hidden_size: 96, num_hidden_layers: 3, num_attention_heads: 4, num_key_value_heads: 2,
        intermediate_size: 256, vocab_size: {VOCABULARY}}}
tokenizer: {TOKENIZER}                    # of sources.yaml; it has no more ids than the model's vocab_size
sequence_length: {SEQUENCE_LENGTH}                  # tokens of a window
optimizer: {{name: adamw, betas: [0.9, 0.95], weight_decay: 0.1}}
# The rate falls from max to min up to the horizon, which is where the last stage ends.
learning_rate: {{shape: cosine, max: 3e-3, min: 3e-4, warmup: 10 steps, horizon: {show_count(end)}}}
every: {{evaluate: {evaluate}, checkpoint: {checkpoint}}}
# Of each source, in an evaluation: so many that all evaluations together take less than a tenth of the compute.
held_out_windows: {windows}
# `until` counts tokens from the beginning. To choose it: {first.name} has about
# {show_count(first.trained_on)} tokens to train on, estimated at 4 bytes each. Both stages together read that about
# twice, but {show_count(LARGEST_RUN)} tokens at most, so that a first run is soon over. Once the text is prepared,
# `curriculum plan {CURRICULUM}` shows under `passes` how often it is really read; beyond 4 a mixture must allow it.
stages:
  - {{name: main,     until: {show_count(until)}, mixture: {first.name}, batch: 8 sequences}}
  - {{name: cooldown, until: {show_count(end)},{other} batch: 16 sequences}}   # the rate keeps falling
"""


SIZES: Final = """\
# What is scaled. Lengths are small already, so one size is enough: everything as the stage files say.
full: {}
"""

MACHINES: Final = """\
# Where and how. May change at every restart: the tokens of each step stay the same.
local: {launcher: process, precision: auto}
"""
