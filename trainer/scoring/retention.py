"""Measure forgetting: how far tuning moved the model on prompts that have nothing to do with the task.

The base model answers general prompts. At each token of these answers the tuned model is compared with it: by the KL
divergence of the next token and by the loss. The tuned model also answers the prompts itself: how often in the form of
the task (format leak), with a refusal, in another language, or with one text for all.

Source: forward KL to the base as measure of forgetting: Kalajdzievski, arXiv 2401.05605; Shenfeld et al., RL's Razor,
arXiv 2509.04259.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from trainer.errors import DataError
from trainer.scoring.graders import is_json, mostly_json
from trainer.scoring.habits import habit_evidence
from trainer.scoring.statistics.inference import Floats
from trainer.scoring.statistics.measurements import Evidence

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

JSON_OPENINGS = ('{"', "[{", '["')
MAX_LABELS = 200
"""Most different answers of a task that chooses from a closed set."""


@dataclass(frozen=True)
class Drift:
    """How the tuned model sees the base's answers, one value per prompt."""

    kl: Floats
    """Summed KL(base || tuned) over the answer's tokens, in nats."""
    loss_change: Floats
    """Summed loss of the tuned model less that of the base, in nats."""
    counts: Floats
    """Tokens of the answer."""


def general_prompts(path: Path | None, count: int) -> list[str]:
    """Return the first `count` prompts of a text file with one prompt a line, or of the shipped one.

    Raises:
        DataError: The file holds no prompt, or no text.
    """
    shipped = resources.files("trainer.scoring").joinpath("general_prompts.txt")
    try:
        text = (shipped if path is None else path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no UTF-8 text: {error}", hint="save eval.retention.prompts as UTF-8") from error
    prompts = [line.strip() for line in text.splitlines() if line.strip()][:count]
    if not prompts:
        raise DataError(f"{path} holds no prompt", hint="one prompt a line, in eval.retention.prompts")
    return prompts


class Yardstick:
    """The base's distributions on its own answers, kept on disk: positions times vocabulary is much."""

    def __init__(self, rows: Sequence[tuple[list[int], list[int]]], path: Path) -> None:
        """Take (prompt ids, answer ids) of each prompt; `path` is a file to keep distributions in."""
        self.rows = [(prompt, answer) for prompt, answer in rows if answer]
        self.path = path
        self.counts = np.array([len(answer) for _, answer in self.rows], dtype=np.float64)
        self.losses = np.zeros(len(self.rows))
        self._shape = (0, 0)

    def record(self, base: PreTrainedModel | PeftModel) -> None:
        """Write the base's log-probabilities, (all answer tokens, V) float32."""
        stored: np.memmap | None = None
        start = 0
        for index, (prompt, answer) in enumerate(self.rows):
            log_probs = _answer_log_probs(base, prompt, answer)
            self.losses[index] = _loss(log_probs, answer)
            if stored is None:
                self._shape = (int(self.counts.sum()), log_probs.shape[1])
                stored = np.memmap(self.path, dtype=np.float32, mode="w+", shape=self._shape)
            stored[start : start + len(answer)] = log_probs.cpu().numpy()
            start += len(answer)

    def drift(self, tuned: PreTrainedModel | PeftModel) -> Drift:
        """Compare a model with the recorded distributions."""
        if not self.rows:  # the base answered nothing
            return Drift(*np.zeros((3, 0)))
        stored = np.memmap(self.path, dtype=np.float32, mode="r", shape=self._shape)
        kl, losses = np.zeros(len(self.rows)), np.zeros(len(self.rows))
        start = 0
        for index, (prompt, answer) in enumerate(self.rows):
            log_q = _answer_log_probs(tuned, prompt, answer)
            log_p = torch.from_numpy(np.array(stored[start : start + len(answer)])).to(log_q.device)
            width = min(log_p.shape[1], log_q.shape[1])  # new tokens may have widened the tuned vocabulary
            log_p, log_q_shared = log_p[:, :width].double(), log_q[:, :width].double()
            # forward KL: sum over tokens and words of p (log p - log q)
            kl[index] = float((log_p.exp() * (log_p - log_q_shared)).sum())
            losses[index] = _loss(log_q, answer)
            start += len(answer)
        return Drift(kl, losses - self.losses, self.counts)


class RetentionMeter:
    """The forgetting meter of one run: first the base, then the tuned model."""

    def __init__(self, rows: Sequence[tuple[list[int], list[int]]], path: Path, *, prompts: Sequence[str] = ()) -> None:
        """Take (prompt ids, ids of the base's answer) and the prompts; `path` holds distributions until the end."""
        self.prompts = prompts
        self.yardstick = Yardstick(rows, path)
        self.drift: Drift | None = None
        self.answers: dict[str, list[str]] = {}
        """By model, its own answers to the prompts."""

    def record(self, base: PreTrainedModel | PeftModel) -> None:
        """Store the base's distributions."""
        self.yardstick.record(base)

    def compare(self, tuned: PreTrainedModel | PeftModel) -> None:
        """Measure how the tuned model differs."""
        self.drift = self.yardstick.drift(tuned)
        self.yardstick.path.unlink(missing_ok=True)

    def evidence(self, is_task: Callable[[str], bool] | None) -> dict[str, dict[str, Evidence]]:
        """Return the evidence by metric and arm.

        Args:
            is_task: Tells whether an answer has the form of the task; None where the task has none of its own.
        """
        evidence: dict[str, dict[str, Evidence]] = {}
        if self.drift is not None and len(self.drift.counts):
            for metric, totals in (("kl", self.drift.kl), ("loss_change", self.drift.loss_change)):
                evidence[metric] = {"tuned": Evidence("ratio", totals, self.drift.counts, bounded=False)}
        if is_task is not None:
            evidence["format_leak_rate"] = {
                arm: Evidence("share", np.array([float(is_task(text)) for text in answers]))
                for arm, answers in self.answers.items()
            }
        if self.answers:
            evidence |= habit_evidence(self.prompts, self.answers)
        return evidence


def _answer_log_probs(model: PreTrainedModel | PeftModel, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Return (T, V) float32 log-probabilities at the tokens of the answer."""
    device = next(model.parameters()).device
    ids = torch.tensor([[*prompt, *answer]], device=device)  # (1, S)
    with torch.no_grad():
        # position t predicts token t + 1: the last of the prompt predicts the first of the answer
        logits = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1]
    return torch.log_softmax(logits.float(), dim=-1)


def _loss(log_probs: torch.Tensor, answer: list[int]) -> float:
    of_answer = log_probs[torch.arange(len(answer)), torch.tensor(answer, device=log_probs.device)]
    return -float(of_answer.double().sum())


def task_format(references: Sequence[str]) -> Callable[[str], bool] | None:
    """Return a test for the task's form: JSON of any kind, or one of its few labels; None for free text.

    JSON that is cut off, or whose keys are new, is the task's form all the same: plain questions get plain answers.
    """
    if mostly_json(references):
        return lambda text: is_json(text) or text.lstrip().startswith(JSON_OPENINGS)
    labels = {text.strip() for text in references}
    if references and len(labels) <= min(MAX_LABELS, len(references) / 2):
        return lambda text: text.strip() in labels
    return None
