"""The lines of `curriculum doctor`: topics with indented values, at most 80 columns wide."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

WIDTH = 80
_GIB = 1 << 30


def doctor_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """The report of `doctor.examine`, line by line; problems last."""
    yield f"machine `{report['machine']}`: " + ("can be served here" if report["served"] else "cannot be served")
    launcher = report["launcher"]
    yield from _topic("launcher", f"{launcher['kind']}, {launcher['nodes']} x {launcher['processes']} processes")
    for note in launcher["notes"]:
        yield from _topic("", note)
    if "versions" in report:
        yield from _machine(report)
    for problem in report["problems"]:
        yield from textwrap.wrap(f"problem: {problem['what']}", WIDTH, subsequent_indent="  ")
        if problem["hint"]:
            yield from textwrap.wrap(f"hint: {problem['hint']}", WIDTH, initial_indent="  ", subsequent_indent="    ")


def _machine(report: Mapping[str, Any]) -> Iterator[str]:
    counted = report["processes"]
    yield from _topic("", f"{counted['counted']} of {counted['asked']} processes met and added up")
    versions = ", ".join(f"{name} {version or 'absent'}" for name, version in report["versions"].items())
    yield from _topic("versions", versions)
    for device in report["devices"]:
        if "cores" in device:
            text = f"{device['name']}, {device['cores']} cores, {device['threads']} threads a process"
            text += f", {' '.join(device['can'])}" if device["can"] else ""
        else:
            text = f"{device['name']}, {device['bytes'] / _GIB:.1f} GiB, capability {device['capability']}"
        yield from _topic("device", text)
    if len(report["devices"]) == 1:
        yield from _topic("", "no GPU that torch can use")
    memory = report["memory"]
    text = f"{memory['bytes'] / _GIB:.1f} GiB"
    if "free_bytes" in memory:
        text += f", {memory['free_bytes'] / _GIB:.1f} GiB free"
    yield from _topic("memory", text)
    precision = report["precision"]
    yield from _topic("precision", f"{precision['chosen']} (asked: {precision['asked']}); bf16: {precision['bf16']}")
    attention = report["attention"]
    kinds = {"dense": "", "document mask": "with a document mask "}
    chosen = [
        f"{words}{attention['chosen'][kind]['kernel']}: {attention['chosen'][kind]['why']}"
        for kind, words in kinds.items()
        if kind in attention["chosen"]
    ]
    yield from _topic("attention", f"{'; '.join(chosen) or 'none'} (asked: {attention['asked']})")
    for name, reason in attention["kernels"]["dense"].items():
        masked = attention["kernels"]["document mask"][name]
        text = f"no: {reason}" if reason else "yes" if masked is None else f"yes; with a document mask no: {masked}"
        yield from _topic("", f"{name:<12} {text}")
    compiled = report["compile"]
    setting = str(compiled["asked"]).lower()
    yield from _topic(
        "compile", f"{'yes' if compiled['chosen'] else 'no'} (asked: {setting}); toolchain: {compiled['toolchain']}"
    )
    exactness = report["exactness"]
    yield from _topic("exactness", f"{exactness['asked']}, deterministic: {str(exactness['deterministic']).lower()}")
    peak = report["peak"]
    text = f"{peak['flops'] / 1e12:g} TFLOP/s a device, from {peak['from']}" if peak["flops"] else peak["from"]
    yield from _topic("peak", text)


def _topic(topic: str, text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"{topic:<10} ", subsequent_indent=" " * 13) or [topic]
