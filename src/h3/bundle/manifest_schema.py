"""manifest.schema.json, made from the models: for readers of a manifest that are not h3.

    python -m h3.bundle.manifest_schema > src/h3/bundle/manifest.schema.json

Run it again when manifest_model.py changes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from h3.bundle.manifest_model import Manifest, Provenance

PATH = Path(__file__).with_name("manifest.schema.json")


class _Plain(GenerateJsonSchema):
    """Without titles of fields, defaults and null, none of which a manifest has."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])


def schema() -> dict[str, Any]:
    """The JSON Schema of a manifest, 2020-12."""
    content = Manifest.model_json_schema(schema_generator=_Plain)
    content["properties"]["provenance"] = Provenance.model_json_schema(schema_generator=_Plain)
    return {"$schema": GenerateJsonSchema.schema_dialect, **content}


def text() -> str:
    """The file's text."""
    return json.dumps(schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(text(), end="")
