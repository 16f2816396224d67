"""Export of a checkpoint: from its address to the job that writes a Hugging Face directory, model card included."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts import checkpoints, huggingface, jobs
from curriculum.artifacts.job_process import StopFlag
from curriculum.artifacts.stage_folder import new_attempt
from curriculum.compiler import imported_models, tokenizers
from curriculum.compiler.compile import Compiled
from curriculum.compiler.lineage import Address, lineage, stages_to
from curriculum.compiler.prepared_text import PreparedText
from curriculum.compiler.resolve import resolve
from curriculum.config.project import Project
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import CheckpointError, ConfigError, DataError, Drift, NotFound
from curriculum.execution import model_card, trainers
from curriculum.execution.attempts import run_job
from curriculum.execution.request import RunRequest
from curriculum.runs import folders
from curriculum.runs.tokenizer import check_tokenizer
from curriculum.units import show_count

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "source": None}


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A checkpoint at an address, and the lineage that ends there. `imported` is the model that it started from."""

    address: Address
    compiled: Compiled
    texts: PreparedText
    checkpoint: Path
    state: Mapping[str, Any]
    imported: Path | None
    tokenizer: Tokenizer

    @property
    def position(self) -> int:
        return int(self.state["position"])


def find(project: Project, address: Address, size: str, command: str = "export {} --to DIR") -> ExportSource:
    """The checkpoint at `address`.

    CheckpointError naming the nearest when there is none, and the `command` that would take it; Drift when the files
    now describe another history than that of the weights.
    """
    texts = PreparedText.open(project, address.curriculum, size)
    at_zero = address.position == 0 and address.stage is None
    stages = lineage(project, address.curriculum)[:1] if at_zero else stages_to(project, address)
    compiled = texts.compile(resolve(project, address.curriculum, size, stages))
    last = compiled.stages[-1]
    imported = _imported(project, address, compiled)
    if at_zero:
        parent = compiled.stages[0].plan.parent
        if imported is None or parent is None:
            raise NotFound(
                f"`{address}` is before the first step: there are no weights yet",
                hint="give a later position; only a curriculum that begins with `from: hf:DIR` has weights at 0",
            )
        checkpoint, history = imported, parent.fingerprint
    else:
        newest = folders.checkpoint_at(folders.stage_folder(project, compiled, last), last.stop)
        if newest is None:
            raise _missing(project, address, texts.compiled, last.stop, command)
        checkpoint, history = newest.path, last.plan.history(last.stop)
    if (tokenizer := texts.loaded_tokenizer) is None:
        raise DataError(
            f"the tokenizer `{compiled.tokenizer}` that it was trained with does not exist",
            hint=f"{texts.tokenizer_way_out}; an export carries it",
        )
    check_tokenizer(texts)
    state = checkpoints.state(checkpoint)
    if state["history"] != history:
        raise Drift(
            f"`{address}` was trained with another plan than its files now describe",
            place=last.setting.place("name"),
            hint="put the files and the prepared text back "
            f"(`curriculum run {address.curriculum}{project.options(size)}` shows the difference); a model card must "
            "not tell another history than the weights have",
        )
    return ExportSource(
        address=address,
        compiled=compiled,
        texts=texts,
        checkpoint=checkpoint,
        state=state,
        imported=imported,
        tokenizer=tokenizer,
    )


def _imported(project: Project, address: Address, compiled: Compiled) -> Path | None:
    """The imported model that the lineage starts from, if it starts from one."""
    root = compiled.stages[0]
    if root.setting.imported is None or root.plan.parent is None:
        return None
    imported = imported_models.checkpoint(project, root.plan.parent.fingerprint)
    if not (imported / checkpoints.MANIFEST).is_file():
        raise CheckpointError(
            f"`{root.setting.tokenizer}` is not imported, or was changed since",
            hint=f"`curriculum prepare {address.curriculum}{project.options(compiled.size_name)}` imports it",
        )
    return imported


