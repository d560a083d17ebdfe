"""Write the arms of a decision as lines of a table, and its confidence as a sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from trainer.render.numbers import DASH, MINUS, finite, write_amount
from trainer.shapes.decision import ArmDecision, Decision, IntervalValues, Verdict

VERDICTS: dict[Verdict, str] = {
    "insufficient_evidence": "Too little evidence",
    "prompt": "Prompt",
    "smaller_tuned_model": "A smaller tuned model",
    "nothing_fits": "Nothing fits",
    "tune": "Tune",
    "rag_first": "Documents first",
    "do_not_tune": "Do not tune",
    "refine_prompt_or_data": "Refine the prompt or add data",
}
MIN_LISTED = 0.005
"""Share of resamples from which another verdict is named."""


@dataclass(frozen=True)
class ArmRow:
    """One line of the table of arms, written out."""

    name: str
    role: Literal["first", "second", ""]
    """first: the best tuned arm; second: the best prompted one."""
    quality: str
    interval: str
    against: str
    against_interval: str
    standing: Literal["better", "worse", ""]
    tokens: tuple[str, str]
    """Prompt and answer tokens."""
    latency: tuple[str, str]
    """p50 and p95."""
    costs: tuple[str, str]
    """Per 1,000 requests and per accepted answer."""
    missing: str
    """Why there is no cost."""
    retriever: str
    """What chose its examples or passages."""


def arm_rows(decision: Decision) -> list[ArmRow]:
    """Line up the arms, the best first."""
    arms = sorted(decision["arms"].items(), key=lambda item: -_quality(item[1]))
    return [_arm_row(name, arm, decision) for name, arm in arms]


def _quality(arm: ArmDecision) -> float:
    return arm["quality"]["value"] if arm["quality"] else -1.0


def _arm_row(name: str, arm: ArmDecision, decision: Decision) -> ArmRow:
    quality, against, cost = arm["quality"], arm["against_best_prompted"], arm["cost"]
    costs, missing = (DASH, DASH), ""
    if cost is not None and "missing" in cost:
        missing = cost["missing"]
    elif cost is not None:
        costs = write_amount(cost["per_1000"]), write_amount(cost["per_accepted"])
    roles: dict[str | None, Literal["first", "second"]] = {
        decision["best_prompted"]: "second",
        decision["best_tuned"]: "first",
    }
    return ArmRow(
        name=name,
        role=roles.get(name, ""),
        quality=f"{100 * quality['value']:.1f}%" if quality else DASH,
        interval=f"{100 * quality['low']:.1f} to {100 * quality['high']:.1f}" if quality else "",
        against=_points(against["value"]) if against else "",
        against_interval=f"{_points(against['low'])} to {_points(against['high'])}" if against else "",
        standing=_standing(against),
        tokens=(_tokens(arm["prompt_tokens"]), _tokens(arm["answer_tokens"])),
        latency=(_seconds(arm["latency_p50_s"]), _seconds(arm["latency_p95_s"])),
        costs=costs,
        missing=missing,
        retriever=arm["retriever"] or "",
    )


def _standing(against: IntervalValues | None) -> Literal["better", "worse", ""]:
    if against is None or against["low"] <= 0 <= against["high"]:
        return ""
    return "better" if against["low"] > 0 else "worse"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", MINUS)


def _tokens(value: float | None) -> str:
    return DASH if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f} s"


def write_confidence(decision: Decision) -> str:
    """Say how often resamples of the rows lead to the same verdict, and which others they lead to."""
    share = finite(decision["confidence"])
    if share is None:
        return "No rows with grades of every arm: how sure this is cannot be said."
    alternatives = [
        f"{VERDICTS[name].lower()} {value:.0%}"
        for name, value in decision["confidence_by_verdict"].items()
        if name != decision["verdict"] and value >= MIN_LISTED
    ]
    more = f"; otherwise {', '.join(alternatives)}" if alternatives else ""
    return (
        f"{share:.0%} of 1,000 resamples of the held-out rows lead to the same verdict{more}. "
        f"This covers {decision['confidence_covers']}."
    )
