"""Coverage of the intervals and error rates of the gates over synthetic experiments with known truth.

    python scripts/bench/statistics_coverage.py                      # everything, about 20 minutes on one core
    python scripts/bench/statistics_coverage.py --experiments 200
    python scripts/bench/statistics_coverage.py --only gates         # few rows, rare failures, skewed values

A row correlates with the others of its cluster through a shared part of a normal variable (`rho` of its variance).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, ndtri

from trainer.scoring.statistics import comparisons, intervals
from trainer.scoring.statistics.inference import Floats, Inference
from trainer.scoring.statistics.measurements import Evidence, difference_bounds, score, value_bounds

RATES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
EXPERIMENTS = 1000


@dataclass(frozen=True)
class Experiment:
    """Rows, clusters (as many as rows: all independent) and the correlation within them."""

    rows: int
    clusters: int
    rho: float = 0.0

    def draw(self, generator: np.random.Generator, seed: int = 0) -> tuple[Floats, Inference]:
        """Return (rows,) standard normal values and their clusters, which differ in size; `seed` is of resamples."""
        if self.clusters == self.rows:
            return generator.standard_normal(self.rows), Inference(seed=seed)
        extra = generator.integers(0, self.clusters, self.rows - self.clusters)
        index = np.concatenate([np.arange(self.clusters), extra])
        shared, single = generator.standard_normal(self.clusters)[index], generator.standard_normal(self.rows)
        return np.sqrt(self.rho) * shared + np.sqrt(1 - self.rho) * single, Inference(index.tolist(), seed)

    def __str__(self) -> str:
        return f"{self.rows:4d} {self.clusters:4d} {self.rho:4.1f}"


INDEPENDENT = tuple(Experiment(rows, rows) for rows in (80, 100, 150, 200, 400))
CLUSTERED = (
    Experiment(80, 30, 0.0),
    Experiment(80, 30, 0.2),
    Experiment(80, 30, 0.5),
    Experiment(150, 30, 0.2),
    Experiment(200, 60, 0.2),
    Experiment(200, 60, 0.5),
    Experiment(400, 30, 0.2),
    Experiment(400, 100, 0.2),
    Experiment(400, 100, 0.5),
)


def proportion_coverage(design: Experiment, rate: float, experiments: int, seed: int) -> float:
    """Return how often the interval of a share holds the true rate."""
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(experiments):
        values, inference = design.draw(generator)
        share = intervals.proportion((values < ndtri(rate)).astype(float), inference)
        hits += share["low"] <= rate <= share["high"]
    return hits / experiments


def pairs(
    design: Experiment, rate: float, drop: float, generator: np.random.Generator
) -> tuple[Floats, Floats, Inference]:
    """Return marks of two arms, the first right by `drop` less often; their answers agree more than by chance."""
    shared, inference = design.draw(generator)
    single = generator.standard_normal((2, design.rows))
    first, second = np.sqrt(0.6) * shared + np.sqrt(0.4) * single
    return (first < ndtri(rate - drop)).astype(float), (second < ndtri(rate)).astype(float), inference


def difference_rates(design: Experiment, rate: float, drop: float, experiments: int, seed: int) -> tuple[float, float]:
    """Return the coverage of the paired interval, and how often the 95 % bound proves a drop under the true one."""
    generator = np.random.default_rng(seed)
    hits = passes = 0
    for _ in range(experiments):
        sample = pairs(design, rate, drop, generator)
        difference = comparisons.share_difference(*sample)
        hits += difference["low"] <= -drop <= difference["high"]
        passes += comparisons.share_difference_bounds(*sample)[0] > -drop
    return hits / experiments, passes / experiments


def min_rate_passes(design: Experiment, rate: float, experiments: int, seed: int) -> float:
    """Return how often the lower bound of a share reaches the true rate."""
    generator = np.random.default_rng(seed)
    passes = 0
    for _ in range(experiments):
        values, inference = design.draw(generator)
        passes += intervals.exact_bounds((values < ndtri(rate)).astype(float), inference)[0] >= rate
    return passes / experiments


def _graded(values: Floats) -> Floats:
    """Return marks between 0 and 1 with heaps at both ends, as of ROUGE or of fields that are partly right."""
    shares = ndtr(values)
    return np.where(shares < 0.6, 1.0, np.where(shares < 0.76, 0.0, (1 - shares) / 0.3))


def _counts(values: Floats, generator: np.random.Generator) -> Floats:
    expected = 1 + generator.poisson(2, len(values))
    rate = ndtr(1 + 0.7 * values)
    true = generator.binomial(expected, rate)
    return np.stack([true, generator.binomial(2, 1 - rate), expected - true], 1).astype(float)


def score_coverage(design: Experiment, experiments: int, seed: int) -> dict[str, float]:
    """Return the coverage of means, ratios (loss), medians, 95th percentiles, micro F1 and paired loss differences."""
    generator = np.random.default_rng(seed)
    many = np.random.default_rng(0).standard_normal(1_000_000)
    right = float(ndtr(1 + 0.7 * many).mean())  # 3 expected and 2 unexpected fields per row, on average
    truths = {
        "mean": float(_graded(many).mean()),
        "ratio": float(np.exp(0.32 - 1)),
        "median": float(np.exp(-1)),
        "p95": float(np.exp(0.8 * ndtri(0.95) - 1)),
        "micro_f1": 2 * 3 * right / (2 * 3 * right + 5 * (1 - right)),
        "paired": -0.1,
    }
    hits = dict.fromkeys(truths, 0)
    for run in range(experiments):
        values, inference = design.draw(generator, run)
        losses, tokens = np.exp(0.8 * values - 1), 1.0 + generator.poisson(8, design.rows)
        peer = losses + 0.1 + 0.2 * generator.standard_normal(design.rows)
        scores = {
            "mean": intervals.mean(_graded(values), inference),
            "ratio": intervals.ratio(losses * tokens, tokens, inference),
            "median": intervals.quantile(losses, 0.5, inference),
            "p95": intervals.quantile(losses, 0.95, inference),
            "micro_f1": score(Evidence("f1", _counts(values, generator), groups=inference.groups), run),
            "paired": comparisons.paired_ratio_difference(losses * tokens, peer * tokens, tokens, inference),
        }
        for name, result in scores.items():
            low, high = result["low"], result["high"]
            hits[name] += (low is None or low <= truths[name]) and (high is None or truths[name] <= high)
    return {name: count / experiments for name, count in hits.items()}


def field_counts(rows: int, f1: float, generator: np.random.Generator, *, all_or_none: bool) -> Floats:
    """Return (rows, 3) counts of 4 fields per row with a true micro F1; `all_or_none`: rows fully right or wrong."""
    wrong = 1 - f1  # a wrong field is a false positive and a false negative, so F1 is the share of right fields
    failed = 4.0 * (generator.random(rows) < wrong) if all_or_none else generator.binomial(4, wrong, rows).astype(float)
    return np.stack([4 - failed, failed, failed], 1)


def _heaped(rows: int, value: float, generator: np.random.Generator) -> Floats:
    """Return marks of almost 1 with a few zeros, with a true mean: what most samples show is not what counts."""
    return np.where(generator.random(rows) < 1 - value / 0.99, 0.0, 0.99)


GATES: dict[str, Callable[[int, np.random.Generator], tuple[Evidence, float, int]]] = {
    "f1 .95": lambda n, g: (Evidence("f1", field_counts(n, 0.95, g, all_or_none=False)), 0.95, 0),
    "f1 .95w": lambda n, g: (Evidence("f1", field_counts(n, 0.95, g, all_or_none=True)), 0.95, 0),
    "f1 .8w": lambda n, g: (Evidence("f1", field_counts(n, 0.8, g, all_or_none=True)), 0.8, 0),
    "mean .9": lambda n, g: (Evidence("mean", _heaped(n, 0.9, g)), 0.9, 0),
    "ratio .9": lambda n, g: (Evidence("ratio", *_weighted(n, 0.9, g)), 0.9, 0),
    "expon.": lambda n, g: (Evidence("mean", g.standard_exponential(n)), 1.0, 1),
    "logn. .5": lambda n, g: (Evidence("mean", g.lognormal(0, 0.5, n)), float(np.exp(0.125)), 1),
    "logn. 1": lambda n, g: (Evidence("mean", g.lognormal(0, 1.0, n)), float(np.exp(0.5)), 1),
    "-logn. 1": lambda n, g: (Evidence("mean", -g.lognormal(0, 1.0, n)), -float(np.exp(0.5)), 0),
    "loss": lambda n, g: (Evidence("ratio", *_losses(n, g)), float(np.exp(0.5)), 1),
}
"""Draws rows of which the true value is the limit of a gate: (rows, limit, 0 for `min` or 1 for `max`)."""


def _weighted(rows: int, value: float, generator: np.random.Generator) -> tuple[Floats, Floats]:
    counts = 1.0 + generator.poisson(8, rows)
    return counts * (generator.random(rows) < value), counts


def _losses(rows: int, generator: np.random.Generator) -> tuple[Floats, Floats]:
    counts = 1.0 + generator.poisson(8, rows)
    return counts * generator.lognormal(0, 1.0, rows), counts


def gate_passes(name: str, rows: int, experiments: int, seed: int) -> float:
    """Return how often the bound of a gate passes a value that equals its limit."""
    generator = np.random.default_rng(seed)
    passes = 0
    for run in range(experiments):
        evidence, limit, end = GATES[name](rows, generator)
        bound = value_bounds(evidence, run, 0.95)[end]
        passes += bound is not None and (bound >= limit - 1e-9 if end == 0 else bound <= limit + 1e-9)
    return passes / experiments


def drop_passes(kind: str, rows: int, experiments: int, seed: int) -> float:
    """Return how often a `max_drop` gate passes a drop that equals its limit of 0.05, of rare failures."""
    generator = np.random.default_rng(seed)
    passes = 0
    for run in range(experiments):
        failed = generator.random(rows) < 0.05
        if kind == "f1":
            right, wrong = np.array([4.0, 0, 0]), np.array([0.0, 4, 4])
            first = Evidence("f1", np.where(failed[:, None], wrong, right))
            second = Evidence("f1", np.tile(right, (rows, 1)))
        else:
            change = 1.0 * failed if kind == "mean" else generator.lognormal(0, 1.0, rows) * 0.05 / np.exp(0.5)
            first, second = Evidence("mean", 1 - change), Evidence("mean", np.ones(rows))
        low = difference_bounds(first, second, run, 0.95)[0]
        passes += low is not None and low > -0.05
    return passes / experiments


FEW = (5, 10, 20, 40, 80, 200)
DROPS = ("f1", "mean", "logn.")


def gate_tables(experiments: int, seed: int) -> None:
    """Print how often gates pass at their limit, where rows are few, failures rare or values skewed."""
    lines = ((f"{n:4d}          ", [gate_passes(name, n, experiments, seed) for name in GATES]) for n in FEW)
    table("min and max gates at their limit: passes", list(GATES), lines)
    lines = ((f"{n:4d}          ", [drop_passes(kind, n, experiments, seed) for kind in DROPS]) for n in FEW)
    table("max_drop gates at their limit: passes", list(DROPS), lines)


def table(title: str, columns: list[str], lines: Iterator[tuple[object, list[float]]]) -> None:
    """Print one line a design."""
    print(f"\n{title}\nrows  cl.  rho  " + "  ".join(f"{column:>8}" for column in columns))
    for design, values in lines:
        print(f"{design}  " + "  ".join(f"{value:8.3f}" for value in values), flush=True)


def by_rate(
    rate_of: Callable[[Experiment, float], float], designs: tuple[Experiment, ...]
) -> Iterator[tuple[object, list[float]]]:
    """Yield one line a design, one value a rate."""
    for design in designs:
        yield design, [rate_of(design, rate) for rate in RATES]


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=EXPERIMENTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("gates",))
    arguments = parser.parse_args()
    n, seed = arguments.experiments, arguments.seed
    start = time.process_time()
    gate_tables(n, seed)
    if arguments.only is None:
        interval_tables(n, seed)
    print(f"\n{n} experiments a cell, {time.process_time() - start:.0f} cpu-s")


def interval_tables(n: int, seed: int) -> None:
    """Print the coverage of intervals, and the error rates of gates on shares."""
    designs = INDEPENDENT + CLUSTERED
    rates = [f"{rate:.2f}" for rate in RATES]
    table(
        "95 % interval of a share, coverage by rate",
        rates,
        by_rate(lambda d, r: proportion_coverage(d, r, n, seed), designs),
    )
    table("min gate at its limit: passes", rates, by_rate(lambda d, r: min_rate_passes(d, r, n, seed), designs))
    for drop in (0.0, 0.05):
        title = f"true drop {drop:g}: coverage of the paired 95 % interval"
        table(title, rates, by_rate(lambda d, r, gap=drop: difference_rates(d, r, gap, n, seed)[0], designs))
        name = "max_drop gate at its limit" if drop else "min_gain: 0 gate of equal models"
        table(
            f"{name}: passes", rates, by_rate(lambda d, r, gap=drop: difference_rates(d, r, gap, n, seed)[1], designs)
        )
    names = ["mean", "ratio", "median", "p95", "micro_f1", "paired"]
    lines = (
        (design, list(score_coverage(design, n, seed).values()))
        for design in (INDEPENDENT[0], INDEPENDENT[3], *CLUSTERED)
    )
    table("other scores, coverage of the 95 % interval", names, lines)


if __name__ == "__main__":
    main()
