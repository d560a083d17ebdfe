"""What every section of a recipe shares."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A frozen block of a recipe that refuses keys it does not know.

    The docstring under a field is its description in the editors' JSON schema. Validators only raise: they never
    fill in or coerce. `"auto"` marks a default that depends on other keys; `recipe.solve` settles it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )
