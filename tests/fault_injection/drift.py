"""R12: one thing changed between a stop and the next start: refused, or on record; what changes nothing is let pass."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curriculum import fs
from curriculum.artifacts.stage_folder import StageFolder
from tests.fault_injection import world
from tests.fault_injection.figures import Case, Tally, figure

REFUSED, RECORDED, NOTHING = "refused", "recorded", "nothing"


def _file(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text, f"{name} has no {old!r}"
        (root / name).write_text(text.replace(old, new, 1))

    return change


def _trunk(old: str, new: str) -> Callable[[Path], None]:
    return _file("stages/trunk.yaml", old, new)


def _variant(old: str, new: str) -> Callable[[Path], None]:
    return _file("stages/variant.yaml", old, new)


def _tokenizer(root: Path) -> None:
    """Another vocabulary under the same path: two ids change places."""
    (path,) = (root / "data").glob("tokenizers/*/tokenizer.json")
    value = json.loads(path.read_text())
    vocabulary = value["model"]["vocab"]
    one, other = sorted(vocabulary, key=vocabulary.get)[-2:]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    path.write_text(json.dumps(value, ensure_ascii=False))


def _shard(root: Path) -> None:
    """Other tokens of the same number and size."""
    for path in (root / "data/prose").glob("*/train/*.ds"):
        data = path.read_bytes()
        path.write_bytes(data[2:] + data[:2])


def _other_text(root: Path) -> None:
    """All of a source's prepared text, manifest included, exchanged for another's."""
    (prose,), (code,) = ((root / "data" / name).glob("*/manifest.json") for name in ("prose", "code"))
    kept = prose.parent.with_name("kept")
    prose.parent.rename(kept)
    code.parent.rename(prose.parent)
    kept.rename(code.parent)


def _checkpoint(root: Path) -> None:
    """The newest checkpoint exchanged for one of another stage, whole and sealed."""
    folder = world.stage(root, "variant", "cooldown") / "checkpoints"
    mine = sorted(folder.iterdir())[-1]
    theirs = sorted((world.stage(root, "trunk", "basic") / "checkpoints").iterdir())[-1]
    shutil.rmtree(mine)
    shutil.copytree(theirs, mine)


def _plan(root: Path) -> None:
    """A plan that was edited and sealed again, so that nothing but its history tells."""
    path = world.stage(root, "variant", "cooldown") / "plan.json"
    value = json.loads(path.read_text())
    plain = {key: entry for key, entry in value.items() if key not in (fs.SEAL, "fingerprint")}
    plain["seed"] = 12345
    path.write_text(json.dumps(fs.seal(plain)))


def _weights(root: Path) -> None:
    for folder in sorted((world.stage(root, "variant", "cooldown") / "checkpoints").iterdir()):
        file = folder / "rank-00000.safetensors"
        data = bytearray(file.read_bytes())
        data[-7] ^= 1
        file.write_bytes(data)


DRIFT: dict[str, Callable[[Path], Any]] = {
    "the tokenizer, under the same path": _tokenizer,
    "the prepared text, of the same size": _shard,
    "the prepared text of two sources exchanged": _other_text,
    "the newest checkpoint, for another stage's": _checkpoint,
    "the plan file, sealed again": _plan,
    "a bit of the weights": _weights,
    "the seed": _trunk("seed: 7", "seed: 8"),
    "the model's width": _trunk("hidden_size: 32", "hidden_size: 64"),
    "the model's depth": _trunk("num_hidden_layers: 2", "num_hidden_layers: 1"),
    "the model's heads": _trunk("num_key_value_heads: 2", "num_key_value_heads: 4"),
    "the vocabulary": _trunk("intermediate_size: 64, vocab_size: 300", "intermediate_size: 64, vocab_size: 304"),
    "the sequence length": _trunk("sequence_length: 32", "sequence_length: 16"),
    "weight decay": _trunk("weight_decay: 0.1", "weight_decay: 0.2"),
    "what decays": _trunk("weight_decay: 0.1", "weight_decay: 0.1, decay: matrices"),
    "Adam's betas": _trunk("weight_decay: 0.1", "weight_decay: 0.1, betas: [0.9, 0.99]"),
    "Adam's epsilon": _trunk("weight_decay: 0.1", "weight_decay: 0.1, eps: 1e-6"),
    "the clipping": _trunk("weight_decay: 0.1", "weight_decay: 0.1, clip_norm: 0.5"),
    "the learning rate": _trunk("max: 1e-2", "max: 2e-2"),
    "the least learning rate": _trunk("min: 1e-3", "min: 2e-3"),
    "the rate's shape": _trunk("shape: cosine", "shape: linear"),
    "the warm-up": _trunk("warmup: 2 steps", "warmup: 3 steps"),
    "the horizon": _trunk("horizon: 12288", "horizon: 24576"),
    "the trunk's batch": _trunk("batch: 8 sequences", "batch: 16 sequences"),
    "a later stage's batch": _variant("batch: 32 sequences", "batch: 16 sequences"),
    "a mixture's weights": _file("mixtures/mixed.yaml", "prose: 3", "prose: 2"),
    "a mixture's sources": _file("mixtures/mixed.yaml", "{prose: 3, code: 1}", "{prose: 1}"),
    "the ramp": _variant("ramp: 1536 tokens", "ramp: 768 tokens"),
    "where a stage ends": _variant("until: 9216", "until: 8192"),
    "where the variant branches": _variant("from: trunk/basic", "from: trunk@4096"),
    "the optimizer is reset": _variant("mixture: mixed,", "mixture: mixed, optimizer: reset,"),
    "the held-out share": _file(
        "sources.yaml",
        "prose: {read: {folder: texts/prose}, held_out: 25%}",
        "prose: {read: {folder: texts/prose}, held_out: 50%}",
    ),
    "the size's scale": _file("sizes.yaml", "full: {", "full: {tokens: 0.5, "),
}
COSMETIC: dict[str, Callable[[Path], Any]] = {
    "a comment": _trunk("seed: 7", "# a word to the reader\nseed: 7"),
    "what a stage file is about": _trunk("a trunk of three stages", "the same in other words"),
    "the order of keys": _trunk("max: 1e-2, min: 1e-3", "min: 1e-3, max: 1e-2"),
    "the order of a mixture": _file("mixtures/mixed.yaml", "{prose: 3, code: 1}", "{code: 1, prose: 3}"),
    "weights in the same proportion": _file("mixtures/mixed.yaml", "{prose: 3, code: 1}", "{prose: 6, code: 2}"),
    "a number's spelling": _trunk("max: 1e-2", "max: 0.010"),
    "the cadence of evaluation": _trunk("evaluate: 2048 tokens", "evaluate: 4096 tokens"),
    "the cadence of checkpoints": _trunk("checkpoint: 1024 tokens", "checkpoint: 2048 tokens"),
    "another source beside": _file(
        "sources.yaml", "sources:\n", "sources:\n  more: {read: {folder: texts/more}, held_out: 5%}\n"
    ),
    "another curriculum beside": lambda root: (root / "stages/other.yaml").write_text(
        "from: trunk/basic\nstages:\n  - {name: on, until: 9216, mixture: mixed}\n"
    ),
    "the project's place": lambda root: None,
}


def stopped(root: Path) -> Path:
    """A run that has only its variant's last steps before it."""
    from curriculum.artifacts import checkpoints

    world.copy(root)
    folder = world.stage(root, "variant", "cooldown")
    (folder / "DONE").unlink()
    last = checkpoints.list_checkpoints(StageFolder(folder))[-1]
    if len(checkpoints.list_checkpoints(StageFolder(folder))) > 1:
        fs.remove(last.path)
    return root


