"""machines.yaml: where and how a run is trained; it may change at every restart and is no part of its identity."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, RootModel, model_validator

from curriculum.config.entry import (
    Entry,
    Flag,
    FlagOrAuto,
    Memory,
    Name,
    Peak,
    Price,
    Size,
    SizeOrZero,
    Text,
    Texts,
    Throughput,
)
from curriculum.config.fields import Refusal


class ProfileEntry(Entry):
    """Steps to trace with torch's profiler, into the attempt's folder."""

    from_step: SizeOrZero = Field(description="The first step traced, counted from the root, from 0.")
    steps: Size = Field(default=3, description="How many steps are traced.")


class SlurmEntry(Entry):
    """Options of every Slurm job, next to its nodes, processes and GPUs."""

    partition: Text | None = Field(default=None, description="The partition; else the cluster's default.")
    account: Text | None = Field(default=None, description="Who is charged.")
    qos: Text | None = Field(default=None, description="The quality of service.")
    time: Text | None = Field(default=None, description='A job\'s time limit as Slurm writes it, as in "24:00:00".')
    grace: Size = Field(default=120, description="Seconds before the time limit at which a job saves and queues again.")
    options: Texts = Field(default=(), description="Further options of `sbatch`, as in `[--constraint=a100, --mem=0]`.")
    setup: Texts = Field(
        default=(), description="Lines of the batch script before the job, as in `[module load cuda]`."
    )


class MachineEntry(Entry):
    """A machine: where and how; may change at every restart."""

    about: Text | None = Field(default=None, description="What it is, for people.")
    launcher: Literal["process", "torchrun", "slurm"] = Field(
        default="process",
        description="process: one; torchrun: several, started by hand on each node; slurm: a batch job a stage.",
    )
    nodes: Size = Field(default=1, description="Machines.")
    address: Text | None = Field(
        default=None, description="Where the others find the first node: a host, or `host:port`."
    )
    join_limit: Size = Field(
        default=600, description="Seconds the first of several nodes waits for the others to come."
    )
    slurm: SlurmEntry | None = Field(
        default=None, description="With `launcher: slurm`, what `sbatch` is told, as in `{partition: gpu}`."
    )
    gpus_per_node: SizeOrZero = Field(default=0, description="GPUs of each; 0 when none is counted on.")
    processes: Size = Field(default=1, description="Processes on each node; else one for each GPU, or one.")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where there is one.")
    micro_batch: Size | None = Field(default=None, description="Sequences a process takes at once; else it is chosen.")
    memory: Memory | None = Field(
        default=None,
        description="Of each GPU as it is sold, as in `80GB`: what cannot fit is refused, and `micro_batch` chosen.",
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto", description="Of the arithmetic; weights are fp32."
    )
    sharding: Literal["auto", "none", "hybrid", "full"] = Field(
        default="auto", description="none: copies; hybrid: inside a node; full: over all."
    )
    attention: Literal["auto", "flash-attn-3", "flash-attn", "sdpa-flash", "sdpa-cudnn", "varlen", "sdpa"] = Field(
        default="auto", description="Which kernels compute attention."
    )
    compile: FlagOrAuto = Field(
        default=None,
        description="Whether blocks are compiled: auto, true or false.",
        json_schema_extra={"default": "auto"},
    )
    activation_checkpointing: Literal["none", "full", "selective"] = Field(
        default="none", description="full: keep nothing inside a block; selective: keep matrix products and attention."
    )
    deterministic: Flag = Field(default=False, description="Whether a resumed GPU run must give the same bits.")
    exactness: Literal["native", "canonical"] = Field(
        default="native", description="native: same bits on as many processes; canonical: on any number of them."
    )
    profile: ProfileEntry | None = Field(default=None, description="Steps to trace, as in `{from_step: 20, steps: 3}`.")
    peak: Peak | None = Field(
        default=None, description="What a device can do, for the MFU, as in `989 TFLOP/s`; GPUs are known."
    )
    threads: Size | None = Field(default=None, description="CPU threads of each process; else an even share.")
    hang_limit: Size = Field(
        default=600,
        description="Seconds a micro-batch, or a part of an evaluation, may take; then stacks are saved and the job "
        "starts again.",
    )
    grace: Size | None = Field(
        default=None, description="Seconds from SIGTERM to SIGKILL; a save that takes longer is not started then."
    )
    environment: Literal["same", "any"] = Field(
        default="same",
        description="any: resume without consent where torch, numpy, processor or training code changed.",
    )
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        default=(), description="Trackers that get the metrics of metrics.jsonl too; as in `[tensorboard]`."
    )
    throughput: Throughput | None = Field(
        default=None,
        description="Tokens that a plan assumes of each GPU, without GPUs of each process; as in `24k tokens/s/gpu`.",
    )
    price: Price | None = Field(default=None, description="Money that a plan assumes; as in `2 USD/gpu-hour`.")

    @model_validator(mode="before")
    @classmethod
    def _a_process_for_each_gpu(cls, value: Any) -> Any:
        gpus = value.get("gpus_per_node") if isinstance(value, dict) else None
        if isinstance(gpus, int) and gpus > 0 and value.get("launcher", "process") != "process":
            return {"processes": gpus, **value}
        return value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.launcher == "process" and self.nodes > 1:
            hint = "`launcher: torchrun` and `launcher: slurm` can"
            raise Refusal(f"cannot be {self.nodes} with launcher process", hint, "nodes")
        if self.slurm is not None and self.launcher != "slurm":
            hint = "say `launcher: slurm`, or leave this out"
            raise Refusal(f"is not supported with `launcher: {self.launcher}`", hint, "slurm")
        if self.grace is not None and self.launcher == "slurm":
            hint = "say `slurm: {grace: …}`, the seconds before a job's time limit at which it saves"
            raise Refusal("is not supported with `launcher: slurm`", hint, "grace")
        if self.launcher == "process" and self.processes > 1:
            raise Refusal(f"cannot be {self.processes} with launcher process", "`launcher: torchrun` can", "processes")
        if self.device == "cpu" and self.gpus_per_node:
            raise Refusal("is not supported with `device: cpu`", "leave one of the two out", "gpus_per_node")
        if self.device == "cpu" and self.memory is not None:
            raise Refusal("is not supported with `device: cpu`", "it is of a GPU: leave it out", "memory")
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


class MachinesFile(RootModel[Any]):
    """machines.yaml: where and how; no part of a run's identity."""

    model_config = ConfigDict(frozen=True, defer_build=True)
    root: dict[Name, MachineEntry]
