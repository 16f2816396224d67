"""machines.yaml: where and how a run is trained; it may change at every restart and is no part of its identity."""

from typing import Any, Literal, Self

from pydantic import ConfigDict, Field, RootModel, model_validator

from curriculum.config.entry import (
    Entry,
    Flag,
    FlagOrAuto,
    Label,
    Memory,
    Name,
    Peak,
    Price,
    Quantity,
    Size,
    SizeOrZero,
    Subdomain,
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


class KubernetesEntry(Entry):
    """The pods of a JobSet, one for each node."""

    image: Text = Field(description="The container image, with `curriculum` on its PATH.")
    volume: Subdomain = Field(description="The claim (PersistentVolumeClaim) of the volume that holds the project.")
    folder: Text = Field(default="/project", description="Where in the pods the volume is mounted.")
    namespace: Label | None = Field(default=None, description="The namespace; else that of `kubectl`.")
    name: Label | None = Field(default=None, description="The JobSet's name; else made of the curriculum and the size.")
    gpu: Text = Field(
        default="nvidia.com/gpu", description="What the cluster calls a GPU; `gpus_per_node` counts them."
    )
    resources: dict[Text, Quantity] = Field(
        default={}, description="What else each pod gets, as in `{cpu: 96, memory: 900Gi}`."
    )
    max_restarts: SizeOrZero = Field(default=10, description="How often all pods are started again after one fails.")


class TrainerEntry(Entry):
    """Another program that trains stages, by the contract of docs/job-json.md."""

    name: Name = Field(description="Its name, in checkpoints: a stage keeps the trainer that began it.")
    run: Texts = Field(
        description="Its command as a list, run in the project's folder; `{job}` is the job file, `python` this Python."
    )
    ranks: Literal["ours", "its-own"] = Field(
        default="ours", description="ours: we start one process a rank; its-own: one a node, it starts its ranks."
    )
    stop: Literal["signal", "file"] = Field(
        default="signal", description="How it is asked to save and end: SIGUSR1, or `stop` in its attempt's folder."
    )
    does: tuple[Literal["train", "evaluate", "mask-documents"], ...] = Field(
        default=("train",),
        description="Beside training: `evaluate` kept checkpoints; keep documents apart (`mask-documents`).",
    )
    layout: Literal["hf", "opaque"] = Field(
        default="opaque", description="hf: its checkpoints hold a Hugging Face model, at the top or in `hf/`."
    )

    @model_validator(mode="after")
    def _is_a_list(self) -> Self:
        if len(self.run) == 1 and " " in self.run[0]:
            raise Refusal("is one word with blanks", "as in `[python, train.py]`: no shell reads it", "run")
        return self


class MachineEntry(Entry):
    """A machine: where and how; may change at every restart."""

    about: Text | None = Field(default=None, description="What it is, for people.")
    launcher: Literal["process", "torchrun", "slurm", "kubernetes"] = Field(
        default="process",
        description="process: one; torchrun: several, started by hand on each node; slurm: a batch job a stage; "
        "kubernetes: a JobSet, which `run --render` writes.",
    )
    nodes: Size = Field(default=1, description="Machines.")
    address: Text | None = Field(
        default=None, description="Where the others find the first node: a host, or `host:port`."
    )
    join_limit: Size = Field(
        default=600,
        description="Seconds the first of several nodes waits for the others to come, on Slurm for a step on all.",
    )
    slurm: SlurmEntry | None = Field(
        default=None, description="With `launcher: slurm`, further options of `sbatch`, as in `{partition: gpu}`."
    )
    kubernetes: KubernetesEntry | None = Field(
        default=None,
        description="With `launcher: kubernetes`, its pods; as in `{image: my/image, volume: my-project}`.",
    )
    gpus_per_node: SizeOrZero = Field(default=0, description="GPUs of each; 0 when none is counted on.")
    processes: Size = Field(default=1, description="Processes on each node; else one for each GPU, or one.")
    workers: Size | None = Field(
        default=None, description="Curricula that `run A B C` trains beside each other; else one a GPU, or one a core."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: a GPU where there is one.")
    micro_batch: Size | None = Field(default=None, description="Sequences a process takes at once; else it is chosen.")
    memory: Memory | None = Field(
        default=None,
        description="Of each GPU as it is sold, as in `80GB`: what cannot fit is refused, and `micro_batch` chosen.",
    )
    host_memory: Memory | None = Field(
        default=None,
        description="Of each node, as in `512GB`; else what it has. Where it is short, saves copy nothing and training "
        "waits for them.",
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
    reshard: Literal["never", "after-forward"] = Field(
        default="never",
        description="When a block's gathered weights are dropped within a step: kept for the backward pass, or not.",
    )
    exchange: Literal["last-micro-batch", "every-micro-batch"] = Field(
        default="last-micro-batch", description="When gradients are exchanged; until then whole ones are kept."
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
        default=None,
        description="Seconds from SIGTERM to SIGKILL, by Kubernetes 120; a save that takes longer is not started then.",
    )
    environment: Literal["same", "any"] = Field(
        default="same",
        description="any: resume without consent where torch, numpy, processor or training code changed.",
    )
    layer_norms: Size | None = Field(
        default=None, description="Steps between records of each layer's gradient norm in metrics.jsonl; else none."
    )
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = Field(
        default=(), description="Trackers that get the metrics of metrics.jsonl too; as in `[tensorboard]`."
    )
    trainer: TrainerEntry | None = Field(
        default=None, description="Another program that trains stages, as in `{name: mine, run: [python, train.py]}`."
    )
    throughput: Throughput | None = Field(
        default=None,
        description="Tokens that a plan assumes of each GPU, without GPUs of each process; as in `24k tokens/s/gpu`.",
    )
    price: Price | None = Field(default=None, description="Money that a plan assumes; as in `2 USD/gpu-hour`.")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_launcher(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        gpus = value.get("gpus_per_node")
        if isinstance(gpus, int) and gpus > 0 and value.get("launcher", "process") != "process":
            value = {"processes": gpus, **value}
        return {"grace": 120, **value} if value.get("launcher") == "kubernetes" else value

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        if self.launcher == "process" and self.nodes > 1:
            hint = "`launcher: torchrun`, `launcher: slurm` and `launcher: kubernetes` can"
            raise Refusal(f"cannot be {self.nodes} with launcher process", hint, "nodes")
        for key in ("slurm", "kubernetes"):
            if getattr(self, key) is not None and self.launcher != key:
                hint = f"say `launcher: {key}`, or leave this out"
                raise Refusal(f"is not supported with `launcher: {self.launcher}`", hint, key)
        if self.launcher == "kubernetes":
            self._check_pods()
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
        if self.trainer is not None:
            for key in ("trackers", "profile", "exactness"):
                if key in self.model_fields_set:
                    hint = "only curriculum's own trainer reads it: leave it out"
                    raise Refusal("is not supported with `trainer`", hint, key)
        if self.exactness == "canonical" and self.micro_batch is None:
            raise Refusal(
                "cannot be canonical without a `micro_batch`",
                "sums are equal only in equal parts: say `micro_batch:`, the sequences taken at once",
                "exactness",
            )
        if self.exactness == "canonical" and self.exchange == "every-micro-batch":
            hint = "canonical sums are exchanged group by group: leave this out"
            raise Refusal("is not supported with `exactness: canonical`", hint, "exchange")
        return self

    def _check_pods(self) -> None:
        entry = self.kubernetes
        if entry is None:
            hint = "as in `kubernetes: {image: my/image, volume: my-project}`"
            raise Refusal("is kubernetes, and nothing says what its pods are", hint, "launcher")
        if self.workers is not None:
            hint = "a JobSet trains one curriculum: leave this out"
            raise Refusal("is not supported with `launcher: kubernetes`", hint, "workers")
        if self.address is not None:
            hint = "the pods find the first of them by its name: leave this out"
            raise Refusal("is not supported with `launcher: kubernetes`", hint, "address")
        if not entry.folder.startswith("/"):
            hint = "a path in the pods, from `/`, as in `/project`"
            raise Refusal(f"must be absolute, not `{entry.folder}`", hint, "kubernetes", "folder")
        if entry.gpu in entry.resources and entry.resources[entry.gpu] != str(self.gpus_per_node):
            shown = f"of {entry.resources[entry.gpu]} is not the {self.gpus_per_node} of `gpus_per_node`"
            raise Refusal(shown, "`gpus_per_node` counts them: leave this out", "kubernetes", "resources", entry.gpu)
        cpu = entry.resources.get("cpu", "")
        if self.threads and cpu.isdecimal() and int(cpu) < self.processes * self.threads:
            shown = f"of {cpu} is less than {self.processes} processes with {self.threads} threads each"
            raise Refusal(shown, "more of `cpu`, or fewer `threads`", "kubernetes", "resources", "cpu")


class MachinesFile(RootModel[Any]):
    """machines.yaml: where and how; no part of a run's identity."""

    model_config = ConfigDict(frozen=True, defer_build=True)
    root: dict[Name, MachineEntry]
