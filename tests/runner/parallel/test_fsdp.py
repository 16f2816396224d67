"""Two ranks on the loopback device against one process: the same weights, whatever the mesh."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
import torch.distributed as dist
from projects import BuiltOnce
from safetensors.torch import load_file
from small import ALONE, CLIP, CONFIG, NUMBERS, build, evaluate, launch, take, whole
from torch.utils._python_dispatch import TorchDispatchMode

from curriculum.artifacts import checkpoints
from runner.checkpoint import tensors
from runner.model import attention
from runner.parallel import fsdp
from runner.parallel.ranks import leave_ranks
from runner.train.optimizer import adamw

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Four steps in this process, with a checkpoint after the second."""
    folder = tmp_path_factory.mktemp("alone")
    model = build()
    optimizer = adamw(model, NUMBERS)
    initial = whole(model)
    steps, evaluations = [], []
    for step in range(4):
        if step == 2:
            evaluations.append(evaluate(model))
            tensors.save(folder / "one", model, optimizer, {"step": 2}, ALONE)
        steps.append(take(model, optimizer, step))
    evaluations.append(evaluate(model))
    return {"folder": folder, "initial": initial, "weights": whole(model), "steps": steps, "evaluations": evaluations}


@pytest.fixture(scope="module", params=["full", "none"], ids=["mesh (1, 2)", "mesh (2, 1)"])
def two(request: pytest.FixtureRequest, built_once: BuiltOnce, alone: dict[str, Any]) -> dict[str, Any]:
    """The same four steps, and more, by two ranks; see `small.main`."""

    def build(folder: Path) -> None:
        shutil.copytree(alone["folder"] / "one", folder / "one")
        launch(folder, request.param)

    folder = built_once(f"two-ranks-{request.param}", build)
    report = json.loads((folder / "report.json").read_text())
    weights = {path.stem: load_file(path) for path in folder.glob("*.safetensors")}
    return {"folder": folder, "sharding": request.param, "weights": weights, **report}


