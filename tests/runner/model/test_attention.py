"""Attention kernels against plain arithmetic in fp64, and the reasons for which they refuse."""

from __future__ import annotations

import itertools
import math
import sys
import types

import pytest
import torch
from hypothesis import given, settings, strategies as st

from curriculum.stream.batch import document_bounds
from runner.model import attention
from runner.model.attention import Documents, Request, choose, explain, sdpa

CPU = Request("cpu", torch.float32, 32, deterministic=False)
GPU = Request("cuda", torch.bfloat16, 64, deterministic=False)
END = 3


def reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, number: torch.Tensor | None = None, window: int | None = None
) -> torch.Tensor:
    """Softmax attention spelled out, one query head at a time."""
    B, T, heads, size = q.shape
    out = torch.empty_like(q)
    for head in range(heads):
        shared = head * k.shape[2] // heads
        scores = q[:, :, head] @ k[:, :, shared].transpose(1, 2) / math.sqrt(size)
        ago = torch.arange(T)[:, None] - torch.arange(T)
        seen = ((ago >= 0) & (ago < (T if window is None else window))).expand(B, T, T)
        if number is not None:
            seen = seen & (number[:, :, None] == number[:, None, :])
        out[:, :, head] = scores.masked_fill(~seen, -math.inf).softmax(-1) @ v[:, :, shared]
    return out


def vectors(B: int, T: int, heads: int, groups: int, size: int, seed: int = 0) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    shapes = ((B, T, heads, size), (B, T, groups, size), (B, T, groups, size))
    return [torch.randn(shape, generator=draw, dtype=torch.float64, requires_grad=True) for shape in shapes]


def text(B: int, T: int, seed: int) -> torch.Tensor:
    return torch.randint(6, (B, T), generator=torch.Generator().manual_seed(seed))


def documents(read: torch.Tensor, last_token: int) -> Documents:
    """The documents of `read` `[B, T]`, as the runner finds them in batches, which are one target longer."""
    rows = torch.cat((read, read[:, :1]), dim=1).numpy()
    return attention.documents(document_bounds(rows, last_token), *read.shape)


