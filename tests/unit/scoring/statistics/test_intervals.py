"""Intervals and tests against published values, exact enumeration and simulation."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from trainer.scoring.statistics import bootstrap, comparisons, intervals, wording
from trainer.scoring.statistics.clusters import effective
from trainer.scoring.statistics.inference import Floats, Inference
from trainer.scoring.statistics.measurements import Evidence, value_bounds
from trainer.scoring.statistics.measurements import score as measured_score

EXPERIMENTS = 1000


def marks(right: int, wrong: int) -> Floats:
    return np.array([1.0] * right + [0.0] * wrong)


def paired(wins: int, losses: int, ties: int) -> tuple[Floats, Floats]:
    first = np.array([1.0] * wins + [0.0] * losses + [1.0] * ties)
    return first, np.array([0.0] * wins + [1.0] * losses + [1.0] * ties)


def clustered(rows: int, clusters: int, rho: float, generator: np.random.Generator) -> tuple[Floats, list[int]]:
    """Return correlated standard normal values and their clusters."""
    index = np.concatenate([np.arange(clusters), generator.integers(0, clusters, rows - clusters)])
    shared, noise = generator.standard_normal(clusters)[index], generator.standard_normal(rows)
    return math.sqrt(rho) * shared + math.sqrt(1 - rho) * noise, index.tolist()


def test_needed_rows_are_the_published_ones() -> None:
    assert [intervals.rows_needed(0.95, failures) for failures in (0, 1, 2)] == [59, 93, 124]
    assert intervals.rows_needed(0.99) == 299
    with pytest.raises(ValueError, match="min_rate"):
        intervals.rows_needed(1.0)


@pytest.mark.parametrize("failures", [0, 1, 2])
def test_the_exact_bound_and_the_needed_rows_agree(failures: int) -> None:
    rows = intervals.rows_needed(0.95, failures)
    assert intervals.exact_bounds(marks(rows - failures, failures))[0] >= 0.95
    assert intervals.exact_bounds(marks(rows - failures - 1, failures))[0] < 0.95


@pytest.mark.parametrize(("right", "wrong"), [(0, 20), (20, 0), (13, 7), (390, 10)])
def test_exact_bounds_are_those_of_scipy(right: int, wrong: int) -> None:
    low, high = intervals.exact_bounds(marks(right, wrong))
    reference = binomtest(right, right + wrong).proportion_ci(0.9, method="exact")
    assert (low, high) == (pytest.approx(reference.low), pytest.approx(reference.high))


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (5, 0), (0, 5), (8, 1), (3, 3), (61, 14), (400, 371)])
def test_mcnemar_is_the_two_sided_sign_test(wins: int, losses: int) -> None:
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert comparisons.mcnemar(*paired(wins, losses, 9)) == pytest.approx(expected)


@pytest.mark.parametrize(("wins", "losses", "ties"), [(12, 2, 36), (3, 9, 63), (53, 0, 1), (1, 1, 98)])
def test_the_paired_interval_ends_where_the_score_test_turns(wins: int, losses: int, ties: int) -> None:
    """At each end the statistic is 1.96 with the likelihood maximised over the other parameter by brute force."""
    rows = wins + losses + ties
    difference = comparisons.share_difference(*paired(wins, losses, ties))
    for end in (difference["low"], difference["high"]):
        loss = np.linspace(max(0.0, -end), (1 - end) / 2, 400_002)[1:-1]
        fit = loss[np.argmax(wins * np.log(loss + end) + losses * np.log(loss) + ties * np.log(1 - 2 * loss - end))]
        z = (wins - losses - rows * end) / math.sqrt(rows * (2 * fit + end - end**2))
        assert abs(z) == pytest.approx(1.96, abs=0.01)


def test_swapping_the_arms_mirrors_the_interval() -> None:
    first, second = paired(9, 4, 67)
    there, back = comparisons.share_difference(first, second), comparisons.share_difference(second, first)
    assert there["low"] == pytest.approx(-back["high"]) and there["high"] == pytest.approx(-back["low"])


@pytest.mark.parametrize("rows", [80, 100, 200, 400])
def test_wilson_intervals_cover_by_exact_enumeration(rows: int) -> None:
    scores = [intervals.proportion(marks(right, rows - right)) for right in range(rows + 1)]
    low, high = (np.array([score[end] for score in scores]) for end in ("low", "high"))
    for rate in (0.5, 0.6, 0.7, 0.8, 0.9, 0.95):
        counts = np.arange(rows + 1)
        choose = np.array([math.lgamma(rows + 1) - math.lgamma(k + 1) - math.lgamma(rows - k + 1) for k in counts])
        weight = np.exp(choose + counts * math.log(rate) + (rows - counts) * math.log(1 - rate))
        assert 0.93 <= weight[(low <= rate) & (rate <= high)].sum() <= 0.97


@pytest.mark.parametrize("rate", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(("rows", "clusters", "rho"), [(80, 30, 0.0), (80, 30, 0.2), (200, 60, 0.3), (400, 100, 0.2)])
def test_shares_of_clustered_rows_cover(rate: float, rows: int, clusters: int, rho: float) -> None:
    generator = np.random.default_rng(1)
    limit = np.quantile(np.random.default_rng(0).standard_normal(2_000_000), rate)
    naive = honest = 0
    for _ in range(EXPERIMENTS):
        values, groups = clustered(rows, clusters, rho, generator)
        right = (values < limit).astype(float)
        score = intervals.proportion(right, Inference(groups))
        honest += score["low"] <= rate <= score["high"]
        plain = intervals.proportion(right)
        naive += plain["low"] <= rate <= plain["high"]
    noise = 2 * math.sqrt(0.95 * 0.05 / EXPERIMENTS)  # two standard errors of a thousand experiments
    assert 0.93 - noise <= honest / EXPERIMENTS <= 0.97 + noise
    assert naive <= honest + EXPERIMENTS * noise


def test_rows_that_ignore_their_clusters_would_be_overconfident() -> None:
    generator = np.random.default_rng(2)
    misses = 0
    for _ in range(300):
        values, _ = clustered(400, 30, 0.5, generator)
        score = intervals.proportion((values < 0).astype(float))
        misses += not score["low"] <= 0.5 <= score["high"]
    assert misses > 60  # 20 % in place of 5 %: what the groups are for


def test_bootstrap_intervals_cover(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)  # noise of the bounds that does not matter over many runs
    generator = np.random.default_rng(3)
    hits = dict.fromkeys(("loss", "graded", "median", "paired"), 0)
    runs = 400
    for run in range(runs):
        values, groups = clustered(120, 40, 0.2, generator)
        tokens = 1.0 + generator.poisson(8, 120)
        losses = np.exp(0.5 * values)
        second = losses + 0.1 + 0.2 * generator.standard_normal(120)
        graded = np.clip(0.8 + 0.4 * values, 0, 1)
        drawn = Inference(groups, run)
        difference = {
            "loss": (intervals.ratio(losses * tokens, tokens, drawn), math.exp(0.125)),
            "graded": (intervals.mean(graded, drawn), 0.71655),  # by quadrature
            "median": (intervals.quantile(losses, 0.5, drawn), 1.0),
            "paired": (comparisons.paired_ratio_difference(losses * tokens, second * tokens, tokens, drawn), -0.1),
        }
        for name, (score, truth) in difference.items():
            hits[name] += score["low"] <= truth <= score["high"]
    noise = 2 * math.sqrt(0.95 * 0.05 / runs)
    assert all(0.93 - noise <= count / runs <= 0.97 + noise for count in hits.values()), hits


@pytest.mark.parametrize(("rows", "clusters", "rho"), [(80, 80, 0.0), (200, 200, 0.0), (80, 30, 0.2), (200, 60, 0.3)])
@pytest.mark.parametrize("drop", [0.0, 0.05])
def test_a_difference_is_proved_wrongly_at_most_one_time_in_twenty(
    rows: int, clusters: int, rho: float, drop: float
) -> None:
    generator = np.random.default_rng(4)
    normal = np.random.default_rng(0).standard_normal(2_000_000)
    limits = np.quantile(normal, [0.85 - drop, 0.85])
    passes = hits = 0
    for _ in range(EXPERIMENTS):
        shared, groups = clustered(rows, clusters, rho, generator)
        noise = generator.standard_normal((2, rows))
        first, second = math.sqrt(0.6) * shared + math.sqrt(0.4) * noise
        arms = (first < limits[0]).astype(float), (second < limits[1]).astype(float)
        passes += comparisons.share_difference_bounds(*arms, Inference(groups))[0] > -drop
        difference = comparisons.share_difference(*arms, Inference(groups))
        hits += difference["low"] <= -drop <= difference["high"]
    assert passes / EXPERIMENTS <= 0.05
    assert hits / EXPERIMENTS >= 0.93


def test_f1_is_micro_averaged_and_its_difference_is_paired() -> None:
    first = np.array([[2.0, 0, 0], [1, 1, 0], [0, 0, 2], [3, 0, 1]] * 20)
    second = np.array([[1.0, 0, 1], [1, 1, 0], [0, 0, 2], [3, 0, 1]] * 20)
    score = measured_score(Evidence("f1", first), 0)
    assert score["value"] == pytest.approx(12 / 16) and score["low"] < 0.75 < score["high"]
    difference = comparisons.paired_f1_difference(first, second)
    assert difference["difference"] == pytest.approx(12 / 16 - 10 / 15) and 0 < difference["low"] < difference["high"]
    same = comparisons.paired_f1_difference(first, first)
    assert same["low"] < same["difference"] == 0 < same["high"] and same["differing"] == 0
    assert wording.sentence(same, first="a", second="b").endswith("the same on all 80 rows")


def test_a_quantile_that_so_few_rows_cannot_bound_has_no_bound() -> None:
    few = intervals.quantile(np.arange(10.0), 0.95)
    assert few["high"] is None and few["low"] is not None
    assert intervals.quantile(np.arange(200.0), 0.95)["high"] is not None
    centre = intervals.quantile(np.arange(10.0), 0.5)
    assert centre["low"] <= centre["value"] <= centre["high"]


def test_rows_that_are_all_alike_count_as_one_a_cluster() -> None:
    index = np.repeat(np.arange(25), 4)
    assert effective(np.ones(100), 0.0, index).rows == 25
    assert effective(np.ones(100), 0.0, np.arange(100)).rows == 100
    assert (
        intervals.proportion(np.ones(100), Inference(index.tolist()))["low"] < intervals.proportion(np.ones(100))["low"]
    )


def test_repeated_rows_add_nothing() -> None:
    generator = np.random.default_rng(5)
    right = (generator.random(60) < 0.7).astype(float)
    once = intervals.proportion(right)
    four = intervals.proportion(np.repeat(right, 4), Inference(np.repeat(np.arange(60), 4).tolist()))
    assert four["high"] - four["low"] == pytest.approx(once["high"] - once["low"], rel=0.05)


def test_equal_seeds_give_equal_bounds() -> None:
    values = np.random.default_rng(6).gamma(2, size=90)
    first, same, changed = (intervals.mean(values, Inference(seed=seed)) for seed in (7, 7, 8))
    assert first == same != changed


def test_a_thousand_rows_take_well_under_a_second() -> None:
    values = np.random.default_rng(7).gamma(2, size=1000)
    start = time.process_time()
    intervals.mean(values)
    intervals.quantile(values, 0.5)
    assert time.process_time() - start < 1.0


def test_holm_corrects_in_order() -> None:
    assert comparisons.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparisons.holm([]) == [] and comparisons.holm([0.7, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize(("rows", "discordant"), [(75, 0.02), (75, 0.2), (400, 0.1)])
def test_the_detectable_difference_is_found_four_times_in_five(rows: int, discordant: float) -> None:
    gap = wording.smallest_detectable(rows, discordant)
    differ = max(discordant, gap)
    generator = np.random.default_rng(8)
    counts = generator.multinomial(rows, [(differ + gap) / 2, (differ - gap) / 2, 1 - differ], size=2000)
    false_findings = np.mean([comparisons.mcnemar(*paired(*map(int, row))) <= 0.05 for row in counts])
    assert 0.7 < false_findings < 0.9


def test_sentences_say_what_was_shown() -> None:
    difference = comparisons.share_difference(*paired(61, 0, 14))
    assert wording.sentence(difference, first="tuned", second="base") == (
        "tuned is right on 61 more of 75 rows than base (+81.3 points, 95 % interval 71 to 89); "
        "a difference this large by chance: less than 1 in 1,000"
    )
    none = comparisons.share_difference(*paired(3, 2, 70))
    text = wording.sentence(none, first="tuned", second="base")
    assert text.startswith("no difference between tuned and base shown: 75 rows could have shown ") and text.endswith(
        " points"
    )
    loss: comparisons.Difference = {"difference": -0.4, "low": -0.5, "high": -0.3, "n": 80}
    better = wording.sentence(loss, first="tuned", second="base", metric="loss", lower_is_better=True)
    assert better.startswith("tuned is better than base on 80 rows: loss differs by -0.4 ")


ALIKE = {
    "proportion": lambda n: intervals.proportion(np.ones(n)),
    "mean": lambda n: intervals.mean(np.ones(n)),
    "half": lambda n: intervals.mean(np.full(n, 0.5), Inference(bounded=True)),
    "micro F1": lambda n: measured_score(Evidence("f1", np.tile([3.0, 0, 0], (n, 1))), 0),
    "no F1": lambda n: measured_score(Evidence("f1", np.tile([0.0, 1, 2], (n, 1))), 0),
    "ratio": lambda n: intervals.ratio(np.full(n, 4.0), np.full(n, 4.0)),
    "loss": lambda n: intervals.ratio(np.full(n, 2.0), np.full(n, 4.0), Inference(bounded=False)),
    "median": lambda n: intervals.quantile(np.full(n, 2.0), 0.5),
    "shares": lambda n: comparisons.share_difference(np.ones(n), np.ones(n)),
    "means": lambda n: comparisons.paired_difference(np.ones(n), np.ones(n)),
    "losses": lambda n: comparisons.paired_difference(np.full(n, 7.0), np.full(n, 9.0)),
    "medians": lambda n: comparisons.paired_quantile_difference(np.full(n, 7.0), np.full(n, 9.0), 0.5),
}


@pytest.mark.parametrize("score", ALIKE)
@pytest.mark.parametrize("rows", [2, 20, 100])
def test_equal_rows_have_an_interval_of_some_width_or_none(score: str, rows: int) -> None:
    result = ALIKE[score](rows)
    assert (result["low"] is None and result["high"] is None) or result["low"] < result["high"]
    if score in ("proportion", "mean", "half", "micro F1", "no F1", "ratio", "shares", "means"):
        assert result["low"] is not None


@pytest.mark.parametrize("score", ALIKE)
def test_one_row_and_one_group_have_no_interval(score: str) -> None:
    result = ALIKE[score](1)
    assert (result["low"], result["high"]) == (None, None)
    grouped = Inference(["a"] * 9)
    alone = intervals.proportion(np.ones(9), grouped), intervals.mean(np.arange(9.0), grouped)
    assert all(result["low"] is None for result in alone)
    assert intervals.exact_bounds(np.ones(1)) == comparisons.share_difference_bounds(np.ones(1), np.zeros(1))
    text = wording.sentence(comparisons.paired_difference(np.ones(1), np.full(1, 8.01)), first="a", second="b")
    assert text == "no difference between a and b shown: 1 row has no interval"


@pytest.mark.parametrize(("name", "at_limit"), [("f1", 0.95), ("lognormal", math.exp(0.5)), ("exponential", 1.0)])
@pytest.mark.parametrize("rows", [5, 20, 80])
def test_gates_at_their_limit_hardly_pass_where_rows_are_few_and_values_skewed(
    name: str, at_limit: float, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 500)
    generator, passes, runs = np.random.default_rng(9), 0, 300
    for run in range(runs):
        if name == "f1":
            wrong = 4.0 * (generator.random(rows) < 0.05)
            low, _ = value_bounds(Evidence("f1", np.stack([4 - wrong, wrong, wrong], 1)), run, 0.95)
            passes += low is not None and low >= at_limit
        else:
            values = generator.lognormal(0, 1, rows) if name == "lognormal" else generator.standard_exponential(rows)
            _, high = value_bounds(Evidence("mean", values), run, 0.95)
            passes += high is not None and high <= at_limit
    assert passes / runs <= 0.06 + 2 * math.sqrt(0.06 * 0.94 / runs)


def test_a_comparison_alone_is_not_corrected_and_several_are() -> None:
    shares = comparisons.share_difference(*paired(8, 1, 66))
    assert comparisons.corrected_p_values([shares]) == pytest.approx([shares["p_value"]])
    noise = np.random.default_rng(3).standard_normal((2, 75))
    losses = comparisons.paired_difference(2 + noise[0], 2 + noise[1])
    one_row: Any = {"difference": 1.0, "low": None, "high": None, "n": 1}
    first, _, last = comparisons.corrected_p_values([shares, losses, one_row])
    assert first == pytest.approx(2 * shares["p_value"]) and last is None


def test_the_p_value_of_an_interval_is_five_percent_where_it_ends_at_zero() -> None:
    at_zero: Any = {"difference": 0.2, "low": 0.0, "high": 0.5, "n": 9}
    assert comparisons.corrected_p_values([at_zero]) == pytest.approx([0.05], abs=1e-3)


def test_many_comparisons_take_the_corrected_chance() -> None:
    difference = comparisons.share_difference(*paired(8, 1, 66))
    assert "more of 75" in wording.sentence(difference, first="tuned", second="base")
    corrected = wording.sentence(difference, first="tuned", second="base", p_value=0.12)
    assert corrected.startswith("no difference between tuned and base shown")
