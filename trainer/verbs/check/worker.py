"""Open a recipe's model on the meta device, in a process of its own, and write its blueprint.

    python -m trainer.verbs.check.worker RESOLVED_RECIPE.json BLUEPRINT.json [--cuda]

Exit code 5 and `{"message", "hint"}` in the file: the model cannot be used.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from pathlib import Path

from trainer.errors import HardwareError
from trainer.recipe import Recipe
from trainer.verbs.check.blueprint import blueprint

LIMIT_BYTES = 48 << 30
"""Of address space: a configuration that makes real tables of absurd size ends here, not in the machine's memory."""


def main(recipe_path: Path, blueprint_path: Path, *, is_cuda: bool) -> int:
    """Write the blueprint; return the exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    recipe = Recipe.model_validate_json(recipe_path.read_text(encoding="utf-8"))
    try:
        result: object = blueprint(recipe, is_cuda=is_cuda)
        code = 0
    except HardwareError as error:
        result, code = {"message": error.message, "hint": error.hint}, error.exit_code
    blueprint_path.write_text(json.dumps(result), encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), is_cuda="--cuda" in sys.argv))
