"""Two arms on the same rows: differences with intervals, tests, and what they mean in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import bdtr, bdtrc, ndtr, ndtri

from trainer.scoring.statistics.bootstrap import Bounds, quantile_bounds, ratio_bounds, spread
from trainer.scoring.statistics.clusters import Effective, Floats, Groups, Index, cluster_index, effective
from trainer.scoring.statistics.intervals import INTERVAL, f1_parts, holm, is_share

POWER = 0.8
Difference = dict[str, Any]
"""difference, low, high, n, differing (rows); of shares also wins, losses, and p_value where rows are independent."""


def share_difference(first: Floats, second: Floats, groups: Groups = None, *, confidence: float = 0.95) -> Difference:
    """Return the difference of two shares on the same rows, with Tango's score interval and McNemar's p-value.

    With clusters the interval is widened through the number of effective rows, and there is no exact p-value.

    Args:
        first: One mark in 0..1 a row.
        second: The other arm's marks, same rows.
        groups: One key a row, where rows belong together.
        confidence: Of the two-sided interval.

    Source: Tango, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B
    """
    index = cluster_index(groups, len(first))
    gain, loss, worth = _discordance(first, second, index)
    n, z = worth.rows, worth.critical((1 - confidence) / 2)
    alone = int(index.max()) == 0
    found: Difference = {
        "difference": float((first - second).mean()),
        "low": None if alone else _tango_low(gain, loss, n, z),
        "high": None if alone else -_tango_low(loss, gain, n, z),
        "n": len(first),
        "differing": _differing(first, second),
        "wins": int((first > second).sum()),
        "losses": int((first < second).sum()),
    }
    if int(index.max()) + 1 == len(first) > 1:
        found["p_value"] = mcnemar(first, second)
    return found


def share_difference_bounds(
    first: Floats, second: Floats, groups: Groups = None, *, confidence: float = 0.95
) -> Bounds:
    """Return one-sided bounds of the difference of two shares; each holds with at least this confidence.

    Tango's bound with half a row of continuity correction: without it equal arms pass up to 5.3 % of the time. It never
    leaves out zero where the exact McNemar test does not.
    """
    index = cluster_index(groups, len(first))
    if int(index.max()) == 0:
        return None, None
    gain, loss, worth = _discordance(first, second, index)
    n, z = worth.rows, worth.critical(1 - confidence)
    low, high = _tango_low(gain, loss, n, z, 0.5), -_tango_low(loss, gain, n, z, 0.5)
    wins, losses = gain * n, loss * n
    if _sign_test(wins, losses) > 1 - confidence:
        low = min(low, 0.0)
    if _sign_test(losses, wins) > 1 - confidence:
        high = max(high, 0.0)
    return low, high


def paired_difference(
    first: Floats,
    second: Floats,
    seed: int,
    groups: Groups = None,
    *,
    confidence: float = 0.95,
    unseen: float = INTERVAL,
    bounded: bool | None = None,
) -> Difference:
    """Return mean(first - second) over the same rows, with a seeded paired bootstrap by cluster."""
    ones = np.ones(len(first))
    return paired_ratio_difference(
        first, second, ones, seed, groups, confidence=confidence, unseen=unseen, bounded=bounded
    )


def paired_ratio_difference(
    first: Floats,
    second: Floats,
    counts: Floats,
    seed: int,
    groups: Groups = None,
    *,
    confidence: float = 0.95,
    unseen: float = INTERVAL,
    bounded: bool | None = None,
) -> Difference:
    """Return the difference of two ratios with the same denominators, with a seeded paired bootstrap by cluster."""
    change = first - second
    parts = np.stack([change, counts], -1)[:, None]
    share = is_share(first, counts) and is_share(second, counts) if bounded is None else bounded
    limits: Bounds = (-1.0, 1.0) if share else (None, None)
    index = cluster_index(groups, len(parts))
    low, high = ratio_bounds(parts, index, (1 - confidence) / 2, seed, limits=limits, unseen=unseen)
    return _told(float(change.sum() / counts.sum()), low, high, first, second)


def paired_f1_difference(
    first: Floats,
    second: Floats,
    seed: int,
    groups: Groups = None,
    *,
    confidence: float = 0.95,
    unseen: float = INTERVAL,
) -> Difference:
    """Return the difference of two micro F1 from (rows, 3) tp, fp, fn, with a seeded paired bootstrap by cluster."""
    (top, bottom), (other_top, other_bottom) = f1_parts(first), f1_parts(second)
    value = _share(top, bottom) - _share(other_top, other_bottom)
    parts = np.stack([np.stack([top, bottom], -1), np.stack([-other_top, other_bottom], -1)], 1)
    index = cluster_index(groups, len(parts))
    low, high = ratio_bounds(parts, index, (1 - confidence) / 2, seed, limits=(-1.0, 1.0), unseen=unseen)
    return _told(value, low, high, first, second)


def paired_quantile_difference(
    first: Floats, second: Floats, at: float, seed: int, groups: Groups = None, *, confidence: float = 0.95
) -> Difference:
    """Return the difference of two quantiles over the same rows, with a seeded paired bootstrap by cluster.

    Without bounds where so few rows do not bound the quantile of one arm on both sides: either end of the difference
    needs both.
    """
    index, tail = cluster_index(groups, len(first)), (1 - confidence) / 2
    columns, signs = np.stack([first, second], -1), np.array([1.0, -1.0])
    found = quantile_bounds(columns, signs, at, index, tail, seed)
    bounded = max(at, 1 - at) ** (int(index.max()) + 1) <= tail
    low, high = spread(float(found[0]), float(found[1])) if bounded else (None, None)
    return _told(float(np.quantile(first, at) - np.quantile(second, at)), low, high, first, second)


def mcnemar(first: Floats, second: Floats) -> float:
    """Return the exact two-sided p-value that two arms are right equally often (https://doi.org/10.1007/BF02295996)."""
    wins, losses = int((first > second).sum()), int((first < second).sum())
    if not wins + losses:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def with_holm(comparisons: Sequence[Difference]) -> list[Difference]:
    """Add `holm_p_value` to comparisons that are shown together, so that one in twenty such sets has a false finding.

    Where there is no exact p-value, it is the one that the interval stands for: where its end is 1.96 standard errors
    from the difference. What has no interval is no finding and takes no part.
    """
    p_values = [_p_value(one) for one in comparisons]
    corrected = iter(holm([p_value for p_value in p_values if p_value is not None]))
    return [
        one if p_value is None else one | {"holm_p_value": next(corrected)}
        for one, p_value in zip(comparisons, p_values, strict=True)
    ]


def _p_value(comparison: Difference) -> float | None:
    gap, low, high = comparison["difference"], comparison["low"], comparison["high"]
    if low is None or high is None:
        return None
    if "p_value" in comparison:
        return float(comparison["p_value"])
    towards_zero = gap - low if gap > 0 else high - gap
    return 1.0 if towards_zero <= 0 else float(2 * ndtr(-abs(gap) / (towards_zero / 1.96)))


def smallest_detectable(n: float, discordant: float, *, confidence: float = 0.95) -> float:
    """Return the smallest difference of two shares that so many paired rows show four times out of five.

    It is at least what shows when all rows that differ point the same way; 1 means that no difference could show.

    Args:
        n: Rows, or effective rows.
        discordant: Share of rows on which the arms differ.
        confidence: Of the two-sided test.

    Source: Connor, Biometrics 43, 1987.
    """
    z, power = -float(ndtri((1 - confidence) / 2)), float(ndtri(POWER))
    difference = 0.0
    for _ in range(50):
        spread = math.sqrt(max(discordant - difference**2, 0.0))
        difference = min(1.0, (z * math.sqrt(discordant) + power * spread) / math.sqrt(n))
    one_way = 1 + math.ceil(math.log2(1 / (1 - confidence)))  # rows that all point one way: 2 * 0.5**rows <= 0.05
    return max(difference, _rate_with(one_way, n))


def sentence(comparison: Mapping[str, Any], *, first: str, second: str, lower_is_better: bool = False) -> str:
    """Say what a comparison shows, and what it could have shown.

    Args:
        comparison: As from this file, with `metric` where it is no share of right rows; `holm_p_value` goes before
            `p_value`.
        first: Name of the arm whose value comes first in the difference.
        second: Name of the other.
        lower_is_better: Of the metric.
    """
    n, gap = comparison["n"], comparison["difference"]
    shares = "wins" in comparison
    p_value = comparison.get("holm_p_value", comparison.get("p_value"))
    low, high = comparison["low"], comparison["high"]
    if comparison.get("differing", n) == 0 and n > 1:
        return f"no difference between {first} and {second} shown: the same on all {n} rows"
    if low is None or high is None:
        rows = "1 row has" if n == 1 else f"{n} rows have"
        return f"no difference between {first} and {second} shown: {rows} no interval"
    if not (low > 0 or high < 0) or (p_value is not None and p_value > 0.05):
        return f"no difference between {first} and {second} shown: " + _could_have_shown(
            comparison, comparison.get("p_value"), shares
        )
    chance = "" if p_value is None else f"; a difference this large by chance: {_odds(p_value)}"
    if shares:
        more, rows = ("more" if gap > 0 else "fewer"), abs(comparison["wins"] - comparison["losses"])
        span = f"95 % interval {_points(low)} to {_points(high)}"
        metric = comparison.get("metric")
        verb = "is right" if metric in (None, "exact_match") else f"meets {metric}"
        return f"{first} {verb} on {rows} {more} of {n} rows than {second} ({gap * 100:+.1f} points, {span}){chance}"
    side = "better" if (gap < 0) == lower_is_better else "worse"
    name = comparison.get("metric", "the value")
    span = f"95 % interval {low:+.3g} to {high:+.3g}"
    return f"{first} is {side} than {second} on {n} rows: {name} differs by {gap:+.3g} ({span}){chance}"


def _could_have_shown(comparison: Mapping[str, Any], p_value: float | None, shares: bool) -> str:
    n, low, high = comparison["n"], comparison["low"], comparison["high"]
    if not shares:
        half = max(high - comparison["difference"], comparison["difference"] - low)
        # half an interval is 1.96 standard errors; 80 % power asks for 2.8
        return f"{n} rows could have shown {half * 2.8016 / 1.96:.2g}"
    differ = (comparison["wins"] + comparison["losses"]) / n
    effective = n
    if p_value is None and high > low:  # clusters: as many rows as the width of the interval tells
        effective = min(n, max(4, differ / ((high - low) / 3.92) ** 2)) if differ else n
    return f"{n} rows could have shown {smallest_detectable(effective, differ) * 100:.0f} points"


def _discordance(first: Floats, second: Floats, index: Index) -> tuple[float, float, Effective]:
    """Return the mean gain, the mean loss and what the rows are worth."""
    change = first - second
    gain, loss = float(np.maximum(change, 0).mean()), float(np.maximum(-change, 0).mean())
    return gain, loss, effective(change, gain + loss, index)


def _tango_low(gain: float, loss: float, n: float, z: float, correction: float = 0.0) -> float:
    """Return the smallest difference that the score test does not reject, found by bisection."""
    low, high = -1.0, min(1.0, gain - loss)
    for _ in range(34):  # to 1e-10
        middle = (low + high) / 2
        linear = -gain - loss + (2 - gain + loss) * middle
        fitted = (math.sqrt(max(linear**2 + 8 * loss * middle * (1 - middle), 0.0)) - linear) / 4
        error = math.sqrt(max(n * (2 * fitted + middle * (1 - middle)), 1e-300))
        rejected = (n * (gain - loss - middle) - correction) / error > z
        low, high = (middle, high) if rejected else (low, middle)
    return low


def _sign_test(wins: float, losses: float) -> float:
    """Return the exact one-sided p-value of as many wins; fractions of rows, as clusters leave, are rounded down."""
    n = int(wins + losses)
    return float(bdtrc(int(wins) - 1, n, 0.5)) if n and int(wins) else 1.0


def _told(value: float, low: float | None, high: float | None, first: Floats, second: Floats) -> Difference:
    differing = _differing(first, second)
    return {"difference": value, "low": low, "high": high, "n": len(first), "differing": differing}


def _differing(first: Floats, second: Floats) -> int:
    """Count the rows on which two arms are not the same."""
    return int((first != second).reshape(len(first), -1).any(axis=1).sum())


def _share(tops: Floats, bottoms: Floats) -> float:
    return float(tops.sum() / bottoms.sum()) if bottoms.sum() else 0.0


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


def _points(share: float) -> str:
    return f"{share * 100:.0f}"


def _odds(p_value: float) -> str:
    """Say a p-value as a frequency."""
    if p_value < 0.001:
        return "less than 1 in 1,000"
    return f"1 in {round(1 / p_value):,}"
