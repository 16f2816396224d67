"""From an address to the job that writes its weights as a Hugging Face directory, with all that stands beside them."""

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
from curriculum.compiler import imported_models, prepared_text, tokenizers
from curriculum.compiler.compile import Compiled
from curriculum.compiler.lineage import Address, lineage, stages_to
from curriculum.compiler.resolve import resolve
from curriculum.config.project import Project
from curriculum.data.tokenizer import Tokenizer
from curriculum.errors import CheckpointError, ConfigError, DataError, Drift, NotFound
from curriculum.execution import model_card
from curriculum.execution.attempts import run_job
from curriculum.execution.request import RunRequest
from curriculum.runs import folders
from curriculum.units import show_count

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "source": None}


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """What an address stands for: a checkpoint, and the lineage that ends there."""

    address: Address
    compiled: Compiled
    texts: prepared_text.PreparedText
    checkpoint: Path
    state: Mapping[str, Any]
    imported: Path | None
    tokenizer: Tokenizer

    @property
    def position(self) -> int:
        return int(self.state["position"])


def find(project: Project, address: Address, size: str, asking: str = "export {} --to DIR") -> ExportSource:
    """The checkpoint at `address`. CheckpointError naming the nearest when there is none (`asking` is the command
    that would take it); Drift when the files now describe another history than that which led to it."""
    texts = prepared_text.read_prepared_text(project, address.curriculum, size)
    at_zero = address.position == 0 and address.stage is None
    legs = lineage(project, address.curriculum)[:1] if at_zero else stages_to(project, address)
    tokenizer = texts.loaded_tokenizer
    compiled = texts.compile(resolve(project, address.curriculum, size, legs))
    first, last = compiled.stages[0], compiled.stages[-1]
    imported = None
    if first.setting.imported is not None and first.plan.parent is not None:
        imported = imported_models.checkpoint(project, first.plan.parent.fingerprint)
        if not (imported / checkpoints.MANIFEST).is_file():
            raise CheckpointError(
                f"`{first.setting.tokenizer}` is not imported, or was changed since",
                hint=f"`curriculum prepare {address.curriculum}{project.options(size)}` imports it",
            )
    if at_zero:
        if imported is None:
            raise NotFound(
                f"`{address}` is before the first step: there are no weights yet",
                hint="give a later position; only a curriculum that begins with `from: hf:DIR` has weights at 0",
            )
        assert first.plan.parent is not None
        folder, history = imported, first.plan.parent.fingerprint
    else:
        kept = folders.checkpoint_at(folders.stage_folder(project, compiled, last), last.stop)
        if kept is None:
            raise _missing(project, address, texts.compiled, compiled, asking)
        folder, history = kept.path, last.plan.history(last.stop)
    if tokenizer is None:
        raise DataError(
            f"the tokenizer `{compiled.tokenizer}` that it was trained with is not there",
            hint="put its file back: an export carries it",
        )
    state = checkpoints.state(folder)
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
        checkpoint=folder,
        state=state,
        imported=imported,
        tokenizer=tokenizer,
    )


def _missing(
    project: Project, address: Address, whole: Compiled, compiled: Compiled, asking: str
) -> CheckpointError:
    """There is no checkpoint where `compiled` ends: which ones of the whole lineage are nearest."""
    stop = compiled.stages[-1].stop
    kept = sorted(
        {
            found.position
            for stage in whole.stages
            for found in checkpoints.list_checkpoints(folders.stage_folder(project, whole, stage))
            if found.position <= stage.stop
        }
    )
    if not kept:
        return CheckpointError(
            f"`{address}` has no checkpoint yet: nothing of it was trained at size `{whole.size_name}`",
            hint=f"`curriculum run {address.curriculum}{project.options(whole.size_name)}` trains it",
        )
    before = [f"{position:,} before" for position in kept if position < stop][-1:]
    after = [f"{position:,} after" for position in kept if position > stop][:1]
    nearest = folders.nearest_position(kept, stop)
    stage = next(stage for stage in whole.stages if stage.plan.start < nearest <= stage.stop)
    there = folders.address_at(stage.setting, stage.plan, nearest, whole.scale)
    scale = f", in tokens of size `{whole.size_name}`" if whole.scaled else ""
    options = project.options(whole.size_name)
    hint = f"as in `curriculum {asking.format(f'{there}{options}')}`"
    if stop > kept[-1]:
        hint += f"; or train on: `curriculum run {address.curriculum}{options}`"
    elif (
        whole.scaled
        and address.position is not None
        and show_count(address.position) in map(show_count, kept)
    ):
        hint += "; the position in an address counts full-size tokens"
    return CheckpointError(
        f"`{address}` has no checkpoint at {stop:,} tokens; "
        f"the nearest: {' and '.join(before + after)}{scale}",
        hint=hint,
    )


