"""Tell the damage of tuning outside the task: answers in the form of the task where none is due, and lost abilities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainer.shapes.decision import TuningDamage, Verdict
from trainer.shapes.scores import ArmComparison, Rate, Scores, SuiteScores

SIGNIFICANT = 0.05
HABIT_WORDS: dict[Rate, str] = {
    "format_leak_rate": "answered in the form of the task",
    "refusal_rate": "refused",
    "other_language_rate": "answered in another language",
    "same_answer_rate": "answered with the same text as another one",
}


def price_of(scores: Scores, arm: str = "tuned") -> list[TuningDamage]:
    """Return every damage that eval/scores.json shows of an arm against base, the largest first."""
    damages = [*_habits(scores, arm), *_losses(scores, arm)]
    return sorted(damages, key=lambda damage: -abs(damage["after"] - damage["before"]))


def with_price(headline: str, verdict: Verdict, damages: Sequence[TuningDamage]) -> str:
    """Return the headline of a verdict for a tuned model with the damage that comes with it."""
    if verdict not in ("tune", "smaller_tuned_model") or not damages:
        return headline
    return f"{headline} Its price: {'; '.join(damage['sentence'] for damage in damages)}."


def is_measured(scores: Scores, arm: str = "tuned") -> bool:
    """Tell whether eval looked outside the task at all."""
    retention = scores["retention"]
    has_habits = retention is not None and any(rate in retention for rate in HABIT_WORDS)
    return has_habits or any(arm in suite["arms"] for suite in scores["suites"].values())


def _habits(scores: Scores, arm: str) -> Iterator[TuningDamage]:
    """Yield the habits on general prompts that rose above the base: its form, refusals, language, one answer to all."""
    retention = scores["retention"]
    if retention is None:
        return
    for rate, words in HABIT_WORDS.items():
        before, after = (retention.get(rate, {}).get(name) for name in ("base", arm))
        if before and after and after["low"] is not None and after["low"] > before["value"]:
            yield {
                "metric": rate,
                "suite": None,
                "before": before["value"],
                "after": after["value"],
                "low": after["low"],
                "high": after["high"],
                "n": after["n"],
                "sentence": f"{after['value']:.1%} of {after['n']} general prompts are {words} "
                f"(base {before['value']:.1%})",
            }


def _losses(scores: Scores, arm: str) -> Iterator[TuningDamage]:
    """Yield the shares of suites that are shown lower than those of the base."""
    for name, suite in scores["suites"].items():
        for entry in suite["comparisons"]:
            if (entry["arm"], entry["vs"]) == (arm, "base") and _is_shown_lower(entry, suite):
                metric = entry["metric"]
                before, after = (suite["arms"][model][metric]["value"] for model in ("base", arm))
                yield {
                    "metric": metric,
                    "suite": name,
                    "before": before,
                    "after": after,
                    "low": entry["low"],
                    "high": entry["high"],
                    "n": entry["n"],
                    "sentence": f"{metric} of the suite {name} fell from {before:.1%} to {after:.1%} "
                    f"({entry['n']} items)",
                }


def _is_shown_lower(entry: ArmComparison, suite: SuiteScores) -> bool:
    description = suite["metrics"].get(entry["metric"])
    if description is None or description["unit"] != "share" or description["better"] == "lower":
        return False
    p_value = entry.get("holm_p_value", entry.get("p_value", 0.0))
    return entry["high"] is not None and entry["high"] < 0 and p_value <= SIGNIFICANT
