"""TinyLlama's and lit-gpt's pretraining scripts: constants of the module, read as literals and never run."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, Final

from curriculum.config.fields import describe
from curriculum.config.recipes.recipe import (
    SEQUENCE_LENGTH,
    Fact,
    Recipe,
    RecipeStage,
    Statement,
    Text,
    blend,
    curve,
    fact,
    flow,
    spelled,
)
from curriculum.errors import ConfigError, Place, shortened
from curriculum.units import parse_length

CONFIG: Final = "train_data_config"
_OPERATIONS: Final[Mapping[type[ast.operator], Callable[[Decimal, Decimal], Decimal]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_MODELS: Final = {"tiny_LLaMA_1b": "tinyllama-1.1b"}
"""lit_gpt/config.py's name to ours; its `block_size` is 2,048."""
_FOLDER: Final = "train_data_dir"


def read(text: str, file: str) -> Recipe | None:
    """The recipe of a script that assigns `train_data_config`; None for a script without it."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError) as error:
        line = getattr(error, "lineno", None) or 1
        shown = text.splitlines()[line - 1] if line <= len(text.splitlines()) else ""
        raise ConfigError(
            f"this is not Python: {error.args[0]}", place=Place(file, line, 1, shown), hint="give the script itself"
        ) from None
    names = _assigned(tree, text, file)
    if CONFIG not in names:
        return None
    notes: list[str] = []
    texts: dict[str, Text] = {}
    folder = names.get(_FOLDER)
    where = "data" if folder is None else str(folder.value)
    if folder is None:
        notes.append(f"the folder of the data is an argument there; `{where}` here")
    weighted = []
    config = names[CONFIG]
    if not isinstance(config.value, list | tuple) or not config.value:
        raise config.refused("must be a list of prefixes and weights", 'as in `[("train_slim", 0.69)]`')
    for prefix, weight in (_pair(item, config) for item in config.value):
        read: dict[str, str | tuple[str, ...]] = {"tokenised": where, "files": (f"{prefix.value}*.bin",)}
        weighted.append((Text(str(prefix.value), {**read, "format": "packed"}, prefix), weight))
    mixed = blend(weighted, notes, texts)
    total = sum(mixed.shares().values(), Decimal(0))
    if len(weighted) > 1 and total != 1:
        notes.append(f"{config.origin}: weights add up to {spelled(total)}; a share is a weight by that sum, as there")
    steps = names.get("max_step")
    batch = _batch(names, notes)
    root: dict[str, Fact] = {}
    model = names.get("model_name")
    if model is not None and model.value in _MODELS:
        root["model"] = fact(_MODELS[str(model.value)], model)
        root["sequence_length"] = fact(str(SEQUENCE_LENGTH), model)
    optimizer = [names.get(key) for key in ("beta1", "beta2", "weight_decay", "grad_clip")]
    if all(optimizer):
        one, two, decay, clip = (spelled(each.number()) for each in optimizer if each is not None)
        entries = {"name": "adamw", "betas": f"[{one}, {two}]", "weight_decay": decay, "clip_norm": clip}
        root["optimizer"] = fact(flow(entries), *optimizer)
    if steps is not None and batch is not None and "learning_rate" in names:
        tokens = parse_length(batch.text).amount * SEQUENCE_LENGTH
        root["learning_rate"] = _learning_rate(names, steps, tokens)
    interval = names.get("save_step_interval")
    if interval is not None:
        root["every"] = fact(flow({"checkpoint": f"{interval.integer()} steps"}), interval)
    used = {CONFIG, _FOLDER, "max_step", "model_name", "beta1", "beta2", "weight_decay", "grad_clip", *_BATCH, *_RATE}
    return Recipe(
        trainer="TinyLlama",
        files=(file,),
        stages=[
            RecipeStage(
                "main",
                Fact("") if steps is None else fact(f"{steps.integer():_} steps", steps),
                Fact("") if batch is None else batch,
                mixed,
            )
        ],
        texts=texts,
        root=root,
        notes=notes,
        left_out=[
            f"{file}:{stated.place.line if stated.place else 1} {name} = {_shown(stated.value)}"
            for name, stated in names.items()
            if name not in {*used, "save_step_interval"}
        ],
    )


_BATCH: Final = ("global_batch_size", "num_of_devices", "micro_batch_size")
_RATE: Final = ("learning_rate", "min_lr", "warmup_steps", "decay_lr")


def _assigned(tree: ast.Module, text: str, file: str) -> dict[str, Statement]:
    """What the module assigns that is a literal or arithmetic of such, and the default of `train_data_dir`."""
    lines = text.splitlines()
    names: dict[str, Statement] = {}
    of_module = {id(node) for node in tree.body}
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(args=arguments):
                for argument, default in zip(reversed(arguments.args), reversed(arguments.defaults), strict=False):
                    inner = default.args[0] if isinstance(default, ast.Call) and default.args else default
                    if argument.arg == _FOLDER and isinstance(inner, ast.Constant) and _FOLDER not in names:
                        names[_FOLDER] = Statement(_FOLDER, inner.value, _place(inner, lines, file))
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=ast.expr() as assigned)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as assigned)
            ) if id(node) in of_module or name == CONFIG:
                place = _place(node, lines, file)
                try:
                    value = _literal(assigned, names, lines, file)
                except ValueError:
                    if name == CONFIG:
                        raise Statement(CONFIG, None, place).refused(
                            "is not a list of literals", 'write the numbers in a copy, as in `[("train_slim", 0.69)]`'
                        ) from None
                    continue
                if value is not None:
                    names[name] = Statement(name, value, place)
    return names


def _literal(node: ast.expr, names: Mapping[str, Statement], lines: list[str], file: str) -> Any:
    """The value of a literal, numbers exactly as they are spelled; ValueError for what would have to be run."""
    if isinstance(node, ast.List | ast.Tuple):
        return [
            Statement("", _literal(item, names, lines, file), _place(item, lines, file))
            if isinstance(node, ast.Tuple)
            else _literal(item, names, lines, file)
            for item in node.elts
        ]
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | str):
        return node.value
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        spelled_there = lines[node.lineno - 1].encode()[node.col_offset : node.end_col_offset].decode()
        return Decimal(spelled_there.replace("_", "")) if node.lineno == node.end_lineno else Decimal(node.value)
    if isinstance(node, ast.Name) and node.id in names:
        return names[node.id].value
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = (_literal(side, names, lines, file) for side in (node.left, node.right))
        if isinstance(left, Decimal) and isinstance(right, Decimal) and right:
            return _OPERATIONS[type(node.op)](left, right)
    raise ValueError("not a literal")


def _shown(value: Any) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else shortened(str(value))


def _place(node: ast.expr | ast.stmt, lines: list[str], file: str) -> Place:
    return Place(file, node.lineno, node.col_offset + 1, lines[node.lineno - 1])


def _pair(item: Any, config: Statement) -> tuple[Statement, Statement]:
    if not isinstance(item, list) or len(item) != 2 or not all(isinstance(part, Statement) for part in item):
        raise config.refused("must hold pairs of a prefix and a weight", 'as in `[("train_slim", 0.69)]`')
    prefix, weight = item
    if not isinstance(prefix.value, str):
        raise Statement(CONFIG, None, prefix.place).refused(
            f"names {describe(prefix.value)} as a prefix", 'as in `("train_slim", 0.69)`'
        )
    return Statement(CONFIG, prefix.value, prefix.place), Statement(CONFIG, weight.value, weight.place)


def _batch(names: Mapping[str, Statement], notes: list[str]) -> Fact | None:
    """What the script trains with at the devices that it states: it rounds down twice."""
    if any(key not in names for key in _BATCH):
        return None
    batch, devices, micro = (names[key] for key in _BATCH)
    each = devices.integer() * micro.integer()
    if batch.integer() % each:
        raise batch.refused(
            f"of {batch.integer():,} is no multiple of num_of_devices times micro_batch_size, {each:,}",
            f"the script trains with {batch.integer() // each * each:,}: write that in a copy",
        )
    notes.append(
        f"{batch.origin} is for num_of_devices = {devices.integer()}; several machines train with as many times more"
    )
    return fact(f"{batch.integer()} sequences", batch, devices, micro)


def _learning_rate(names: Mapping[str, Statement], steps: Statement, tokens: int) -> Fact:
    """Its `get_lr`: a rise, then half a cosine down to `min_lr` at the last step; else constant."""
    top, low, rise, falls = (names.get(key) for key in _RATE)
    assert top is not None
    warmup = 0 if rise is None else rise.integer(0)
    entries = {"max": spelled(top.number())}
    if falls is not None and falls.value is False:
        return fact(flow({"shape": "constant", **entries}), top, falls)
    entries = {"shape": "cosine", **entries, "min": "0" if low is None else spelled(low.number())}
    text = curve(steps.place, entries, warmup=warmup, horizon=steps.integer(), tokens=tokens)
    return fact(text, top, low, rise, falls, steps)
