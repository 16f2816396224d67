"""One-line changes of modules in memory: does a check notice them? Code is exchanged in place, and put back."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any


def functions(module: ModuleType) -> dict[str, FunctionType]:
    """Every function and method that the module defines, by qualified name."""
    found: dict[str, FunctionType] = {}

    def add(value: Any) -> None:
        value = getattr(value, "__wrapped__", getattr(value, "func", getattr(value, "fget", value)))
        value = getattr(value, "__func__", value)
        if isinstance(value, FunctionType) and value.__code__.co_filename == module.__file__:
            found[value.__qualname__] = value

    for value in vars(module).values():
        if getattr(value, "__module__", None) != module.__name__:
            continue
        add(value)
        if inspect.isclass(value):
            for inner in vars(value).values():
                add(inner)
    return found


def forget(module: ModuleType) -> None:
    for value in vars(module).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@contextmanager
def mutated(name: str, old: str, new: str) -> Iterator[None]:
    """Module `name` with `old`, which occurs in it once, replaced by `new`."""
    module = importlib.import_module(name)
    assert module.__file__ is not None
    with open(module.__file__) as file:
        source = file.read()
    assert source.count(old) == 1, f"{old!r} stands {source.count(old)} times in {name}"
    changed = ModuleType(name)
    changed.__file__ = module.__file__
    sys.modules[name] = changed  # dataclasses look their module up
    try:
        exec(compile(source.replace(old, new), module.__file__, "exec"), vars(changed))
    finally:
        sys.modules[name] = module
    theirs, before = functions(changed), {}
    constants = {
        key: value for key, value in vars(module).items() if isinstance(value, int) and vars(changed).get(key) != value
    }
    for qualified, function in functions(module).items():
        code: CodeType = theirs[qualified].__code__
        if code.co_code != function.__code__.co_code or code.co_consts != function.__code__.co_consts:
            before[function] = function.__code__
    assert before or constants, "nothing was changed"
    try:
        for function in before:
            function.__code__ = theirs[function.__qualname__].__code__
        for key in constants:
            setattr(module, key, vars(changed)[key])
        forget(module)
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code
        for key, value in constants.items():
            setattr(module, key, value)
        forget(module)
