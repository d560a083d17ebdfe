"""The recipe: the public interface. pydantic and YAML only."""

from trainer.recipe.load import load_recipe
from trainer.recipe.schema import Recipe

__all__ = ["Recipe", "load_recipe"]
