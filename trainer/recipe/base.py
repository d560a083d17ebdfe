"""Define what every section of a recipe shares."""

from __future__ import annotations

import ast
import inspect
import itertools
import textwrap
from typing import Any

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema


class Section(BaseModel):
    """A frozen block of a recipe that refuses keys it does not know.

    The docstring under a field is its description in the editors' JSON schema. Validators only raise: they never
    fill in or coerce. `"auto"` marks a default that depends on other keys; `recipe.solve` settles it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, defer_build=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler, /) -> dict[str, Any]:
        """Add the docstrings of the fields: read from the source only here, since every command would pay for it."""
        written = handler(schema)
        properties = handler.resolve_ref_schema(written).get("properties", {})
        for parent in reversed(cls.__mro__):
            if issubclass(parent, Section) and parent is not Section:
                for name, text in _field_docstrings(parent).items():
                    properties[name]["description"] = text
        return written


def _field_docstrings(section: type[Section]) -> dict[str, str]:
    """Return the string that stands under each field of a class."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(definition, ast.ClassDef)
    return {
        field.target.id: inspect.cleandoc(below.value.value)
        for field, below in itertools.pairwise(definition.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and isinstance(below.value.value, str)
    }