def _missing(project: Project, address: Address, compiled: Compiled, stop: int, command: str) -> CheckpointError:
    """The error for a lineage without a checkpoint at `stop`, with the nearest of the curriculum."""
    options = project.options(compiled.size_name)
    kept = (
        checkpoint.position
        for stage in compiled.stages
        for checkpoint in checkpoints.list_checkpoints(folders.stage_folder(project, compiled, stage))
        if checkpoint.position <= stage.stop
    )
    positions = sorted(set(kept))
    if not positions:
        return CheckpointError(
            f"`{address}` has no checkpoint yet: nothing of it was trained at size `{compiled.size_name}`",
            hint=f"`curriculum run {address.curriculum}{options}` trains it",
        )
    before = [f"{position:,} before" for position in positions if position < stop][-1:]
    after = [f"{position:,} after" for position in positions if position > stop][:1]
    nearest = folders.nearest_position(positions, stop)
    stage = next(stage for stage in compiled.stages if stage.plan.start < nearest <= stage.stop)
    proposed = folders.address_at(stage.setting, stage.plan, nearest, compiled.scale)
    hint = f"as in `curriculum {command.format(f'{proposed}{options}')}`"
    rounded = None if address.position is None else show_count(address.position)
    if stop > positions[-1]:
        hint += f"; or train on: `curriculum run {address.curriculum}{options}`"
    elif compiled.scaled and rounded and rounded in map(show_count, positions):
        hint += "; the position in an address counts full-size tokens"
    scale = f", in tokens of size `{compiled.size_name}`" if compiled.scaled else ""
    return CheckpointError(
        f"`{address}` has no checkpoint at {stop:,} tokens; the nearest: {' and '.join(before + after)}{scale}",
        hint=hint,
    )


def export(request: RunRequest, source: ExportSource, to: Path, dtype: str, stop: StopFlag) -> str | None:
    """Write the directory `to` by a job of its own; the weights' dtype, None when it was stopped."""
    check_free(to)
    job = export_job(request.project, source, to, dtype)
    done = run_job(request, job, f"the export of {source.address}", stop)
    return job.dtype if done else None


def check_free(to: Path) -> None:
    """ConfigError, before any work, for a directory that exists or cannot be made."""
    if not to.name:
        raise ConfigError("`--to` names no directory", hint="an export makes one: name it, as in `--to my-model`")
    if to.exists() or to.is_symlink():
        raise ConfigError(
            f"`{to}` exists already; nothing was written",
            hint="an export makes its own directory: name one that does not exist",
        )
    try:
        fs.check_writable(next(folder for folder in to.absolute().parents if folder.exists()))
    except OSError as error:
        raise ConfigError(
            f"`{to}` cannot be written: {error.strerror}", hint="name a directory inside a folder that is yours"
        ) from None


def export_job(project: Project, source: ExportSource, to: Path, dtype: str) -> jobs.ExportJob:
    """The job that writes the directory; an import's own files are copied unchanged."""
    trainers.require_weights(source.checkpoint, f"the export of `{source.address}`")
    origin = checkpoints.state(source.imported)["imported"] if source.imported else None
    stored = DTYPES[dtype] or (origin["dtype"] if origin else "float32")
    by_other = checkpoints.trainer_of(source.checkpoint)
    model: Mapping[str, Any] = source.compiled.stages[-1].plan.model
    if by_other is not None:
        stored, is_converted, architecture, texts, copies = _other_files(project, source, dtype)
        model = model if is_converted else {}
    elif source.imported and origin:
        texts, copies = _imported_files(source, origin, stored)
        architecture = huggingface.families.FAMILIES[origin["config"]["model_type"]].architecture
    else:
        texts, copies = _own_files(project, source, stored)
        architecture = str(json.loads(texts[huggingface.CONFIG])["architectures"][0])
    compiled = source.compiled
    command = ["curriculum", "export", str(source.address), "--size", compiled.size_name, "--to", to.name]
    folder = folders.stage_folder(project, compiled, compiled.stages[-1])
    identity = model_card.Identity(
        address=str(source.address),
        command=shlex.join(command + (["--dtype", dtype] if dtype != "source" else [])),
        version=metadata.version("curriculum"),
        dtype=stored,
        trainer=None if by_other is None else by_other[0],
        architecture=architecture,
        position=source.position,
        checkpoint=source.checkpoint.name,
        weights=checkpoints.weights_digest(source.checkpoint),
        history=str(source.state["history"]),
        tokenizer=source.tokenizer.digest,
        imported=origin,
        environment=model_card.environment(folder) if source.position else {},
    )
    texts[huggingface.README] = model_card.card(project, compiled, source.texts, identity)
    return jobs.ExportJob(
        attempt_folder=str(new_attempt(project.data / "attempts")),
        checkpoint=str(source.checkpoint),
        output=str(to.absolute()),
        model=model,
        dtype=stored,
        dtypes=origin["dtypes"] if origin and dtype == "source" else {},
        texts=texts,
        copies=copies,
    )