@figure("R12", "one thing changed between stop and start: refused or on record; what changes nothing raises no alarm")
def drift(case: Case, tally: Tally) -> None:
    undisturbed = world.outcome(world.finished())
    log = case.folder / "log"
    chosen = sorted(DRIFT)[:: 1 if case.size != "smoke" else 6]
    with world.forking():
        for what in chosen:
            root = stopped(case.folder / "run")
            DRIFT[what](root)
            log.unlink(missing_ok=True)
            code = world.fork(lambda root=root: int(world.run(root).stopped), log).wait(120)
            said = log.read_text()
            fine = code in (1, 2) and "error: " in said and "hint: " in said and "Traceback" not in said
            tally.trial(f"{what}: exit code {code}: {said[-300:]}", fine)
        tally.notes["refused"] = f"{len(chosen) - len(tally.failures)} of {len(chosen)}"
        alarms = 0
        for what in sorted(COSMETIC)[:: 1 if case.size != "smoke" else 4]:
            root = stopped(case.folder / ("run" if what != "the project's place" else "moved"))
            COSMETIC[what](root)
            log.unlink(missing_ok=True)
            code = world.fork(lambda root=root: int(world.run(root).stopped), log).wait(120)
            wrong = f"exit code {code}: {log.read_text()[-300:]}" if code else ""
            wrong = wrong or world.difference(_bits(undisturbed), _bits(world.outcome(root)))
            alarms += bool(wrong)
            tally.trial(f"false alarm, {what}: {wrong}", not wrong)
        tally.notes["false alarms"] = alarms
        _machine(case, tally)


def _bits(outcome: dict[str, Any]) -> dict[str, Any]:
    """What must stay when cadences change: the weights at the end, and the losses."""
    return {name: {"metrics": recorded["metrics"], "DONE": recorded["DONE"]} for name, recorded in outcome.items()}


def _other(name: str, old: str, new: str) -> Callable[[Path], Any]:
    """The attempt before was another in one thing."""
    return lambda path: path.write_text(path.read_text().replace(f'"{name}": {old}', f'"{name}": {new}'))


SURROUNDINGS: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "torch": (_other("torch", '"', '"0.'), True),
    "numpy": (_other("numpy", '"', '"0.'), True),
    "the processor": (_other("processor", '"', '"another '), True),
    "the code that computes a step": (_other("training_code", '"', '"0'), True),
    "other code": (_other("code", '"', '"0'), False),
    "the number of ranks": (_other("ranks", "1", "2"), False),
}
"""What of an environment is changed how, and whether it must be consented to."""


def _machine(case: Case, tally: Tally) -> None:
    """Where and how may change at every restart and is on record; what changes bits is refused without consent."""
    log = case.folder / "log"
    for what, (change, asked) in SURROUNDINGS.items():
        root = stopped(case.folder / "run")
        attempts = world.stage(root, "variant", "cooldown") / "attempts"
        change(sorted(attempts.glob("*/environment.json"))[-1])
        for _ in range(2 if asked else 0):  # the second time as well: a refusal must not count as the attempt before
            log.unlink(missing_ok=True)
            code = world.fork(lambda root=root: int(world.run(root).stopped), log).wait(120)
            said = log.read_text()
            fine = code == 1 and "--accept-environment" in said and "Traceback" not in said
            tally.trial(f"{what} changed and no consent was asked for: {code}, {said[-300:]}", fine)
        code = world.fork(
            lambda root=root, asked=asked: int(world.run(root, accept_environment=asked).stopped), log
        ).wait(120)
        recorded = json.loads(sorted(attempts.glob("*/environment.json"))[-1].read_text())
        right = code == 0 and len(recorded["changed"]) == 1 and len(recorded["accepted"]) == asked
        tally.trial(f"{what} changed without record: {code}, {recorded}", right)
