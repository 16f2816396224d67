"""The files that a recipe makes: stages/, mixtures/ and entries of sources.yaml, each fact with its place."""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from curriculum import config, fs
from curriculum.config import init, json_schema, layout, starter
from curriculum.config.project import Project
from curriculum.config.recipes.recipe import SEQUENCE_LENGTH, Fact, Recipe, Statement, Text, flow, spelled
from curriculum.config.yaml import Document, parse_yaml
from curriculum.errors import ConfigError
from curriculum.units import Length, parse_length

BATCH_TOKENS: Final = 1 << 20
HELD_OUT: Final = "0.1%"
_OURS: Final = "not stated there: ours, for you to edit"
_ASSUMED: Final = {
    "seed": "3407",
    "model": "tinyllama-1.1b",
    "optimizer": "{name: adamw, betas: [0.9, 0.95], weight_decay: 0.1, clip_norm: 1}",
}
_PLAIN: Final = re.compile(r"[A-Za-z][\w./~+-]*|[./~][\w./~+-]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class StageSummary:
    """A written stage: steps are None where its length is stated in tokens."""

    name: str
    mixture: str
    steps: int | None
    batch: str
    tokens: int
    sources: int


@dataclass(frozen=True, slots=True)
class Draft:
    """The files of a recipe by path, not yet written, and what is to be said of them; `is_new`: there is no project."""

    name: str
    project: Project
    is_new: bool
    files: Mapping[str, str]
    stages: Sequence[StageSummary]
    sources: int
    assumed: Sequence[str]


def draft(recipe: Recipe, name: str, tokens: Length, folder: Path) -> Draft:
    """The files of `recipe` as the curriculum `name`, for the project around `folder`, or a new one in it.

    ConfigError for a name that is taken, and for numbers of the recipe that no file here can state.
    """
    root_folder = layout.root_around(folder)
    project = Project(root_folder or folder)
    project.check_is_new(name)
    present = None if root_folder is None else project.sources
    entries = {} if present is None else present.sources
    names = _source_names(recipe.texts, entries)
    assumed: list[str] = []
    root = dict(recipe.root)

    def assume(key: str, text: str) -> str:
        """The text of a key of the root, ours where the recipe does not state it."""
        if key not in root:
            assumed.append(f"{key}: {text}")
            root[key] = Fact(text)
        return root[key].text

    for key, text in _ASSUMED.items():
        assume(key, text)
    sequence_length = int(assume("sequence_length", str(SEQUENCE_LENGTH)))
    lengths: list[tuple[Fact, Fact, int]] = []
    for stage in recipe.stages:
        length, batch = stage.length, stage.batch
        if not batch.text:
            batch = Fact(f"{max(1, BATCH_TOKENS // sequence_length)} sequences")
            assumed.append(f"batch: {batch.text}")
        if not length.text:
            length = Fact(_tokens(tokens))
            assumed.append(f"tokens: {length.text}, by `--tokens`")
        lengths.append((length, batch, _in_tokens(length.text, batch.text, sequence_length)))
    end = sum(each for *_, each in lengths)
    rise = max(1, end // 100)
    assume("learning_rate", f"{{shape: cosine, max: 3e-4, min: 3e-5, warmup: {rise:_} tokens, horizon: {end:_}}}")
    tokenizer = _tokenizer(recipe.tokenizer, {} if present is None else present.tokenizers)
    if recipe.tokenizer is None:
        assumed.append(f"tokenizer: {tokenizer[0]}")
    assumed.append(f"held_out: {HELD_OUT} of each source")
    mixtures, stages, summaries = _stages(recipe, name, names, lengths)
    new = {path: text for path, text in recipe.texts.items() if names[path] not in entries}
    assumed.append("tokens of each source: about as many as the recipe reads of it")
    read: dict[str, Fraction] = {}
    for stage, (*_, length_in_tokens) in zip(recipe.stages, lengths, strict=True):
        shares = stage.blend.shares()
        for path, weight in shares.items():
            share = Fraction(weight) / Fraction(sum(shares.values()))
            read[path] = read.get(path, Fraction(0)) + share * length_in_tokens
    files = {
        **mixtures,
        "sources.yaml": _sources(
            None if present is None else project, tokenizer, {names[p]: (t, read[p]) for p, t in new.items()}
        ),
        f"stages/{name}.yaml": _stage_file(recipe, name, root, tokenizer, stages),
    }
    for file, text in files.items():
        document = parse_yaml(text.encode(), f"in the file that would be written, {file}")
        config.validate(json_schema.FILES[file.partition("/")[0].removesuffix(".yaml")], document)
    taken = [file for file in mixtures if Path(file).stem in project.names("mixtures")]
    if taken:
        raise ConfigError(f"`{taken[0]}` exists already; nothing was written", hint="take another name after `--as`")
    return Draft(name, project, present is None, files, summaries, len(new), assumed)


def write(draft: Draft) -> list[Path]:
    """Write the files, the stage file as the last."""
    root = draft.project.root
    if draft.is_new:
        others = {"sizes.yaml": starter.SIZES, "machines.yaml": starter.MACHINES}
        init.write_project(root, {**draft.files, **others})
        return [root / path for path in (*draft.files, *others)]
    for path, text in draft.files.items():
        is_sources = path == "sources.yaml"
        content = text if is_sources else f"{json_schema.modeline(path)}\n{text}"
        fs.write_bytes(root / path, content.encode(), replace=is_sources)
    return [root / path for path in draft.files]


# --- stages and mixtures -----------------------------------------------------------------------------------


def _stages(
    recipe: Recipe, name: str, names: Mapping[str, str], lengths: Sequence[tuple[Fact, Fact, int]]
) -> tuple[dict[str, str], list[str], list[StageSummary]]:
    """Mixture files by path, the lines of the stages, and their summaries; equal blends are one mixture."""
    mixtures: dict[str, str] = {}
    by_shares: list[tuple[dict[str, Decimal], str]] = []
    lines: list[str] = []
    summaries: list[StageSummary] = []
    before: dict[str, str] = {}
    several = any(stage.blend.shares() != recipe.stages[0].blend.shares() for stage in recipe.stages)
    for stage, (length, batch, tokens) in zip(recipe.stages, lengths, strict=True):
        shares = stage.blend.shares()
        mixture = next((other for earlier, other in by_shares if earlier == shares), None)
        if mixture is None:
            mixture = f"{name}-{len(by_shares) + 1}" if several else name
            by_shares.append((shares, mixture))
            mixtures[f"mixtures/{mixture}.yaml"] = _mixture_file(recipe, stage.name, shares, stage.blend, names)
        own = starter.free_name(stage.name, {summary.name for summary in summaries})
        entry = {"mixture": mixture, "batch": batch.text}
        if recipe.mask_documents is not None:
            entry["mask_documents"] = recipe.mask_documents.text
        stated = {"name": own, "tokens": length.text, **{k: v for k, v in entry.items() if before.get(k) != v}}
        facts = [length, *([batch] if "batch" in stated else [])]
        facts += [recipe.mask_documents] if recipe.mask_documents is not None and not before else []
        lines += [line for each in facts for line in _comment(each, "  ")]
        lines.append(f"  - {flow(stated)}")
        before = entry
        parsed = parse_length(length.text)
        steps = parsed.amount if parsed.unit == "steps" else None
        summaries.append(StageSummary(own, mixture, steps, batch.text, tokens, len(shares)))
    return mixtures, lines, summaries


def _mixture_file(
    recipe: Recipe, stage: str, shares: Mapping[str, Decimal], blend: Any, names: Mapping[str, str]
) -> str:
    lines = [f"about: {_quoted(f'{recipe.trainer}, {stage}')}", "weights:"]
    for path, weight in shares.items():
        lines.append(f"  {names[path]}: {spelled(weight)}   # {blend.weights[path].where}")
    if blend.passes:
        lines.append("passes:")
        lines += [f"  {names[path]}: {limit.text}   # {_origin(limit)}" for path, limit in blend.passes.items()]
    return "\n".join(lines) + "\n"


def _stage_file(
    recipe: Recipe, name: str, root: Mapping[str, Fact], tokenizer: tuple[str, str, str], stages: Sequence[str]
) -> str:
    files = ", ".join(Path(file).name for file in recipe.files)
    lines = [
        f"# Written by `curriculum recipe` from {files}; above each key stands where it is from.",
        f"about: {_quoted(f'{name}, a recipe of {recipe.trainer}')}",
    ]
    for key in ("seed", "model", "tokenizer", "sequence_length", "optimizer", "learning_rate", "every"):
        if key == "tokenizer":
            lines += [f"# {tokenizer[2]}", f"tokenizer: {tokenizer[0]}"]
        elif key in root:
            text = textwrap.wrap(f"{key}: {root[key].text}", 110, subsequent_indent="  ", break_on_hyphens=False)
            lines += [*_comment(root[key]), *text]
    return "\n".join([*lines, "stages:", *stages]) + "\n"


def _comment(stated: Fact, indent: str = "") -> list[str]:
    start = f"{indent}# "
    return textwrap.wrap(_origin(stated), 110, initial_indent=start, subsequent_indent=start, break_on_hyphens=False)


def _origin(stated: Fact) -> str:
    return _OURS if stated.assumed else stated.origin


def _tokens(length: Length) -> str:
    text = str(length)
    return f"{text} tokens" if text[-1].isdigit() else text


def _in_tokens(length: str, batch: str, sequence_length: int) -> int:
    if batch.startswith("{"):  # it grows, and the length is not in steps
        return parse_length(length).tokens(sequence_length=sequence_length, batch_sequences=0)
    each = parse_length(batch).tokens(sequence_length=sequence_length, batch_sequences=0)
    return parse_length(length).tokens(sequence_length=sequence_length, batch_sequences=max(1, each // sequence_length))


# --- sources -----------------------------------------------------------------------------------------------


def _source_names(texts: Mapping[str, Text], entries: Mapping[str, config.SourceEntry]) -> dict[str, str]:
    """A name for each text: the shortest end of its path that no other has; that of an entry which reads the same."""
    names_of_options = {json.dumps(entry.read_options(), sort_keys=True): name for name, entry in entries.items()}
    parts = {path: [text.name] if text.name else [p for p in path.split("/") if p] for path, text in texts.items()}
    names: dict[str, str] = {}
    for path, own in parts.items():
        length = 1
        while length < len(own) and any(own[-length:] == other[-length:] for p, other in parts.items() if p != path):
            length += 1
        read = {key: list(value) if isinstance(value, tuple) else value for key, value in texts[path].read.items()}
        same = names_of_options.get(json.dumps(read, sort_keys=True))
        short = "-".join(own[-length:]).removesuffix("_text_document") or "text"
        names[path] = same or starter.free_name(short, {*names.values(), *entries})
    return names


def _tokenizer(stated: Statement | None, tokenizers: Mapping[str, config.TokenizerEntry]) -> tuple[str, str, str]:
    """Name, path and comment of the tokenizer that the recipe names; else one of the project, or Llama 2's."""
    if stated is None:
        name = next(iter(tokenizers), "llama-2")
        return name, f"tokenizers/{name}/tokenizer.json", _OURS
    path = str(stated.value)
    name = starter.free_name(path.rstrip("/").rpartition("/")[2].partition(".model")[0] or path, ())
    if not path.startswith(("/", ".", "~")) and not path.endswith((".model", ".json")):
        path = f"tokenizers/{name}/tokenizer.json"
    if name in tokenizers and tokenizers[name].path != path:
        name = starter.free_name(name, tokenizers)
    return name, path, stated.origin


def _sources(
    project: Project | None, tokenizer: tuple[str, str, str], texts: Mapping[str, tuple[Text, Fraction]]
) -> str:
    """The whole sources.yaml: a new one, or the project's with entries added below those that are there."""
    name, path, origin = tokenizer
    entry = [f"  {name}: {{path: {_quoted(path)}}}   # {origin}: put its file there"]
    lines: list[str] = []
    for source, (text, tokens) in texts.items():
        read = {key: _list(value) if isinstance(value, tuple) else _quoted(value) for key, value in text.read.items()}
        lines += [f"  {source}:", f"    read: {flow(read)}   # {text.stated.where}"]
        lines.append(f"    held_out: {HELD_OUT}   # {_OURS}")
        lines.append(f"    tokens: {_rounded_up(tokens)}   # {_OURS}")
        lines += [
            "    tokens_from: as many as the recipe reads of it; its size is not stated there",
            "    assumed: true",
        ]
    if project is None:
        head = "# What the names in mixtures/ and stages/ are bound to here."
        return "\n".join([head, "tokenizers:", *entry, "", "sources:", *lines]) + "\n"
    document = project.sources_document
    content = "\n".join(document.lines)
    if name not in project.sources.tokenizers:
        content = _added(document, content, "tokenizers", entry)
    if lines:
        content = _added(parse_yaml(content.encode(), document.file), content, "sources", lines)
    return content


def _added(document: Document, content: str, section: str, entries: Sequence[str]) -> str:
    """`content` with `entries` at the end of a section of it, as deep as those that are there."""
    lines = content.split("\n")
    if (section,) not in document:
        return "\n".join([f"{section}:", *entries, "", *lines])
    first = document.key_place(
        (section, next(iter(document.value[section]), "")) if document.value[section] else (section,)
    )
    begin = document.key_place((section,))
    if first.line == begin.line:
        raise ConfigError(
            f"`{section}` is written in braces, so no entry can be added to it; nothing was written",
            place=begin,
            hint=f"write it as a block: each entry of `{section}` on lines of its own",
        )
    places = [document.key_place((key,)).line for key in document.value]
    end = min((line for line in places if line > begin.line), default=len(lines) + 1) - 1
    while end > begin.line and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    indented = [" " * (first.column - 3) + entry if entry else entry for entry in entries]
    return "\n".join([*lines[:end], *indented, *lines[end:]])


def _rounded_up(tokens: Fraction) -> str:
    """A little more than `tokens`, in two digits: a pass of so many windows is not exceeded by rounding."""
    most = math.ceil(tokens * Fraction(101, 100)) + SEQUENCE_LENGTH
    scale = 10 ** max(0, len(str(most)) - 2)
    return str(Length(-(-most // scale) * scale, "tokens"))


def _list(values: Collection[str]) -> str:
    shown = [_quoted(value) for value in values]
    return shown[0] if len(shown) == 1 else f"[{', '.join(shown)}]"


def _quoted(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and parse_yaml(f"key: {text}".encode(), "text").value == {"key": text}
    return text if plain else json.dumps(text, ensure_ascii=False)
