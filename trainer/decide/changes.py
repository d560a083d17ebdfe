"""Find what would lead to another verdict, by asking the same rule again with one thing changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from trainer.decide.branches import BRANCHES
from trainer.decide.case import prompted_arms
from trainer.decide.headline import percent
from trainer.decide.inputs import DecisionInputs, Interval
from trainer.decide.verdict import Choice, decide
from trainer.shapes.decision import Verdict

AtVolume = Callable[[float], DecisionInputs]
"""The same inputs at another number of requests a day."""

VOLUMES = np.geomspace(1, 1e9, 181)
MORE_ROWS = (1.5, 2, 3, 5, 10, 20, 50)
GAINS = tuple(step / 100 for step in range(1, 101))
WORDS: dict[Verdict, str] = {
    "insufficient_evidence": "too little evidence",
    "prompt": "prompt",
    "smaller_tuned_model": "a smaller tuned model",
    "nothing_fits": "nothing fits",
    "tune": "tune",
    "rag_first": "documents first",
    "do_not_tune": "do not tune",
    "refine_prompt_or_data": "refine the prompt or the data",
}


def would_change(choice: Choice, at_volume: AtVolume | None = None) -> list[str]:
    """Return what would lead elsewhere: what the branch names, then every change that was tried and does.

    Args:
        choice: The verdict.
        at_volume: Gives the inputs at another volume; None without prices.
    """
    inputs = choice.case.inputs
    stated = f"{choice.branch.change[0].upper()}{choice.branch.change[1:]}."
    if choice.prompted is None:
        return [stated]
    tried = [
        *_target(choice),
        *_rows(choice),
        *_latency(choice),
        *_volume(choice, at_volume),
        *_prices(choice),
        *_gain(choice),
    ]
    return [stated, *_untried(inputs), *tried]


def _sentence(choice: Choice, change: str, changed: DecisionInputs) -> Iterator[str]:
    """Yield a sentence where the change leads to another verdict."""
    verdict = decide(changed).verdict
    if verdict != choice.verdict:
        yield f"{change}: {WORDS[verdict]}."


def _target(choice: Choice) -> Iterator[str]:
    inputs, prompted = choice.case.inputs, choice.case.prompted
    assert prompted is not None
    low = prompted.quality.low
    if low >= inputs.target:
        above = min(0.9999, low + 0.0001)
        yield from _sentence(choice, f"A target above {percent(low)}, its lower bound", replace(inputs, target=above))
    elif low > 0:
        reachable = f"A target of {percent(low)} or less, the lower bound of {prompted.name}"
        yield from _sentence(choice, reachable, replace(inputs, target=low))


def _rows(choice: Choice) -> Iterator[str]:
    """Yield how many rows with the same values would lead elsewhere."""
    inputs = choice.case.inputs
    for factor in MORE_ROWS:
        changed = more_rows(inputs, factor)
        if decide(changed).verdict != choice.verdict:
            about = f"The same values on about {int(inputs.num_rows * factor):,} held-out rows"
            yield from _sentence(choice, about, changed)
            return


def more_rows(inputs: DecisionInputs, factor: float) -> DecisionInputs:
    """Return the inputs as so many times the rows would have given them: equal values, shorter intervals."""
    arms = {name: replace(arm, quality=arm.quality.shrunk(factor**0.5)) for name, arm in inputs.arms.items()}
    differences = {pair: gap.shrunk(factor**0.5) for pair, gap in inputs.differences.items()}
    return replace(inputs, arms=arms, differences=differences, num_rows=int(inputs.num_rows * factor))


def _latency(choice: Choice) -> Iterator[str]:
    inputs = choice.case.inputs
    if inputs.latency_limit_s is None:
        return
    measured = sorted({arm.latency_p95_s for arm in inputs.arms.values() if arm.latency_p95_s is not None})
    for latency in (value for value in measured if value > inputs.latency_limit_s):
        changed = replace(inputs, latency_limit_s=latency)
        if decide(changed).verdict != choice.verdict:
            yield from _sentence(choice, f"A latency limit of {latency:.2f} s", changed)
            return


def _volume(choice: Choice, at_volume: AtVolume | None) -> Iterator[str]:
    """Yield the nearest volumes above and below from which another verdict holds."""
    if at_volume is None:
        return
    here = choice.case.inputs.requests_per_day
    if here is None:  # the verdict leaves costs out: start where it would be the same with them
        same = (float(volume) for volume in VOLUMES if decide(at_volume(volume)).verdict == choice.verdict)
        here = next(same, None)
    if here is None:
        yield from _sentence(choice, "A volume, whatever it is", at_volume(float(VOLUMES[len(VOLUMES) // 2])))
        return
    above = [float(volume) for volume in VOLUMES if volume > here]
    below = [float(volume) for volume in VOLUMES[::-1] if volume < here]
    for word, candidates in (("More", above), ("Fewer", below)):
        inside = here
        for volume in candidates:
            if decide(at_volume(volume)).verdict != choice.verdict:
                edge = _edge(choice, at_volume, inside, volume)
                yield from _sentence(choice, f"{word} than {edge:,.0f} requests a day", at_volume(volume))
                break
            inside = volume


def _edge(choice: Choice, at_volume: AtVolume, inside: float, outside: float) -> float:
    """Return where the verdict turns, between a volume with this verdict and one with another."""
    for _ in range(40):
        middle = (inside + outside) / 2
        same = decide(at_volume(middle)).verdict == choice.verdict
        inside, outside = (middle, outside) if same else (inside, middle)
    return outside


def _prices(choice: Choice) -> Iterator[str]:
    """Yield that prices matter, where there are none and some would lead elsewhere."""
    inputs = choice.case.inputs
    if inputs.cost_per_day or choice.tuned is None or choice.prompted is None:
        return
    for tuned, prompt in ((0.0, 1.0), (1.0, 0.0)):
        costs = {choice.tuned: tuned, choice.prompted: prompt}
        verdict = decide(replace(inputs, cost_per_day=costs, cost_per_accepted=costs)).verdict
        if verdict != choice.verdict:
            side = "cheaper" if tuned < prompt else "dearer"
            yield f"Prices and a volume at which {choice.tuned} is {side}: {WORDS[verdict]}."


def _gain(choice: Choice) -> Iterator[str]:
    """Yield how much better the tuned arm, or where it wins the prompted one, would have to be."""
    rival = choice.prompted if choice.verdict in ("tune", "smaller_tuned_model") else choice.tuned
    if rival is None:
        return
    for gain in GAINS:
        changed = better_by(choice.case.inputs, rival, gain)
        verdict = decide(changed).verdict
        if verdict not in (choice.verdict, "insufficient_evidence"):
            yield from _sentence(choice, f"{rival} better by {100 * gain:.0f} points than measured", changed)
            return


def better_by(inputs: DecisionInputs, arm: str, gain: float) -> DecisionInputs:
    """Return the inputs with one arm better, its intervals as wide as they are."""
    moved = _capped(inputs.arms[arm].quality.moved_by(gain))
    differences = {
        (first, second): gap.moved_by(gain * ((first == arm) - (second == arm)))
        for (first, second), gap in inputs.differences.items()
    }
    arms = {**inputs.arms, arm: replace(inputs.arms[arm], quality=moved)}
    return replace(inputs, arms=arms, differences=differences)


def _capped(quality: Interval) -> Interval:
    return Interval(min(quality.value, 1.0), min(quality.low, 1.0), min(quality.high, 1.0))


def _untried(inputs: DecisionInputs) -> Iterator[str]:
    arms = prompted_arms(inputs)
    if len(arms) == 1 and not (arms[0].shots or arms[0].documents or arms[0].model == "endpoint"):
        yield "A better prompt: only the zero-shot one was measured. Add few_shot and dynamic_few_shot to eval.arms."
    if not any(arm.model == "tuned" for arm in inputs.arms.values()):
        yield "A trained adapter that is measured on the same rows: trainer train, then eval with the arm `tuned`."


def branch_table() -> list[tuple[str, str, str]]:
    """Return (verdict, condition, what would change it) of every branch, in the order in which they are asked."""
    return [(branch.verdict, branch.condition, branch.change) for branch in BRANCHES]