def export(request: RunRequest, found: ExportSource, to: Path, dtype: str, stop: StopFlag) -> str | None:
    """Write the directory `to`, by a job of its own; returns the weights' dtype, None when it was asked to stop."""
    check_free(to)
    job = export_job(request.project, found, to, dtype)
    done = run_job(request, job, f"the export of {found.address}", stop)
    return job.dtype if done else None


def check_free(to: Path) -> None:
    """Refuse, before any work, a directory that is there or cannot be made."""
    if not to.name:
        raise ConfigError(
            "`--to` names no directory", hint="an export makes one: name it, as in `--to my-model`"
        )
    if to.exists() or to.is_symlink():
        raise ConfigError(
            f"`{to}` exists already; nothing was written",
            hint="an export makes its own directory: name one that is not there",
        )
    try:
        fs.check_writable(next(folder for folder in to.absolute().parents if folder.exists()))
    except OSError as error:
        raise ConfigError(
            f"`{to}` cannot be written: {error.strerror}",
            hint="name a directory inside a folder that is yours",
        ) from None


def export_job(project: Project, found: ExportSource, to: Path, dtype: str) -> jobs.ExportJob:
    """Everything that the export is made of; an import's own files go through as they are."""
    origin = _origin(found)
    wanted = DTYPES[dtype] or (origin["dtype"] if origin else "float32")
    exceptions = origin["dtypes"] if origin and dtype == "source" else {}
    plan = found.compiled.stages[-1].plan
    eos, bos = found.tokenizer.eos_id, found.tokenizer.bos_id
    copies: dict[str, str] = {}
    texts: dict[str, str] = {}
    if found.imported is not None and origin is not None:
        copies = {path.name: str(path) for path in sorted((found.imported / huggingface.SOURCE).iterdir())}
        if wanted != origin["dtype"]:
            del copies[huggingface.CONFIG]
            texts[huggingface.CONFIG] = _json(huggingface.with_dtype(origin["config"], wanted))
    else:
        source = tokenizers.tokenizer_file(project, found.compiled.tokenizer)
        copies[huggingface.TOKENIZER] = str(source)
        texts[huggingface.CONFIG] = _json(huggingface.config_of(plan.model, dtype=wanted, eos=eos, bos=bos))
        texts["generation_config.json"] = _json(
            {"_from_model_config": True, "bos_token_id": bos, "eos_token_id": eos}
        )
        marks = {
            name: found.tokenizer.mark(number)
            for name, number in (("bos_token", bos), ("eos_token", eos))
            if number is not None
        }
        texts["tokenizer_config.json"] = _json(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": plan.model["max_position_embeddings"],
                "clean_up_tokenization_spaces": False,
                **marks,
            }
        )
        if marks:
            texts["special_tokens_map.json"] = _json(marks)
    texts[huggingface.README] = model_card.card(
        project, found.compiled, found.texts, _identity(project, found, to, dtype, wanted, origin)
    )
    return jobs.ExportJob(
        attempt_folder=str(new_attempt(project.data / "attempts")),
        checkpoint=str(found.checkpoint),
        output=str(to.absolute()),
        model=plan.model,
        dtype=wanted,
        dtypes=exceptions,
        texts=texts,
        copies=copies,
    )


def _origin(found: ExportSource) -> dict[str, Any] | None:
    if found.imported is None:
        return None
    return dict(checkpoints.state(found.imported)["imported"])


def _identity(
    project: Project, found: ExportSource, to: Path, dtype: str, wanted: str, origin: Mapping[str, Any] | None
) -> model_card.Identity:
    compiled = found.compiled
    command = ["curriculum", "export", str(found.address), "--size", compiled.size_name, "--to", to.name]
    folder = folders.stage_folder(project, compiled, compiled.stages[-1])
    return model_card.Identity(
        address=str(found.address),
        command=shlex.join(command + (["--dtype", dtype] if dtype != "source" else [])),
        version=metadata.version("curriculum"),
        dtype=wanted,
        position=found.position,
        checkpoint=found.checkpoint.name,
        weights=checkpoints.weights_digest(found.checkpoint),
        history=str(found.state["history"]),
        tokenizer=found.tokenizer.digest,
        imported=origin,
        environment=model_card.environment(folder) if found.position else {},
    )


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