def near(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []


@pytest.mark.promise("Initial weights are TinyLlama's, the same on every mesh")
def test_initial_weights_do_not_depend_on_the_mesh(two: dict[str, Any], alone: dict[str, Any]) -> None:
    same(two["weights"]["initial"], alone["initial"])


def test_sharding_over_all_ranks_halves_every_parameter_and_none_copies_it(two: dict[str, Any]) -> None:
    whole_rows = {name: len(p) for name, p in build().named_parameters()}
    parts = 2 if two["sharding"] == "full" else 1
    assert two["own_rows"] == {name: -(-rows // parts) for name, rows in whole_rows.items()}


@pytest.mark.promise("Two gloo ranks in any mesh equal one process to rounding")
def test_losses_and_gradient_norms_of_two_ranks_are_those_of_one_process(
    two: dict[str, Any], alone: dict[str, Any]
) -> None:
    assert alone["steps"][0][1] > 0.5, "the steps are meant to clip"
    for mine, theirs in zip(alone["steps"], two["steps"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-6)
    assert two["evaluations"] == pytest.approx(alone["evaluations"], rel=1e-6)


@pytest.mark.promise("Two gloo ranks in any mesh equal one process to rounding")
def test_weights_after_four_clipped_steps_are_those_of_one_process(two: dict[str, Any], alone: dict[str, Any]) -> None:
    near(two["weights"]["first"], alone["weights"])


@pytest.mark.promise("A checkpoint resumes with the same bits, on one rank or two")
def test_going_back_to_a_checkpoint_on_two_ranks_repeats_every_bit(two: dict[str, Any]) -> None:
    assert two["again"] == two["steps"][2:]
    same(two["weights"]["second"], two["weights"]["first"])


def test_two_ranks_go_on_from_the_checkpoint_of_one_process(two: dict[str, Any], alone: dict[str, Any]) -> None:
    assert two["from_one"][0] == pytest.approx(alone["steps"][2], rel=1e-6)
    near(two["weights"]["from-one"], alone["weights"])


def test_one_process_goes_on_from_the_checkpoint_of_two_ranks(two: dict[str, Any], alone: dict[str, Any]) -> None:
    checkpoints.verify(two["folder"] / "two")
    model = build(seed=5)
    optimizer = adamw(model, NUMBERS)
    state = tensors.load(two["folder"] / "two", model, optimizer)
    for step in range(state["step"], 4):
        take(model, optimizer, step)
    near(whole(model), alone["weights"])


def test_one_process_reads_what_two_ranks_saved_to_the_last_bit(two: dict[str, Any]) -> None:
    model = build(seed=5)
    tensors.load(two["folder"] / "four", model, None)
    same(whole(model), two["weights"]["first"])


def test_while_two_ranks_save_in_threads_only_training_speaks_to_the_peers(two: dict[str, Any]) -> None:
    assert two["threads that exchanged"] == ["MainThread"]
    checkpoints.verify(two["folder"] / "meanwhile")


def test_every_row_is_written_once_however_many_ranks_hold_it(two: dict[str, Any]) -> None:
    index = json.loads((two["folder"] / "four" / tensors.INDEX).read_text())
    for entry in index.values():
        rows = sorted(tuple(part["rows"]) for part in entry["parts"])
        assert rows[0][0] == 0
        assert rows[-1][1] == entry["shape"][0]
        assert all(one[1] == other[0] for one, other in itertools.pairwise(rows))
    files = sorted(path.name for path in (two["folder"] / "four").glob("*.safetensors"))
    assert files == [f"rank-{rank:05d}.safetensors" for rank in range(2 if two["sharding"] == "full" else 1)]


def test_more_micro_batches_exchange_no_more_weights_and_gradients(two: dict[str, Any]) -> None:
    four, two_of_them, one = two["exchanges"]
    assert one
    assert four == two_of_them == one


def test_a_flag_of_one_rank_is_everyones_and_rank_0_decides(two: dict[str, Any]) -> None:
    assert two["any"] == [True, False]
    assert two["agree"] == "rank 0"
    assert two["gather"] == [0, 1]


class Products(TorchDispatchMode):
    """Counts matrix products and everything else that runs inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.products = self.others = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.ops.aten.mm.default, *attention.operators(attention.sdpa)):
            self.products += 1
        elif "norm" in str(func) or "silu" in str(func):
            self.others += 1
        return func(*args, **(kwargs or {}))


def test_activation_checkpointing_changes_no_bit_and_no_name() -> None:
    steps, counted = {}, {}
    for how in ("none", "full", "selective"):
        model = build()
        fsdp.apply(model, ALONE, sharding="auto", bf16=False, activation_checkpointing=how, compile_blocks=False)
        optimizer = adamw(model, NUMBERS)
        with Products() as seen:
            take(model, optimizer, 0, micro=8)
        steps[how], counted[how] = whole(model), (seen.products, seen.others)
    same(steps["none"], steps["full"])
    same(steps["none"], steps["selective"])
    assert counted["full"][0] > counted["none"][0], "`full` computes a block's products again"
    assert counted["selective"][0] == counted["none"][0], "`selective` computes none of them again"
    assert counted["selective"][1] > counted["none"][1], "`selective` computes the rest again"


def test_one_process_in_bf16_keeps_fp32_weights_and_learns_as_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    losses = {}
    for bf16 in (False, True):
        model = build()
        fsdp.apply(model, ALONE, sharding="auto", bf16=bf16, activation_checkpointing="none", compile_blocks=False)
        try:
            optimizer = adamw(model, NUMBERS)
            losses[bf16] = [take(model, optimizer, step)[0] for step in range(12)]
            assert {p.dtype for p in model.parameters()} == {torch.float32}
            assert (model(torch.zeros((1, 4), dtype=torch.long)).dtype == torch.bfloat16) is bf16
        finally:
            leave_ranks(ALONE)
    assert not dist.is_initialized()
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=2e-2)
    assert losses[False][-1] < losses[False][0] - 0.5


def test_a_lone_fp32_process_needs_no_process_group() -> None:
    model = build()
    fsdp.apply(model, ALONE, sharding="full", bf16=False, activation_checkpointing="none", compile_blocks=False)
    assert not dist.is_initialized()
    assert list(fsdp.sharded(model)) == []
    assert CONFIG.vocab_size == len(model.head.weight)


# Kernels of scalars: a compiler reads torch's headers of vectors for seconds, and tries each instruction set first.
# No caches: what they keep of other runs may be kernels of vectors.
@torch._inductor.config.patch({"cpp.vec_isa_ok": False, "force_disable_caches": True})
@pytest.mark.slow
def test_compiled_blocks_compute_what_eager_ones_do() -> None:
    losses = []
    for compiled, checkpointed in ((False, "none"), (True, "full")):
        model = build()
        fsdp.apply(
            model, ALONE, sharding="auto", bf16=False, activation_checkpointing=checkpointed, compile_blocks=compiled
        )
        optimizer = adamw(model, NUMBERS)
        losses.append([take(model, optimizer, step) for step in range(2)])
        assert "blocks.0.attention.qkv.weight" in dict(model.named_parameters())
    for eager, fast in zip(*losses, strict=True):
        assert fast == pytest.approx(eager, rel=1e-5)


@pytest.mark.promise("Replicas stay equal in bits whatever order the network of each node adds up in")
def test_replicas_stay_equal_whatever_order_the_network_of_each_node_adds_up_in(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "support" / "replica_orders.py"
    norms = launch(tmp_path, "hybrid", 4, node=2, script=script)["norms"]
    assert len(norms[0]) == 30
    assert norms == [norms[0]] * 4
    assert max(norms[0]) > CLIP, "some steps clip"
