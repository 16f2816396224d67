"""A JSON schema of every YAML file, made from the models, so that an editor completes and checks them.

Draft 7, which is what the editors' YAML support understands. What one file alone cannot decide, and what only
arithmetic decides (an end before its start), is left to `curriculum plan`.
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
from curriculum.config.sizes import SizesFile
from curriculum.config.sources import SourcesFile
from curriculum.config.stages import CurriculumFile, MixtureFile
from curriculum.units import Length

FOLDER: Final = ".schema"
FILES: Final[dict[str, type[BaseModel]]] = {
    "stages": CurriculumFile,
    "mixtures": MixtureFile,
    "sources": SourcesFile,
    "sizes": SizesFile,
    "machines": MachinesFile,
}
"""The schema's name and the model of the files it is for: a folder of them, or one in the project's root."""


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema (draft 7) of what may be written where `model` is read."""
    made = model.model_json_schema(ref_template="#/definitions/{model}", schema_generator=_Written)
    if "$defs" in made:
        made["definitions"] = made.pop("$defs")
    return {"$schema": "http://json-schema.org/draft-07/schema#", **made}


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


class _Written(GenerateJsonSchema):
    """What a person may write, where pydantic would describe what it makes of it."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> dict[str, Any]:
        return self.generate_inner(schema["schema"])  # None is what is unsaid; `key: null` is refused

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> dict[str, Any]:
        made = self.generate_inner(schema["schema"])
        default = _as_written(schema.get("default"))
        return made if default is None else {**made, "default": default}

    def dict_schema(self, schema: core_schema.DictSchema) -> dict[str, Any]:
        names, values = (
            self.generate_inner(schema["keys_schema"]),
            self.generate_inner(schema["values_schema"]),
        )
        return {"type": "object", "propertyNames": names, "additionalProperties": values}

    def model_schema(self, schema: core_schema.ModelSchema) -> dict[str, Any]:
        made = super().model_schema(schema)
        model = schema["cls"]
        if issubclass(model, Entry) and model.one_of:
            made["oneOf"] = [{"required": [key]} for key in model.one_of]
        return made


def _as_written(default: Any) -> Any:
    """A field's default as one would write it; None for one that stands for nothing written."""
    if isinstance(default, Fraction):
        return int(default) if default.denominator == 1 else float(default)
    if isinstance(default, tuple):
        return [_as_written(item) for item in default]
    if isinstance(default, Length):
        return str(default) if default.amount else None
    return default or None if isinstance(default, dict) else default
