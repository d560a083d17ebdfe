"""Choose between prompting, documents and tuning: the first branch of the table that holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from trainer.decide.branches import BRANCHES, Branch
from trainer.decide.case import Case
from trainer.decide.inputs import DecisionInputs
from trainer.decide.resamples import Resamples, resampled
from trainer.shapes.decision import Verdict


@dataclass(frozen=True)
class Choice:
    """The branch that holds and the two arms that it compares."""

    branch: Branch
    case: Case

    @property
    def verdict(self) -> Verdict:
        """What the branch says."""
        return self.branch.verdict

    @property
    def prompted(self) -> str | None:
        """Name of the best prompted arm."""
        return self.case.prompted.name if self.case.prompted else None

    @property
    def tuned(self) -> str | None:
        """Name of the best tuned arm."""
        return self.case.tuned.name if self.case.tuned else None


def decide(inputs: DecisionInputs) -> Choice:
    """Return the first branch of BRANCHES that holds."""
    case = Case(inputs)
    return Choice(next(branch for branch in BRANCHES if branch.applies(case)), case)


def confidence(
    inputs: DecisionInputs, resamples: Resamples | None, verdict: Verdict
) -> tuple[float | None, dict[Verdict, float]]:
    """Return the share of bootstrap resamples of the rows with the same verdict, and the share of each verdict.

    It covers the choice of the rows alone: not the rule, the prices, the latencies or the kinds of failure.
    """
    if resamples is None:
        return None, {}
    num = len(resamples.shifts)
    counts = Counter(decide(resampled(inputs, resamples, index)).verdict for index in range(num))
    return counts[verdict] / num, {name: count / num for name, count in counts.most_common()}
