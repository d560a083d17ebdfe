"""Put comparisons of two arms into words, with what so few rows could have shown."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import cast

from scipy.special import bdtrc, ndtri

from trainer.shapes.scores import ArmComparison, ScoreDifference

POWER = 0.8
"""Probability with which a difference of the smallest detectable size is found."""


def smallest_detectable(n: float, discordant: float, *, confidence: float = 0.95) -> float:
    """Return the smallest difference of two shares that so many paired rows show four times out of five.

    It is at least what shows when all rows that differ point the same way; 1 means that no difference could show.

    Args:
        n: Rows, or effective rows.
        discordant: Share of rows on which the arms differ.
        confidence: Of the two-sided test.

    Source: Connor, Biometrics 43, 1987: n = (z sqrt(discordant) + z_power sqrt(discordant - d^2))^2 / d^2.
    """
    z, power = -float(ndtri((1 - confidence) / 2)), float(ndtri(POWER))
    difference = 0.0
    for _ in range(50):  # a fixed point: d stands on both sides of the formula
        spread = math.sqrt(max(discordant - difference**2, 0.0))
        difference = min(1.0, (z * math.sqrt(discordant) + power * spread) / math.sqrt(n))
    one_way = 1 + math.ceil(math.log2(1 / (1 - confidence)))  # rows that all point one way: 2 * 0.5**rows <= 0.05
    return max(difference, _rate_with(one_way, n))


def _rate_with(successes: int, n: float) -> float:
    """Return the rate at which n rows hold at least so many successes four times out of five."""
    rows = int(n)
    if rows < successes:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if bdtrc(successes - 1, rows, middle) >= POWER else (middle, high)
    return high


def comparison_of(
    difference: ScoreDifference,
    arm: str,
    peer: str,
    metric: str,
    *,
    p_value: float | None,
    lower_is_better: Collection[str],
) -> ArmComparison:
    """Return a difference as eval/scores.json states it, with its sentence.

    Args:
        difference: First less second.
        arm: Name of the first.
        peer: Name of the second.
        metric: Name.
        p_value: Corrected for all comparisons that are shown together; None for none.
        lower_is_better: Names of metrics.
    """
    is_lower = metric in lower_is_better
    words = sentence(difference, first=arm, second=peer, metric=metric, p_value=p_value, lower_is_better=is_lower)
    corrected = {} if p_value is None else {"holm_p_value": p_value}
    comparison = {"arm": arm, "vs": peer, "metric": metric, **difference, **corrected, "sentence": words}
    return cast("ArmComparison", comparison)


def sentence(
    difference: ScoreDifference,
    *,
    first: str,
    second: str,
    metric: str | None = None,
    p_value: float | None = None,
    lower_is_better: bool = False,
) -> str:
    """Say what a comparison shows, and what it could have shown.

    Args:
        difference: As from `comparisons`.
        first: Name of the arm whose value comes first in the difference.
        second: Name of its peer.
        metric: Name of the metric; None for a share of right rows.
        p_value: Corrected; None: the exact one, where there is one.
        lower_is_better: Of the metric.
    """
    n, low, high, gap = difference["n"], difference["low"], difference["high"], difference["difference"]
    nothing = f"no difference between {first} and {second} shown: "
    if difference.get("differing", n) == 0 and n > 1:
        return f"{nothing}the same on all {n} rows"
    if low is None or high is None:
        return nothing + ("1 row has" if n == 1 else f"{n} rows have") + " no interval"
    p_value = difference.get("p_value") if p_value is None else p_value
    if not (low > 0 or high < 0) or (p_value is not None and p_value > 0.05):
        return f"{nothing}{n} rows could have shown {_could_have_shown(difference, low, high)}"
    chance = "" if p_value is None else f"; a difference this large by chance: {_odds(p_value)}"
    if "wins" in difference:
        more, rows = ("more" if gap > 0 else "fewer"), abs(difference["wins"] - difference["losses"])
        interval = f"95 % interval {low * 100:.0f} to {high * 100:.0f}"
        verb = "is right" if metric in (None, "exact_match") else f"meets {metric}"
        return (
            f"{first} {verb} on {rows} {more} of {n} rows than {second} ({gap * 100:+.1f} points, {interval}){chance}"
        )
    side = "better" if (gap < 0) == lower_is_better else "worse"
    interval = f"95 % interval {low:+.3g} to {high:+.3g}"
    name = metric or "the value"
    return f"{first} is {side} than {second} on {n} rows: {name} differs by {gap:+.3g} ({interval}){chance}"


def _could_have_shown(difference: ScoreDifference, low: float, high: float) -> str:
    if "wins" not in difference:
        half = max(high - difference["difference"], difference["difference"] - low)
        # half an interval is 1.96 standard errors; 80 % power asks for 2.8
        return f"{half * 2.8016 / 1.96:.2g}"
    n = difference["n"]
    share = (difference["wins"] + difference["losses"]) / n  # of discordant rows
    effective: float = n
    if "p_value" not in difference and high > low:  # clusters: as many rows as the width of the interval tells
        effective = min(n, max(4, share / ((high - low) / 3.92) ** 2)) if share else n
    return f"{smallest_detectable(effective, share) * 100:.0f} points"


def _odds(p_value: float) -> str:
    """Say a p-value as a frequency.

    Example:
        >>> _odds(0.0125), _odds(0.0001)
        ('1 in 80', 'less than 1 in 1,000')
    """
    return "less than 1 in 1,000" if p_value < 0.001 else f"1 in {round(1 / p_value):,}"
