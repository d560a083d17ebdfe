"""Grade answers against expected values, by pure functions."""

from trainer.scoring.graders.auto import auto_metrics
from trainer.scoring.graders.calibration import calibration, expected_calibration_error
from trainer.scoring.graders.dispatch import GraderServices, check, grade, needs_help
from trainer.scoring.graders.json_text import is_json, mostly_json
from trainer.scoring.graders.structured import micro, schema_fault
from trainer.scoring.graders.text import exact_match
from trainer.scoring.graders.tools import unread_calls

__all__ = [
    "GraderServices",
    "auto_metrics",
    "calibration",
    "check",
    "exact_match",
    "expected_calibration_error",
    "grade",
    "is_json",
    "micro",
    "mostly_json",
    "needs_help",
    "schema_fault",
    "unread_calls",
]
