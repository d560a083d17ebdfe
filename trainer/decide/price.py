"""What tuning cost outside the task: answers in the form of the task where none is due, and lost abilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.decide.branches import Verdict
from trainer.scoring.gates.metrics import RATES

Json = Mapping[str, Any]
SIGNIFICANT = 0.05
HABIT_WORDS = {
    "format_leak_rate": "answered in the form of the task",
    "refusal_rate": "refused",
    "other_language_rate": "answered in another language",
    "same_answer_rate": "answered with the same text as another one",
}


def price_of(scores: Json, arm: str = "tuned") -> list[dict[str, Any]]:
    """Return every damage that eval/scores.json shows of an arm against base, the largest first.

    Returns:
        `metric`, `suite` (None for the forgetting meter), `before`, `after`, `low` and `high` (of `after` for the
        meter, of the difference for a suite), `n`, `sentence`.
    """
    damages = [*_habits(scores, arm), *_lost(scores, arm)]
    return sorted(damages, key=lambda damage: -abs(damage["after"] - damage["before"]))


def with_price(headline: str, verdict: Verdict, damages: Sequence[Json]) -> str:
    """Return the headline of a verdict for a tuned model with the damage that comes with it."""
    if verdict not in ("tune", "smaller_tuned_model") or not damages:
        return headline
    return f"{headline} Its price: {'; '.join(str(damage['sentence']) for damage in damages)}."


def is_measured(scores: Json, arm: str = "tuned") -> bool:
    """Tell whether eval looked outside the task at all."""
    suites = (scores.get("suites") or {}).values()
    retention = scores.get("retention") or {}
    return any(rate in retention for rate in RATES) or any(arm in suite["arms"] for suite in suites)


def _habits(scores: Json, arm: str) -> Iterator[dict[str, Any]]:
    """Yield the habits on general prompts that rose above the base: its form, refusals, language, one answer to all."""
    for name in RATES:
        rates = (scores.get("retention") or {}).get(name) or {}
        before, after = rates.get("base"), rates.get(arm)
        if before and after and after["low"] is not None and after["low"] > before["value"]:
            yield {
                "metric": name,
                "suite": None,
                "before": before["value"],
                "after": after["value"],
                "low": after["low"],
                "high": after["high"],
                "n": after["n"],
                "sentence": f"{after['value']:.1%} of {after['n']} general prompts are {HABIT_WORDS[name]} "
                f"(base {before['value']:.1%})",
            }


def _lost(scores: Json, arm: str) -> Iterator[dict[str, Any]]:
    for name, suite in (scores.get("suites") or {}).items():
        for found in suite.get("comparisons") or []:
            if (found["arm"], found["vs"]) == (arm, "base") and _is_shown_lower(found, suite):
                before, after = (suite["arms"][one][found["metric"]]["value"] for one in ("base", arm))
                yield {
                    "metric": found["metric"],
                    "suite": name,
                    "before": before,
                    "after": after,
                    "low": found["low"],
                    "high": found["high"],
                    "n": found["n"],
                    "sentence": f"{found['metric']} of the suite {name} fell from {before:.1%} to {after:.1%} "
                    f"({found['n']} items)",
                }


def _is_shown_lower(found: Json, suite: Json) -> bool:
    described = (suite.get("metrics") or {}).get(found["metric"]) or {}
    if described.get("unit") != "share" or described.get("better") == "lower" or found["high"] is None:
        return False
    p_value = found.get("holm_p_value", found.get("p_value"))
    return bool(found["high"] < 0) and (p_value is None or p_value <= SIGNIFICANT)
