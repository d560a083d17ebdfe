"""Compare two arms on the same rows: differences with intervals, and tests."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, bdtrc, ndtr

from trainer.scoring.statistics.bootstrap import quantile_bounds, ratio_bounds, spread
from trainer.scoring.statistics.clusters import Effective, effective
from trainer.scoring.statistics.inference import Bounds, Floats, Index, Inference
from trainer.scoring.statistics.intervals import DEFAULT, f1_parts, is_share
from trainer.shapes.scores import ScoreDifference


def share_difference(first: Floats, second: Floats, inference: Inference = DEFAULT) -> ScoreDifference:
    """Return the difference of two shares on the same rows, with Tango's score interval and McNemar's p-value.

    With clusters the number of effective rows widens the interval, and there is no exact p-value.

    Args:
        first: (rows,) marks in 0..1.
        second: (rows,) the other arm's marks.
        inference: Groups and confidence.

    Source: Tango, https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<891::AID-SIM780>3.0.CO;2-B

    Example: of 20 rows the first arm alone is right on 6, the second alone on 1.
        >>> first = np.array([1.0] * 6 + [0.0] + [1.0] * 13)
        >>> second = np.array([0.0] * 6 + [1.0] + [1.0] * 13)
        >>> result = share_difference(first, second)
        >>> result["difference"], round(result["low"], 2), round(result["high"], 2), result["p_value"]
        (0.25, -0.01, 0.49, 0.125)
    """
    index = inference.clusters(len(first))
    gain, loss, worth = _discordance(first, second, index)
    n, z = worth.rows, worth.critical(inference.tail)
    is_single = int(index.max()) == 0
    result: ScoreDifference = {
        "difference": float((first - second).mean()),
        "low": None if is_single else _tango_low(gain, loss, n, z),
        "high": None if is_single else -_tango_low(loss, gain, n, z),
        "n": len(first),
        "differing": _num_differing(first, second),
        "wins": int((first > second).sum()),
        "losses": int((first < second).sum()),
    }
    if int(index.max()) + 1 == len(first) > 1:
        result["p_value"] = mcnemar(first, second)
    return result


def share_difference_bounds(first: Floats, second: Floats, inference: Inference = DEFAULT) -> Bounds:
    """Return one-sided bounds of the difference of two shares; each holds with at least the confidence.

    Tango's bound with half a row of continuity correction: without it equal arms pass up to 5.3 % of the time. It never
    excludes zero where the exact McNemar test does not.
    """
    index = inference.clusters(len(first))
    if int(index.max()) == 0:
        return None, None
    alpha = 1 - inference.confidence
    gain, loss, worth = _discordance(first, second, index)
    n, z = worth.rows, worth.critical(alpha)
    low, high = _tango_low(gain, loss, n, z, 0.5), -_tango_low(loss, gain, n, z, 0.5)
    wins, losses = gain * n, loss * n
    if _sign_test(wins, losses) > alpha:
        low = min(low, 0.0)
    if _sign_test(losses, wins) > alpha:
        high = max(high, 0.0)
    return low, high


def paired_difference(first: Floats, second: Floats, inference: Inference = DEFAULT) -> ScoreDifference:
    """Return mean(first - second) over the same rows, with a seeded paired bootstrap by cluster.

    Example: the rows differ much among each other, the arms by 1 everywhere: only the differences count.
        >>> base = np.array([1.0, 10.0, 100.0, 1000.0])
        >>> result = paired_difference(base + np.array([0.9, 1.1, 1.0, 1.0]), base)
        >>> round(result["difference"], 6), result["low"] > 0
        (1.0, True)
    """
    return paired_ratio_difference(first, second, np.ones(len(first)), inference)


def paired_ratio_difference(
    first: Floats, second: Floats, counts: Floats, inference: Inference = DEFAULT
) -> ScoreDifference:
    """Return the difference of two ratios with the same denominators, with a seeded paired bootstrap by cluster."""
    change = first - second
    shares = is_share(first, counts) and is_share(second, counts) if inference.bounded is None else inference.bounded
    # two shares differ by 1 at most, either way
    limits: Bounds = (-1.0, 1.0) if shares else (None, None)
    bounds = ratio_bounds(np.stack([change, counts], -1)[:, None], inference, limits)
    return _difference(float(change.sum() / counts.sum()), bounds, first, second)


def paired_f1_difference(first: Floats, second: Floats, inference: Inference = DEFAULT) -> ScoreDifference:
    """Return the difference of two micro F1 from (rows, 3) tp, fp, fn, with a seeded paired bootstrap by cluster."""
    (top, bottom), (peer_top, peer_bottom) = f1_parts(first), f1_parts(second)
    # (rows, 2, 2): a difference is a sum of two ratios, the second with a negative numerator
    parts = np.stack([np.stack([top, bottom], -1), np.stack([-peer_top, peer_bottom], -1)], 1)
    bounds = ratio_bounds(parts, inference, (-1.0, 1.0))
    return _difference(_ratio(top, bottom) - _ratio(peer_top, peer_bottom), bounds, first, second)


def paired_quantile_difference(
    first: Floats, second: Floats, level: float, inference: Inference = DEFAULT
) -> ScoreDifference:
    """Return the difference of two quantiles over the same rows, with a seeded paired bootstrap by cluster.

    Either end needs both bounds of both quantiles, so it has no interval where the rows are too few for one of them.
    """
    clusters = int(inference.clusters(len(first)).max()) + 1
    low, high = quantile_bounds(np.stack([first, second], -1), np.array([1.0, -1.0]), level, inference)
    # P(all clusters on one side of the quantile), for its worse side
    is_bound = max(level, 1 - level) ** clusters <= inference.tail
    value = float(np.quantile(first, level) - np.quantile(second, level))
    return _difference(value, spread(low, high) if is_bound else (None, None), first, second)


def mcnemar(first: Floats, second: Floats) -> float:
    """Return the exact two-sided p-value that two arms are right equally often.

    It is the sign test on the rows that differ. Source: McNemar, https://doi.org/10.1007/BF02295996

    Example: five rows that differ, all in favour of one arm: 2 * 0.5^5.
        >>> mcnemar(np.ones(5), np.zeros(5))
        0.0625
    """
    wins, losses = int((first > second).sum()), int((first < second).sum())
    if not wins + losses:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for the number of comparisons.

    The smallest of m is multiplied by m, the next by m - 1, and so on; none falls below a smaller one.

    Source: Holm, Scandinavian Journal of Statistics 6, 1979.

    Example:
        >>> [round(p, 2) for p in holm([0.01, 0.04, 0.03, 0.005])]
        [0.03, 0.06, 0.06, 0.02]
    """
    corrected = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = highest
    return corrected


