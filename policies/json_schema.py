"""JSON Schema (draft 2020-12) of the files, for editors and for CI."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from policies.loader import KINDS
from scheduler.model.contract import GROUP

DIALECT: Final = GenerateJsonSchema.schema_dialect


def schema_of(model: type[BaseModel], kind: str) -> dict[str, Any]:
    """The schema of one kind's documents, descriptions from the docstrings of the fields."""
    schema = _without_null(model.model_json_schema(by_alias=True))
    return {"$schema": DIALECT, "$id": f"https://{GROUP}/schemas/{kind.lower()}.json", **schema, "title": kind}


def _without_null(schema: Any) -> Any:
    """Pydantic lets every optional key be null; in our files a key has a value or is left out. Defaults that are not
    as they would be written (null, a duration's seconds) go too: the descriptions tell them."""
    if isinstance(schema, list):
        return [_without_null(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {
        key: _without_null(value)
        for key, value in schema.items()
        if key != "default" or not (value is None or isinstance(value, float))
    }
    choices = [choice for choice in plain.pop("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1:
        return {**choices[0], **plain}
    return {**plain, "anyOf": choices} if choices else plain


def policy_schema() -> dict[str, Any]:
    """One schema for a document of any policy kind."""
    kinds = {kind: schema_of(model, kind) for kind, model in sorted(KINDS.items())}
    return {
        "$schema": DIALECT,
        "$id": f"https://{GROUP}/schemas/policy.json",
        "title": "Overspill policy",
        "oneOf": [{"$ref": f"#/$defs/{kind}"} for kind in kinds],
        "$defs": kinds,
    }