def compare(
    attend: attention.Attend, qkv: list[torch.Tensor], docs: Documents | None, window: int | None = None
) -> None:
    """`attend` in fp32 against the reference in fp64: outputs and all three gradients."""
    expected = reference(*qkv, None if docs is None else docs.number_BT, window)
    weight = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(expected, qkv, weight)
    small = [x.detach().float().requires_grad_() for x in qkv]
    out = attend(*small, docs, window)
    assert out.shape == expected.shape
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=5e-6)
    for mine, theirs in zip(torch.autograd.grad(out, small, weight.float()), gradients, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(("heads", "groups"), [(4, 1), (4, 2), (4, 4)])
def test_sdpa_is_causal_attention_with_shared_key_heads(heads: int, groups: int) -> None:
    compare(sdpa, vectors(2, 19, heads, groups, 16), None)


@pytest.mark.parametrize("seed", range(3))
def test_sdpa_with_documents_lets_no_token_see_another_document(seed: int) -> None:
    compare(sdpa, vectors(3, 21, 4, 2, 16), documents(text(3, 21, seed), END))


@pytest.mark.parametrize("window", [1, 4, 20, 21, 100])
@pytest.mark.parametrize("masked", [False, True])
def test_sdpa_with_a_window_lets_a_token_see_itself_and_those_just_before(window: int, masked: bool) -> None:
    docs = documents(text(3, 21, 0), END) if masked else None
    compare(sdpa, vectors(3, 21, 4, 2, 16), docs, window)


@pytest.mark.parametrize("masked", [False, True])
def test_a_window_is_handed_to_kernels_as_they_count_it(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def kernel(*arguments: torch.Tensor, **options: object) -> torch.Tensor:
        asked.append(options["window_size"])
        return arguments[0]

    package = types.ModuleType("flash_attn")
    package.flash_attn_func = package.flash_attn_varlen_func = kernel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    docs = documents(text(3, 21, 0), END) if masked else None
    for attend in (attention.flash_attn, attention.varlen, attention.flash_attn_3):
        attend(*vectors(3, 21, 4, 2, 16), docs, 5)
    assert asked == [(4, 0)] * 3, "tokens before it, and none after it"


def flat_reference(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bounds_q: torch.Tensor, bounds_k: torch.Tensor, *_: int
) -> torch.Tensor:
    """What a variable-length kernel promises: causal attention inside each run of rows between two bounds."""
    assert bounds_q is bounds_k
    assert bounds_q.dtype == torch.int32
    assert (bounds_q[0], bounds_q[-1]) == (0, len(q))
    parts = [
        reference(q[None, a:b], k[None, a:b], v[None, a:b])[0]
        for a, b in itertools.pairwise(bounds_q.tolist())
        if b > a
    ]
    return torch.cat(parts)


@pytest.mark.parametrize("masked", [False, True])
def test_varlen_hands_documents_to_its_kernel_end_to_end(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {}

    def kernel(*arguments: torch.Tensor, **options: object) -> torch.Tensor:
        asked.update(options)
        return flat_reference(*arguments)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    compare(attention.varlen, vectors(3, 21, 4, 2, 16), documents(text(3, 21, 0), END) if masked else None)
    assert asked["window_size"] == (-1, 0), "causal, in torch's words"


@pytest.mark.parametrize("masked", [False, True])
def test_flash_attn_is_asked_for_causal_attention_over_documents(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    package = types.ModuleType("flash_attn")
    asked: list[dict[str, bool]] = []

    def dense(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: bool) -> torch.Tensor:
        asked.append(options)
        return reference(q, k, v)

    def flat(*arguments: torch.Tensor, **options: bool) -> torch.Tensor:
        asked.append(options)
        return flat_reference(*arguments)

    package.flash_attn_func = dense  # type: ignore[attr-defined]
    package.flash_attn_varlen_func = flat  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    docs = documents(text(3, 21, 0), END) if masked else None
    compare(attention.flash_attn, vectors(3, 21, 4, 2, 16), docs)
    assert asked == [{"causal": True, "deterministic": False}]
    assert explain(GPU)["flash-attn"] is None
    assert choose("auto", GPU)[0] == "flash-attn"


@settings(max_examples=40, deadline=None)
@given(B=st.integers(1, 4), T=st.integers(1, 12), seed=st.integers(0, 10_000))
def test_documents_cover_the_batch_and_end_after_their_last_token(B: int, T: int, seed: int) -> None:
    read = text(B, T, seed)
    number, bounds, longest = documents(read, END)
    assert longest == T
    ends = sorted({*bounds.tolist()})
    expected = {0} | {T * (row + 1) for row in range(B)}
    expected |= {row * T + at + 1 for row in range(B) for at in range(T) if read[row, at] == END}
    assert ends == sorted(expected)
    assert len(bounds) == len(ends)
    assert number is not None
    for begin, end in itertools.pairwise(ends):
        assert len(set(number.flatten()[begin:end].tolist())) == 1
    for row in range(B):
        assert number[row, 0] == 0
        assert number[row, -1] == int((read[row, :-1] == END).sum())


def test_on_a_cpu_only_sdpa_serves_and_the_others_say_why() -> None:
    reasons = explain(CPU)
    assert {name for name, reason in reasons.items() if reason is None} == {"sdpa"}
    assert reasons["sdpa-flash"] == reasons["varlen"] == "it runs on CUDA devices only"
    assert choose("auto", CPU) == ("sdpa", sdpa)


@pytest.mark.promise("A requested attention kernel that cannot run is an error, never a silent fallback")
@pytest.mark.parametrize(
    ("name", "request_", "reason"),
    [
        ("sdpa-flash", CPU, "it runs on CUDA devices only"),
        ("sdpa-flash", Request("cuda", torch.float32, 64, False), "it computes in bf16 or fp16 only"),
        ("varlen", Request("cuda", torch.bfloat16, 512, False), "it serves head sizes up to 256, not 512"),
        ("varlen", Request("cuda", torch.bfloat16, 20, False), "multiples of 8, not 20"),
        ("sdpa-cudnn", Request("cuda", torch.bfloat16, 64, True), "it is not deterministic"),
        ("flash-attn-3", Request("cuda", torch.bfloat16, 64, False, capability=(8, 0)), "it is written for Hopper"),
        ("sdpa-cudnn", Request("cuda", torch.bfloat16, 64, False, True), "it cannot keep documents apart"),
        ("sdpa-flash", Request("cuda", torch.bfloat16, 64, False, True), "it cannot keep documents apart"),
        ("sdpa-flash", Request("cuda", torch.bfloat16, 64, False, windowed=True), "it has no sliding windows"),
        ("sdpa-cudnn", Request("cuda", torch.bfloat16, 64, False, windowed=True), "it has no sliding windows"),
    ],
)
def test_a_kernel_asked_for_by_name_that_cannot_serve_is_refused_with_its_reason(
    name: str, request_: Request, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"attention `{name}` cannot serve here: .*{reason}"):
        choose(name, request_)


def test_a_hollow_flash_attn_package_is_refused_with_the_reason_of_the_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    reason = explain(GPU)["flash-attn"]
    assert reason is not None
    assert "flash_attn_func" in reason
    with pytest.raises(ValueError, match="flash-attn does not import"):
        choose("flash-attn", GPU)


def test_a_kernel_of_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(
        ValueError,
        match="called `flash`; there are: auto, flash-attn-3, flash-attn, sdpa-flash, sdpa-cudnn, varlen, sdpa",
    ):
        choose("flash", CPU)


@pytest.mark.parametrize("fa2", [False, True])
@pytest.mark.parametrize("fa3", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_auto_takes_the_fastest_kernel_of_the_gpu_that_is_installed_and_allowed(
    capability: tuple[int, int],
    masked: bool,
    deterministic: bool,
    fa3: bool,
    fa2: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = types.ModuleType("flash_attn")
    package.flash_attn_func = sdpa  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package if fa2 else None)
    monkeypatch.setitem(sys.modules, "flash_attn_interface", types.ModuleType("flash_attn_interface") if fa3 else None)
    request_ = Request("cuda", torch.bfloat16, 64, deterministic, masked, capability)
    cudnn = capability in ((9, 0), (10, 0)) and not deterministic and not masked
    expected = (
        "flash-attn-3"
        if fa3 and capability == (9, 0)
        else "sdpa-cudnn"
        if cudnn
        else "flash-attn"
        if fa2
        else "varlen"
        if masked
        else "sdpa-flash"
    )
    name, attend = choose("auto", request_)
    assert name == expected
    assert choose(name, request_) == (name, attend), "by its name it is the same"
    assert attention.preferences(request_)[name]


def test_flash_attention_3_computes_torchs_own_operators_once_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    active: list[str] = []
    monkeypatch.setattr("torch.nn.attention.activate_flash_attention_impl", active.append)
    for attend in (sdpa, attention.varlen, attention.flash_attn):
        attention.activate(attend)
    assert active == []
    attention.activate(attention.flash_attn_3)
    assert active == ["FA3"]
    kept = attention.operators(attention.flash_attn_3)
    assert {*attention.operators(attention.varlen)} < {*kept}
    assert torch.ops.aten._scaled_dot_product_flash_attention.default in kept


def test_auto_on_a_gpu_takes_torchs_flash_kernel_and_with_documents_the_varlen_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    assert choose("auto", GPU)[0] == "sdpa-flash"
    assert choose("auto", Request("cuda", torch.bfloat16, 64, False, True))[0] == "varlen"
    assert choose("auto", Request("cuda", torch.float32, 64, False, True))[0] == "sdpa"