def corrected_p_values(differences: Sequence[ScoreDifference]) -> list[float | None]:
    """Return Holm's p-values of comparisons that are shown together: one in twenty such sets has a false finding.

    Where there is no exact p-value, the interval gives one: its end stands 1.96 standard errors from the difference.
    A comparison without an interval is no finding and takes no part: None.
    """
    p_values = [_p_value(difference) for difference in differences]
    corrected = iter(holm([p_value for p_value in p_values if p_value is not None]))
    return [None if p_value is None else next(corrected) for p_value in p_values]


def _p_value(difference: ScoreDifference) -> float | None:
    gap, low, high = difference["difference"], difference["low"], difference["high"]
    if low is None or high is None:
        return None
    if "p_value" in difference:
        return difference["p_value"]
    towards_zero = gap - low if gap > 0 else high - gap
    return 1.0 if towards_zero <= 0 else float(2 * ndtr(-abs(gap) / (towards_zero / 1.96)))


def _discordance(first: Floats, second: Floats, index: Index) -> tuple[float, float, Effective]:
    """Return the mean gain, the mean loss and what the rows are worth."""
    change = first - second
    gain, loss = float(np.maximum(change, 0).mean()), float(np.maximum(-change, 0).mean())
    # only rows that differ hold evidence: their share decides how many clusters do
    return gain, loss, effective(change, gain + loss, index)


def _tango_low(gain: float, loss: float, n: float, z: float, correction: float = 0.0) -> float:
    """Return the smallest difference d that the score test does not reject, found by bisection.

    The statistic is n (gain - loss - d) / sqrt(n (2 q + d (1 - d))); q is the share of losses fitted under d, the
    larger root of Tango's quadratic equation.
    """
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


def _difference(value: float, bounds: Bounds, first: Floats, second: Floats) -> ScoreDifference:
    low, high = bounds
    return {"difference": value, "low": low, "high": high, "n": len(first), "differing": _num_differing(first, second)}


def _num_differing(first: Floats, second: Floats) -> int:
    return int((first != second).reshape(len(first), -1).any(axis=1).sum())


def _ratio(tops: Floats, bottoms: Floats) -> float:
    return float(tops.sum() / bottoms.sum()) if bottoms.sum() else 0.0
