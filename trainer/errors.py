"""Define the errors that a user can act on: one message, one fix, one exit code.

Every error that is not our bug derives from `TrainerError`, and so does the one that names the row of a bug. `cli` is
the only place that prints them.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_LISTED = 50
"""Problems of a recipe that are printed."""


class TrainerError(Exception):
    """Something the user can put right; `hint` is a command or an edit."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


@dataclass(frozen=True)
class Problem:
    """One fault of a recipe: where it stands, the dotted key and what is wrong."""

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        position = f"{self.file}:{self.line}" if self.line else self.file
        return f"{position}: {self.key}: {self.message}"


class RecipeError(TrainerError):
    """The recipe is wrong; carries every problem found, not only the first."""

    exit_code = 2

    def __init__(
        self, problems: list[Problem], *, hint: str = "correct the lines above, then: trainer check RECIPE"
    ) -> None:
        lines = [str(problem) for problem in problems[:MAX_LISTED]]
        if len(problems) > MAX_LISTED:
            lines.append(f"and {len(problems) - MAX_LISTED} more")
        super().__init__("\n".join(lines), hint=hint)
        self.problems = problems


class DataError(TrainerError):
    """A row or a data file is wrong; the message carries `path:line`."""

    exit_code = 3


class StageError(TrainerError):
    """An input of a stage is missing, stale or damaged, or the run is locked."""

    exit_code = 4


class HardwareError(TrainerError):
    """The machine or its packages cannot do what the recipe asks."""

    exit_code = 5


class RowBugError(TrainerError):
    """Our own code failed on one row; the message names the row, the traceback behind it the place in the code.

    `hint` has a default: errors that come from another process are made anew from their message alone.
    """

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str = "leave the row out, and report this bug with what --debug shows"
    ) -> None:
        super().__init__(message, hint=hint)


class GateError(TrainerError):
    """Everything worked and the result is not good enough."""

    exit_code = 6


class DivergedError(TrainerError):
    """The loss or the gradient became non-finite."""

    exit_code = 7


class InterruptedRunError(TrainerError):
    """A signal stopped the training after its state was saved."""

    def __init__(self, message: str, *, hint: str, exit_code: int) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


BY_EXIT_CODE: dict[int, type[TrainerError]] = {
    kind.exit_code: kind for kind in (DataError, StageError, HardwareError, GateError, DivergedError)
}
