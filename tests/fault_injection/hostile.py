"""R21: artefacts made to run code or to write elsewhere. R22: secrets that must appear in nothing that is stored."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.fault_injection import world
from tests.fault_injection.figures import Case, Tally, figure


class _Planted:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def _pickled(draw: random.Random, mark: Path) -> bytes:
    return pickle.dumps(_Planted(mark), protocol=draw.randrange(2, 6))


def _zipped(draw: random.Random, mark: Path) -> bytes:
    """As `torch.save` writes it."""
    import io

    import torch

    file = io.BytesIO()
    torch.save({"state": _Planted(mark)}, file)
    return file.getvalue()


def _huge_header(draw: random.Random, mark: Path) -> bytes:
    return struct.pack("<Q", draw.choice((1 << 62, (1 << 64) - 1, 1 << 40, 200 << 20))) + b"{}"


def _lying_header(draw: random.Random, mark: Path) -> bytes:
    header = {"model.norm.weight": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


def _nested(draw: random.Random, mark: Path) -> bytes:
    return b"[" * 100_000 + b"]" * 100_000


def _paths(draw: random.Random, mark: Path) -> bytes:
    """A manifest or an index whose files lie elsewhere."""
    outside = draw.choice(("../../../../outside", "/etc/passwd", "a/../../../outside", "..\\outside"))
    return json.dumps(
        {"format": 1, "files": {outside: {"bytes": 1, "sha256": "0" * 64}}, "weight_map": {"a": outside}}
    ).encode()


MAKERS: dict[str, Callable[[random.Random, Path], bytes]] = {
    "a pickle": _pickled,
    "a torch.save file": _zipped,
    "a header beyond all memory": _huge_header,
    "a header that lies": _lying_header,
    "JSON nested without end": _nested,
    "paths that lead elsewhere": _paths,
    "noise": lambda draw, mark: draw.randbytes(5000),
}


def _slots(root: Path) -> list[tuple[str, Path, list[str]]]:
    """Kind, file and the command that meets it."""
    cooldown = world.stage(root, "variant", "cooldown")
    (checkpoint,) = sorted((cooldown / "checkpoints").iterdir())[-1:]
    (prose,) = (root / "data/prose").glob("*/manifest.json")
    (tokenizer,) = (root / "data").glob("tokenizers/*/tokenizer.json")
    run = ["run", "variant", "--size", "full"]
    verify = ["verify", "variant", "--size", "full"]
    found = [(f"checkpoint {path.name}", path, run) for path in sorted(checkpoint.iterdir())]
    found += [(f"data {path.name}", path, verify) for path in sorted(prose.parent.rglob("*")) if path.is_file()]
    found += [
        ("tokenizer", tokenizer, run),
        ("plan", cooldown / "plan.json", run),
        ("ledger", cooldown / "ledger.jsonl", run),
        ("metrics", cooldown / "metrics.jsonl", run),
        ("events", cooldown / "events.jsonl", run),
        ("evaluation", sorted((cooldown / "evaluations").iterdir())[-1], verify),
        ("status", cooldown / "DONE", ["status", "variant", "--size", "full"]),
    ]
    return found


def _directory(folder: Path, draw: random.Random, mark: Path) -> str:
    """A Hugging Face directory that wants code run; what is wrong with it."""
    folder.mkdir()
    config: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 12,
        "vocab_size": 300,
        "max_position_embeddings": 32,
    }
    kind = draw.choice(("auto_map", "code", "pickled weights", "tokenizer code", "pickled tokenizer", "shards"))
    code = f"import os\nos.mkdir({str(mark)!r})\n"
    if kind == "auto_map":
        config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
        (folder / "evil.py").write_text(code)
    if kind == "code":
        config["model_type"] = "evil"
        (folder / "modeling_evil.py").write_text(code)
    if kind == "tokenizer code":
        (folder / "tokenizer_config.json").write_text(
            json.dumps({"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "Evil"})
        )
        (folder / "evil.py").write_text(code)
    if kind == "shards":
        (folder / "model.safetensors.index.json").write_bytes(_paths(draw, mark))
    (folder / "pytorch_model.bin").write_bytes(_zipped(draw, mark))
    (folder / "tokenizer.json").write_bytes(_pickled(draw, mark) if kind == "pickled tokenizer" else b"{}")
    (folder / "config.json").write_text(json.dumps(config))
    return kind


def _spoken(root: Path, log: Path, words: list[str]) -> tuple[int, str]:
    log.unlink(missing_ok=True)

    def work() -> int:
        from curriculum.__main__ import main

        os.chdir(root)
        sys.argv = ["curriculum", *words]
        main()
        return 0

    return world.fork(work, log).wait(120), log.read_text(errors="replace")


@figure("R21", "untrusted artifacts: no code of theirs is run, nothing outside the run is touched")
def hostile(case: Case, tally: Tally) -> None:
    outside = case.folder / "outside"
    outside.mkdir()
    (outside / "kept").write_text("as it was")
    mark, refused = case.folder / "MARK", 0
    with world.forking():
        for number in range(case.count(8, 100, 2000)):
            draw = case.draw("R21", number)
            root = world.copy(case.folder / "run")
            (world.stage(root, "variant", "cooldown") / "DONE").unlink()
            kind = ("slot", "slot", "link", "directory")[number % 4]
            if kind == "directory":
                what = "a directory with " + _directory(case.folder / "theirs", draw, mark)
                (root / "stages/theirs.yaml").write_text(
                    f"from: hf:{case.folder / 'theirs'}\nseed: 3\nsequence_length: 32\noptimizer: {{name: adamw}}\n"
                    "learning_rate: {shape: constant, max: 1e-3}\nevery: {evaluate: 2048 tokens, checkpoint: 1024 "
                    "tokens}\nstages:\n  - {name: on, until: 2048, mixture: mixed, batch: 8 sequences}\n"
                )
                words = ["run", "theirs", "--size", "full"]
            else:
                slot, path, words = draw.choice(_slots(root))
                if kind == "link":
                    what = f"a link instead of {slot}"
                    path.unlink(missing_ok=True)
                    path.symlink_to(outside / draw.choice(("kept", "absent")))
                else:
                    made = draw.choice(sorted(MAKERS))
                    what = f"{made} as {slot}"
                    path.write_bytes(MAKERS[made](draw, mark))
            code, said = _spoken(root, case.folder / "log", words)
            refused += code in (1, 2)
            wrong = ""
            if mark.exists():
                wrong = "its code was run"
                mark.rmdir()
            elif sorted(os.listdir(outside)) != ["kept"] or (outside / "kept").read_text() != "as it was":
                wrong = f"written outside: {os.listdir(outside)}"
                shutil.rmtree(outside)
                outside.mkdir()
                (outside / "kept").write_text("as it was")
            elif code not in (0, 1, 2) or "Traceback" in said:
                wrong = f"exit code {code}: {said[-300:]}"
            tally.trial(f"{number}: {what}: {wrong}", not wrong)
            shutil.rmtree(case.folder / "theirs", ignore_errors=True)
    tally.notes["refused"] = refused


NAMES = ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "DATABASE_URL", "MY_PASSWORD")


@figure("R22", "secrets in the environment and in addresses: in no file of the project and in nothing that is said")
def secrets(case: Case, tally: Tally) -> None:
    draw = case.draw("R22")
    wanted = case.count(20, 200, 2000)
    canaries = {
        f"{draw.choice(NAMES)}_{number}": f"canary{number:04d}{draw.randrange(1 << 60):x}" for number in range(wanted)
    }
    for number, name in enumerate(NAMES):  # also under the names that libraries look at
        canaries[name] = f"canary{wanted + number:04d}{draw.randrange(1 << 60):x}"
    urls = [f"https://user:{value}@host.invalid/x" for value in canaries.values()]
    root = world.copy(case.folder / "run", runs=False)
    said = []
    with world.forking():

        def work() -> int:
            os.environ.update(canaries)
            for number, url in enumerate(urls):
                os.environ[f"URL_{number}"] = url
            return int(world.run(root).stopped)

        log = case.folder / "log"
        assert world.fork(work, log).wait(300) == 0, log.read_text()
        said.append(log.read_bytes())
        for words in (["status", "variant"], ["verify", "variant"], ["plan", "variant"], ["report", "variant"]):
            os.environ.update(canaries)
            try:
                said.append(_spoken(root, log, [*words, "--size", "full"])[1].encode())
            finally:
                for name in canaries:
                    os.environ.pop(name, None)
    stored = [path.read_bytes() for path in root.rglob("*") if path.is_file()] + said
    for name, value in canaries.items():
        found = sum(value.encode() in text for text in stored)
        tally.trial(f"the value of {name} is in {found} files", not found)
    tally.notes["files looked through"] = len(stored)
