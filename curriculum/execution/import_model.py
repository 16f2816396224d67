"""The draft of a curriculum that starts from a Hugging Face directory: one stage file to edit."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum import config, fs
from curriculum.artifacts import huggingface
from curriculum.compiler.cadence import HELD_OUT_WINDOWS
from curriculum.compiler.lineage import lineage
from curriculum.config import json_schema
from curriculum.config.evaluation_budget import evaluation_budget
from curriculum.config.layout import PREFIX
from curriculum.config.project import Project
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import ConfigError, NotFound, PlanError, did_you_mean
from curriculum.units import Length, parse_count

BATCH_TOKENS = 1 << 20
LEAST_STEPS = 100
SEQUENCE_LENGTH = 2048
_PLAIN = re.compile(r"[\w./~+-]+", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Import:
    """The text of a curriculum's stage file, and the model and tokenizer that it starts from."""

    name: str
    text: str
    directory: huggingface.Directory
    tokenizer: Tokenizer


def draft(project: Project, source: Path, name: str, mixture: str | None, tokens: str) -> Import:
    """The stage file for the directory `source`, not yet written; DataError for a directory that cannot be used."""
    project.check_is_new(name)
    try:
        length = parse_count(tokens)
    except ValueError as error:
        raise PlanError(f"`--tokens`: {error}", hint="as in `--tokens 10B`") from None
    if not 1 <= length <= config.LARGEST_COUNT:
        raise PlanError("`--tokens` must be more than 0 and at most 10^18", hint="as in `--tokens 10B`")
    directory = huggingface.read(source)
    tokenizer = Tokenizer.load(source / huggingface.TOKENIZER)
    if tokenizer.vocab_size > directory.model["vocab_size"]:
        raise ConfigError(
            f"`{source}` cannot be imported: its tokenizer has {tokenizer.vocab_size:,} ids, its model "
            f"{directory.model['vocab_size']:,}",
            hint="tokenizer and weights of the directory do not belong together",
        )
    text = _text(project, directory, name, _mixture(project, mixture), length)
    lineage(project.with_draft(name, text), name)  # the draft is parsed before it is written
    return Import(name=name, text=text, directory=directory, tokenizer=tokenizer)


def write(project: Project, draft: Import) -> Path:
    """Write the stage file; ConfigError when it exists."""
    path = project.root / "stages" / f"{draft.name}.yaml"
    try:
        fs.write_bytes(path, draft.text.encode())
    except FileExistsError:
        raise ConfigError(f"`stages/{draft.name}.yaml` exists already", hint="take another name") from None
    return path


def _mixture(project: Project, name: str | None) -> str:
    names = project.names("mixtures")
    if name is None:
        if len(names) == 1:
            return names[0]
        raise NotFound("no mixture given", hint=f"`--mixture NAME`; there are: {', '.join(names)}")
    if name not in names:
        raise NotFound(f"unknown mixture `{name}`", hint=did_you_mean(name, names))
    return name


def _text(project: Project, directory: huggingface.Directory, name: str, mixture: str, tokens: int) -> str:
    positions = int(directory.model["max_position_embeddings"])
    sequence_length = min(SEQUENCE_LENGTH, positions)
    batch = _batch(project, sequence_length, tokens)
    folder = Path(os.path.abspath(directory.folder))  # relative to the project when it is inside
    origin = f"{PREFIX}{folder.relative_to(project.root) if folder.is_relative_to(project.root) else folder}"
    plain = _PLAIN.fullmatch(origin.replace(":", "", 1))
    sources = len(project.mixture(mixture)[0].weights)
    parts, windows = evaluation_budget((tokens,), sources, sequence_length, (20, 10, 4, 2, 1))
    lines = [
        json_schema.modeline(f"stages/{name}.yaml"),
        "# Starts from the weights of a Hugging Face directory and keeps its model and its tokenizer, so neither is",
        f"# stated here, nor does a size change them: {directory.parameters:,} parameters, "
        f"{directory.model['num_hidden_layers']} layers, stored as {directory.dtype}.",
        f"about: {json.dumps(directory.folder.resolve().name + ', continued on ' + mixture)}",
        f"from: {origin if plain else json.dumps(origin, ensure_ascii=False)}",
        "seed: 3407                            # keys every draw",
        f"sequence_length: {sequence_length:<21}# at most {positions:,}, the positions of the model",
        "optimizer: {name: adamw, betas: [0.9, 0.95], weight_decay: 0.1, clip_norm: 1.0}   # its state begins fresh",
        "# The rate of continued training is yours to choose; most take less than the model's own highest.",
        f"learning_rate: {{shape: cosine, max: 1e-4, min: 1e-5, warmup: {_tokens(tokens, 100)}, "
        f"horizon: {_tokens(tokens, 1)}}}",
        f"every: {{evaluate: {_tokens(tokens, parts)}, checkpoint: {_tokens(tokens, 20)}}}",
        f"held_out_windows: {min(windows, HELD_OUT_WINDOWS):<20}# of each source: less than a tenth of the compute",
        "stages:                               # `until` counts tokens from the import on",
        f"  - {{name: continued, until: {Length(tokens, 'tokens')}, mixture: {mixture}, batch: {batch} sequences}}"
        f"   # {batch * sequence_length:,} tokens",
    ]
    return "\n".join(lines) + "\n"


def _batch(project: Project, sequence_length: int, tokens: int) -> int:
    """Sequences of a batch of about `BATCH_TOKENS`, fewer in a short run: a number that every size here can scale,
    times a power of two, which the usual numbers of GPUs divide.
    """
    scalings = [entry.batch for entry in project.sizes.root.values() if entry.batch is not None]
    step = math.lcm(*(s.from_ // math.gcd(s.from_, s.to) for s in scalings if s.from_ is not None))
    ideal = min(BATCH_TOKENS, tokens // LEAST_STEPS) / sequence_length / step
    return step << max(0, round(math.log2(max(1.0, ideal))))


def _tokens(tokens: int, divisor: int) -> str:
    """`tokens` divided by `divisor`, spelled as a length."""
    text = str(Length(max(1, tokens // divisor), "tokens"))
    return f"{text} tokens" if text[-1].isdigit() else text


def summary(draft: Import) -> dict[str, Any]:
    """The contents of the directory, as JSON values."""
    directory, model = draft.directory, draft.directory.model
    scaling: Mapping[str, Any] | None = model.get("rope_scaling")
    return {
        "directory": str(directory.folder),
        "parameters": directory.parameters,
        "family": huggingface.families.FAMILIES[str(directory.config["model_type"])].title,
        "model": dict(model),
        "rotary": f"base {model['rope_theta']:g}" + (f", {scaling['rope_type']}" if scaling else ""),
        "dtype": directory.dtype,
        "dtypes": directory.dtypes,
        "files": list(directory.weight_files),
        "bytes": directory.weight_bytes,
        "tokenizer": {
            "ids": draft.tokenizer.vocab_size,
            "end_of_text": None if draft.tokenizer.eos_id is None else draft.tokenizer.mark(draft.tokenizer.eos_id),
            "sha256": draft.tokenizer.digest,
        },
        "left_out": sorted(directory.left_out),
        "unread": list(directory.unread),
    }
