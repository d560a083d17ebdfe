"""Run a program with its tests, in the child process; it takes one program and is replaced."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainer.scoring.isolated.worker import Reply, Request

ANSWER, TESTS = "<answer>", "<tests>"


def run(request: Request) -> Reply:
    """Run a program, then its tests.

    Args:
        request: `program` and `tests`, Python texts; `tests` may be empty. Or `ready`: nothing is asked.

    Returns:
        `passed`; `reason`, the last line of the error; `in_tests`, whether the tests had begun.
    """
    if request.get("ready"):
        return {}
    names: dict[str, object] = {"__name__": "answer", "__builtins__": __builtins__}
    part = ANSWER
    try:
        exec(compile(request["program"], ANSWER, "exec"), names)
        part = TESTS
        exec(compile(request["tests"], TESTS, "exec"), names)
    except BaseException as error:  # a program may raise what it likes, SystemExit too
        reason = traceback.format_exception_only(error)[-1].strip()[:300]
        return {"passed": False, "reason": reason, "in_tests": part == TESTS}
    return {"passed": True, "reason": "", "in_tests": True}
