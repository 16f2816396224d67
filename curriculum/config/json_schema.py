"""JSON schemas of the YAML files, generated from the models, with which editors complete and check them.

Draft 7, which editors' YAML support understands. What needs a second file, or arithmetic (an end before its start),
is checked by `curriculum plan`.
"""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from curriculum.config.entry import Entry
from curriculum.config.machines import MachinesFile
from curriculum.config.mixtures import MixtureFile
from curriculum.config.sizes import SizesFile
from curriculum.config.sources import SourcesFile
from curriculum.config.stages import CurriculumFile
from curriculum.config.studies import StudyFile
from curriculum.units import Length

FOLDER: Final = ".schema"
FILES: Final[dict[str, type[BaseModel]]] = {
    "stages": CurriculumFile,
    "mixtures": MixtureFile,
    "studies": StudyFile,
    "sources": SourcesFile,
    "sizes": SizesFile,
    "machines": MachinesFile,
}
"""A schema's name to the model of its files: those of a folder, or one in the project's root."""


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema (draft 7) of the input of `model`."""
    schema = model.model_json_schema(ref_template="#/definitions/{model}", schema_generator=_InputSchema)
    if "$defs" in schema:
        schema["definitions"] = schema.pop("$defs")
    return {"$schema": "http://json-schema.org/draft-07/schema#", **schema}


def texts() -> dict[str, str]:
    """The content of every schema file, by its path in a project."""
    return {
        f"{FOLDER}/{name}.json": json.dumps(schema_of(model), indent=1, ensure_ascii=False) + "\n"
        for name, model in FILES.items()
    }


def modeline(path: str) -> str:
    """The first line of the project's YAML file `path`, which tells editors its schema."""
    folder, _, name = path.rpartition("/")
    up = "../" if folder else ""
    return f"# yaml-language-server: $schema={up}{FOLDER}/{folder or name.removesuffix('.yaml')}.json"


class _InputSchema(GenerateJsonSchema):
    """The schema of what a file states, where pydantic's describes the parsed values."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])  # None is the default of an absent key; `key: null` is an error

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        inner = self.generate_inner(schema["schema"])
        default = _input_form(schema.get("default"))
        return inner if default is None else {**inner, "default": default}

    def dict_schema(self, schema: core_schema.DictSchema) -> dict[str, Any]:
        names, values = (self.generate_inner(schema["keys_schema"]), self.generate_inner(schema["values_schema"]))
        return {"type": "object", "propertyNames": names, "additionalProperties": values}

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        result = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, Entry) and model.one_of:
            result["oneOf"] = [{"required": [key]} for key in model.one_of]
        return result


def _input_form(default: Any) -> Any:
    """A field's default as a file would state it; None for one that means an absent key."""
    if isinstance(default, Fraction):
        return int(default) if default.denominator == 1 else float(default)
    if isinstance(default, tuple):
        return [_input_form(item) for item in default]
    if isinstance(default, Length):
        return str(default) if default.amount else None
    return default or None if isinstance(default, dict) else default
