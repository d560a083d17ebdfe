"""Declare the prover's answer: figures of the trained model and of each exported format."""

from __future__ import annotations

from typing import NotRequired, Required

from typing_extensions import TypedDict

from trainer.shapes.proof import ModelAgreement, OutputGain


class Measurement(TypedDict, total=False):
    """What was measured on one format; only `findings` where it could not be opened."""

    findings: Required[list[str]]
    """Sentences about what must not be."""
    mean_kl: float
    max_kl: float
    max_logit_diff: float
    top1_agreement: float
    num_positions: int
    differs_from_base: OutputGain
    drift_from_4bit: ModelAgreement
    """From the model as qlora trained it, on held-out rows."""
    general_drift_from_4bit: ModelAgreement
    """The same on general prompts."""
    answers: list[str]
    """Greedy answers to the held-out questions."""
    same_answers: int
    """Answers that are those of the trained model."""
    num_answers: int
    double: bool
    """Computed in float64."""
    largest_logit: float
    replayed: bool
    """Merged weights: every tensor was computed again and is the same, bit by bit."""
    tensors: int


class TrainedAnswers(TypedDict):
    """What the trained model answered."""

    answers: list[str]


class ProofAnswer(TypedDict):
    """Answer to a request; `error`, `hint` and `exit_code` alone where the prover could not begin."""

    trained: dict[str, TrainedAnswers]
    """Base (plain, dequantised) to its greedy answers."""
    exports: dict[str, Measurement]
    """By format."""
    error: NotRequired[str]
    hint: NotRequired[str]
    exit_code: NotRequired[int]