def _other_files(
    project: Project, source: ExportSource, dtype: str
) -> tuple[str, bool, str, dict[str, str], dict[str, str]]:
    """The dtype, whether our model converts the weights to it, architecture, texts to write and files to copy of
    another trainer's Hugging Face model.

    The project's tokenizer joins them where the trainer saved none. DataError for weights of another dtype than is
    wanted, whose model is not the plan's.
    """
    folder = checkpoints.hf_folder(source.checkpoint)
    config = huggingface.read_json(folder, huggingface.CONFIG)
    saved = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    stored = DTYPES[dtype] or saved
    architecture = str(next(iter(config.get("architectures") or ()), config.get("model_type")))
    copies = {path.name: str(path) for path in sorted(folder.iterdir()) if huggingface.is_carried(path.name)}
    texts, ours = ({}, {}) if huggingface.TOKENIZER in copies else _own_files(project, source, stored)
    texts = {name: text for name, text in texts.items() if name not in copies}
    copies = {**ours, **copies}
    if stored != saved:
        trainers.require_our_model(source.checkpoint, f"an export in `{stored}`")
        copies = {name: path for name, path in copies.items() if not huggingface.is_weights(name)}
        del copies[huggingface.CONFIG]
        texts[huggingface.CONFIG] = _json(huggingface.with_dtype(config, stored))
    return stored, stored != saved, architecture, texts, copies


def _imported_files(
    source: ExportSource, origin: Mapping[str, Any], dtype: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Texts to write and files to copy, by name, for weights that continue an imported model."""
    assert source.imported is not None
    texts: dict[str, str] = {}
    copies = {path.name: str(path) for path in sorted((source.imported / huggingface.SOURCE).iterdir())}
    before, model = origin["model"], source.compiled.stages[-1].plan.model
    config = huggingface.with_dtype(origin["config"], dtype) if dtype != origin["dtype"] else origin["config"]
    positions = max(before["max_position_embeddings"], model["max_position_embeddings"])
    now = {**model, "max_position_embeddings": positions}
    if any(now.get(key) != before.get(key) for key in ("rope_theta", "rope_scaling", "max_position_embeddings")):
        config = huggingface.config.with_context(config, now)
    if config is not origin["config"]:
        del copies[huggingface.CONFIG]
        texts[huggingface.CONFIG] = _json(config)
    return texts, copies


def _own_files(project: Project, source: ExportSource, dtype: str) -> tuple[dict[str, str], dict[str, str]]:
    """Texts to write and files to copy, by name, for weights that started from random ones."""
    model, tokenizer = source.compiled.stages[-1].plan.model, source.tokenizer
    eos, bos = tokenizer.eos_id, tokenizer.bos_id
    special_tokens = {
        name: tokenizer.mark(number) for name, number in (("bos_token", bos), ("eos_token", eos)) if number is not None
    }
    values = {
        huggingface.CONFIG: huggingface.config_of(model, dtype=dtype, eos=eos, bos=bos),
        "generation_config.json": {"_from_model_config": True, "bos_token_id": bos, "eos_token_id": eos},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model["max_position_embeddings"],
            "clean_up_tokenization_spaces": False,
            **special_tokens,
        },
        "special_tokens_map.json": special_tokens,
    }
    texts = {name: _json(value) for name, value in values.items() if value}
    return texts, {huggingface.TOKENIZER: str(tokenizers.tokenizer_file(project, source.compiled.tokenizer))}


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
