"""Validates a file by its model: each error with its place, and a hint that knows the keys of all files."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from curriculum.config import fields, json_schema
from curriculum.config.entry import inside_a_sentence
from curriculum.config.fields import Refusal, UnknownKey
from curriculum.config.yaml import Document, KeyPath
from curriculum.errors import ConfigError, Place, did_you_mean, shortened

File = TypeVar("File", bound=BaseModel)

_FOLDERS: Final = ("stages", "mixtures", "studies")


def validate(model: type[File], document: Document) -> File:
    """The document as `model`. Raises ConfigError for the first error in the file."""
    if not isinstance(document.value, dict):
        raise ConfigError(
            f"{document.file} must be a mapping, not {fields.describe(document.value)}",
            place=document.place(()),
            hint="it begins with a key, as in `about: …`",
        )
    try:
        return model.model_validate(document.value)
    except ValidationError as error:
        errors = [_located(model, document, detail) for detail in error.errors(include_url=False)]
    raise min(errors, key=lambda one: (one.place.line, one.place.column) if one.place else (0, 0))


def _located(model: type[BaseModel], document: Document, error: Any) -> ConfigError:
    """One of pydantic's error details as a ConfigError at its place."""
    refusal = error.get("ctx", {}).get("error")
    if not isinstance(refusal, Refusal):
        refusal = _builtin(error)
    if "[key]" in error["loc"] and (hint := fields.missing_colon(str(error["input"]))):
        refusal = Refusal(refusal.message, hint)
    inside = [part for part in error["loc"] if part != "[key]"]
    path = _stated(document, (), inside)
    full_path = _stated(document, path, refusal.at)
    on_key = refusal.on_key or "[key]" in error["loc"]
    subject = path if refusal.on_key else full_path
    place: Place = document.key_place(full_path) if on_key else document.place(full_path)
    what = textwrap.wrap(f"{_shown(subject)} {refusal.message}", 92)
    hint = _hint(model, refusal, full_path, document)
    return ConfigError("\n".join(what), place=place, hint="\n".join(textwrap.wrap(hint, 92)))


def _hint(model: type[BaseModel], refusal: Refusal, path: KeyPath, document: Document) -> str:
    """The hint of a refusal; of an unknown key, where it is known; of a value of the wrong type, what the key means."""
    if isinstance(refusal, UnknownKey):
        here = _pattern(model, path[:-1])
        unlike = refusal.hint.startswith("there are")  # no key here is similar
        for key, info in _fields(model, here).items() if unlike else ():
            if info.is_required() and get_origin(info.annotation) is dict and (*path[:-1], key) not in document:
                return f"names of your own stand under `{key}`, which is not there: `{key}: {{{refusal.key}: …}}`"
        return _where_known(model, refusal, here)
    if not refusal.of_type:
        return refusal.hint
    at = max((number for number, part in enumerate(path) if isinstance(part, str)), default=0)
    field = _fields(model, _pattern(model, path[:at])).get(str(path[at])) if path else None
    if field is None or not field.description:
        return refusal.hint
    meaning = inside_a_sentence(field.description).rstrip(".")
    if refusal.hint.startswith("as in"):
        return meaning if "as in" in meaning else f"{meaning}; {refusal.hint}"
    return f"{meaning}; {refusal.hint}"


def _where_known(model: type[BaseModel], refusal: UnknownKey, here: KeyPath) -> str:
    """The hint for a key that is known elsewhere: below, above, at another level, or in another kind of file."""
    begin = refusal.hint.find("there are: ")
    if begin < 0:
        return refusal.hint
    levels = [level for level, keys in _levels(model) if refusal.key in keys and level[-1:] != here[-1:]]
    below = [level for level in levels if level[: len(here)] == here]
    above = [level for level in levels if level == here[: len(level)]]
    nearest = below or above or levels
    depths = [sum(part != "*" for part in level) for level in nearest]
    shown = [
        f"under `{'.'.join(map(str, level)).replace('.*', '[…]')}`" if level else "at the top of the file"
        for level, depth in zip(nearest, depths, strict=True)
        if depth == min(depths)
    ]
    if not below and not above and (shown or begin == 0):
        for name, other in json_schema.FILES.items():
            if other is not model and any(
                refusal.key in keys and level[-1:] != here[-1:] for level, keys in _levels(other)
            ):
                shown.append(f"in {name}/NAME.yaml" if name in _FOLDERS else f"in {name}.yaml")
    if not shown:
        return refusal.hint
    return f"`{refusal.key}` belongs {' or '.join(shown)}; here {refusal.hint[begin:]}"


# --- the keys of a model -----------------------------------------------------------------------------------


def _levels(model: type[BaseModel]) -> Iterator[tuple[KeyPath, dict[str, FieldInfo]]]:
    """Each mapping of a file by its path, `*` for any item and `NAME` for any name, with its keys."""
    waiting: list[tuple[KeyPath, type[BaseModel]]] = [((), model)]
    for level, one in waiting:
        keys = {field.alias or name: field for name, field in one.model_fields.items()}
        if "root" in keys:
            waiting += [((*level, *below), inner) for below, inner in _models(keys["root"].annotation)]
            continue
        yield level, keys
        for key, field in keys.items():
            waiting += [((*level, key, *below), inner) for below, inner in _models(field.annotation)]


def _models(annotation: Any) -> Iterator[tuple[KeyPath, type[BaseModel]]]:
    """The models in a type, each with `*` or `NAME` where a list or a mapping of names is around it."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield (), annotation
        return
    around: KeyPath = {tuple: ("*",), dict: ("NAME",)}.get(get_origin(annotation), ())
    for inner in get_args(annotation):
        yield from ((around + below, model) for below, model in _models(inner))


def _fields(model: type[BaseModel], level: KeyPath) -> dict[str, FieldInfo]:
    return {key: field for path, keys in _levels(model) if path == level for key, field in keys.items()}


def _pattern(model: type[BaseModel], path: KeyPath) -> KeyPath:
    """The path of a mapping in the document as one of `_levels`."""
    for level, _ in _levels(model):
        if len(level) == len(path) and all(own in ("*", "NAME", part) for own, part in zip(level, path, strict=True)):
            return level
    return path


def _builtin(error: Any) -> Refusal:
    """The errors that pydantic raises itself: a choice, a mapping, a list."""
    value = fields.describe(error["input"])
    if error["type"] == "literal_error":
        choices = re.findall(r"'([^']*)'", error["ctx"]["expected"])
        word = error["input"] if isinstance(error["input"], str) else ""
        return Refusal(f"cannot be {value}", did_you_mean(word, choices))
    expected = {"dict_type": "a mapping", "tuple_type": "a list"}.get(error["type"])
    if expected is None:
        return Refusal(f"cannot be {value}: {error['msg']}", "see the examples in the shipped files")
    example = "each entry as `name: value`" if expected == "a mapping" else "each item on a line that begins with `- `"
    return Refusal(f"must be {expected}, not {value}", example)


def _stated(document: Document, path: KeyPath, parts: Iterable[str | int]) -> KeyPath:
    """`path` extended by those of `parts` that the document states: a union's tag or a default is none."""
    for part in parts:
        if (*path, part) in document:
            path = (*path, part)
    return path


def _shown(path: KeyPath) -> str:
    if not path:
        return "this file"
    shown = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return f"`{shortened(shown.removeprefix('.'), 60)}`"
