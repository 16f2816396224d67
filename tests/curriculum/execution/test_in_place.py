"""A curriculum trained from someone else's tokens, as a person does it: prepare, plan, run, trace, verify."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from projects import write_small_project

Curriculum = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.promise(
    "Third-party token files are read in place, token for token, and nothing is written next to them; a "
    "changed file is refused"
)
def test_a_source_of_packed_chunks_is_planned_trained_traced_and_verified_in_place(
    tmp_path: Path, finished: Path, curriculum: Curriculum
) -> None:
    project = write_small_project(tmp_path / "project")
    prepared = next((finished / "data" / "prose").glob("*/manifest.json")).parent
    tokenizer = next((finished / "data" / "tokenizers").glob("*/tokenizer.json"))
    (project / "tokenizer.json").write_bytes(tokenizer.read_bytes())
    lent = tmp_path / "lent"
    lent.mkdir()
    tokens = np.concatenate([np.fromfile(prepared / split / "00000.ds", "<u2") for split in ("train", "held-out")])
    tokens = tokens[: len(tokens) // 2049 * 2049]
    for number, first in enumerate(range(0, len(tokens), 2049 * 2)):
        part = tokens[first : first + 2049 * 2]
        head = b"LITPKDS" + struct.pack("<QBQ", 1, 8, len(part))
        (lent / f"train_slim_{number:010d}.bin").write_bytes(head + part.tobytes())
    (project / "stages" / "variant.yaml").unlink()  # one short stage is enough
    stages = project / "stages" / "trunk.yaml"
    text, _, _ = stages.read_text().partition("  - {name: continual")
    stages.write_text(text.replace("until: 6144", "until: 3072"))
    sources = project / "sources.yaml"
    sources.write_text(
        sources.read_text()
        .replace("{train: [prose, code], vocab_size: 300}", "{path: tokenizer.json}")
        .replace("read: {folder: texts/prose}", f"read: {{tokenised: {lent}}}")
    )
    before = {path.name: path.stat().st_mtime_ns for path in lent.iterdir()}
    shown = curriculum(project, "prepare", "trunk", "--size", "full").stdout
    assert "in place: " in shown
    curriculum(project, "run", "trunk", "--size", "full")
    batch = json.loads(curriculum(project, "batch", "trunk", "--step", "3", "--size", "full", "--json").stdout)
    assert "train_slim_" in json.dumps(batch)
    checked = curriculum(project, "verify", "trunk", "--size", "full").stdout
    assert "text of prose" in checked
    assert {path.name: path.stat().st_mtime_ns for path in lent.iterdir()} == before
    spoilt = sorted(lent.iterdir())[0]
    data = bytearray(spoilt.read_bytes())
    data[100] ^= 1
    spoilt.write_bytes(data)
    refused = curriculum(project, "verify", "trunk", "--size", "full", check=False)
    assert refused.returncode == 2
    assert "no longer as it was when it was digested" in refused.stderr
