"""machines.yaml: where and how a run goes; it may change at every restart and is no part of its identity."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, RootModel, model_validator

from curriculum.schema.entry import (
    Entry,
    Flag,
    FlagOrAuto,
    Name,
    Peak,
    Price,
    Size,
    SizeOrNone,
    Text,
    Throughput,
)
from curriculum.schema.fields import Refusal


class ProfileEntry(Entry):
    """A stretch of steps to trace with torch's profiler, into the attempt's folder."""

    from_step: SizeOrNone = Field(description="The first step traced, counted from the root, from 0.")
    steps: Size = Field(default=3, description="How many steps are traced.")


class MachineEntry(Entry):
    """A machine: where and how; may change at every restart."""

    about: Text | None = Field(default=None, description="What it is, for people.")
    launcher: Literal["process", "torchrun", "slurm"] = Field(
        default="process",
        description="process: one; torchrun: several on this machine; slurm: several machines.",
    )
    nodes: Size = Field(default=1, description="Machines.")
    gpus_per_node: SizeOrNone = Field(default=0, description="GPUs of each; 0 when none is counted on.")
    processes: Size = Field(default=1, description="Processes on each node; else one for each GPU, or one.")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: a GPU where there is one."
    )
    micro_batch: Size | None = Field(
        default=None, description="Sequences a process takes at once; else it is chosen."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="Of the arithmetic; weights are fp32."
    )
    sharding: Literal["auto", "none", "hybrid", "full"] = Field(
        default="auto", description="none: copies; hybrid: inside a node; full: over all."
    )
    attention: Literal["auto", "flash-attn", "sdpa-flash", "sdpa-cudnn", "varlen", "sdpa"] = Field(
        default="auto", description="Which kernels compute attention."
    )
    compile: FlagOrAuto = Field(
        default=None,
        description="Whether blocks are compiled: auto, true or false.",
        json_schema_extra={"default": "auto"},
    )
    activation_checkpointing: Literal["none", "full", "selective"] = Field(
        default="none",
        description="full: keep nothing inside a block; selective: keep matrix products and attention.",
    )
    deterministic: Flag = Field(
        default=False, description="Whether a resumed GPU run must give the same bits."
    )
    exactness: Literal["native", "canonical"] = Field(
        default="native",
        description="native: same bits on as many processes; canonical: on any number of them.",
    )
    profile: ProfileEntry | None = Field(
        default=None, description="Steps to trace, as in `{from_step: 20, steps: 3}`."
    )
    peak: Peak | None = Field(
        default=None, description="What a device can do, for the MFU, as in `989 TFLOP/s`; GPUs are known."
    )
    threads: Size | None = Field(default=None, description="CPU threads of each process; else an even share.")
    hang_limit: Size = Field(
        default=600, description="Seconds a step may take; then stacks are saved and the job starts again."
    )
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        default=(), description="Where figures are shown beside metrics.jsonl; as in `[tensorboard]`."
    )
    throughput: Throughput | None = Field(
        default=None, description="Tokens that a plan assumes; as in `24k tokens/s/gpu`."
    )
    price: Price | None = Field(
        default=None, description="Money that a plan assumes; as in `2 USD/gpu-hour`."
    )

    @model_validator(mode="before")
    @classmethod
    def _a_process_for_each_gpu(cls, value: Any) -> Any:
        gpus = value.get("gpus_per_node") if isinstance(value, dict) else None
        if isinstance(gpus, int) and gpus > 0 and value.get("launcher", "process") != "process":
            return {"processes": gpus, **value}
        return value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.launcher != "slurm" and self.nodes > 1:
            raise Refusal(
                f"cannot be {self.nodes} with launcher {self.launcher}", "`launcher: slurm` can", "nodes"
            )
        if self.launcher == "process" and self.processes > 1:
            raise Refusal(
                f"cannot be {self.processes} with launcher process", "`launcher: torchrun` can", "processes"
            )
        if self.device == "cpu" and self.gpus_per_node:
            raise Refusal("has no meaning with `device: cpu`", "leave one of the two out", "gpus_per_node")
        if self.gpus_per_node and self.processes > self.gpus_per_node:
            shown = f"of {self.processes} is more than {self.gpus_per_node} GPUs"
            raise Refusal(shown, "a GPU is used by one process", "processes")
        if self.exactness == "canonical" and self.micro_batch is None:
            raise Refusal(
                "cannot be canonical without a `micro_batch`",
                "sums are equal only in equal parts: say `micro_batch:`, the sequences taken at once",
                "exactness",
            )
        return self


class MachinesFile(RootModel[dict[Name, MachineEntry]]):
    """machines.yaml: where and how; no part of a run's identity."""

    model_config = ConfigDict(frozen=True)
