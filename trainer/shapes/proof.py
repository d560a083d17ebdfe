"""Types of export/verify.json: how each exported format compares with the trained model."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict


class SurvivalFigures(TypedDict, total=False):
    """Share of the update that rounding leaves, over the adapted tensors; an empty object where there are none."""

    median: float
    mean: float
    lowest: float


class ExportScore(TypedDict):
    """The deciding metric of the same held-out questions, 0 to 1."""

    metric: str
    trained: float
    exported: float
    num_questions: int


class ModelAgreement(TypedDict):
    """How near the outputs of two models are, position by position."""

    max_logit_diff: float
    mean_kl: float
    """Nats a token."""
    max_kl: float
    top1_agreement: float
    """Share of positions with the same best token, 0 to 1."""
    num_positions: int


class OutputGain(TypedDict):
    """How far the outputs are from those of the base model."""

    mean_kl: float
    max_logit_diff: float


class ExportProof(TypedDict):
    """One format of export/verify.json; what could not be measured, since the folder does not open, is missing."""

    passed: bool
    because: str
    """Why it did not pass."""
    dtype: str
    """Type of the weights."""
    findings: list[str]
    score: ExportScore | None
    max_logit_diff: NotRequired[float]
    mean_kl: NotRequired[float]
    """Nats a token, from the trained model to the exported one."""
    max_kl: NotRequired[float]
    top1_agreement: NotRequired[float]
    """Share of positions with the same best token, 0 to 1."""
    num_positions: NotRequired[int]
    same_answers: NotRequired[int]
    """Greedy answers that are those of the trained model."""
    num_answers: NotRequired[int]
    differs_from_base: NotRequired[OutputGain]
    drift_from_4bit: NotRequired[ModelAgreement]
    """From the model as 4-bit training saw it, on held-out rows."""
    general_drift_from_4bit: NotRequired[ModelAgreement]
    replayed: NotRequired[bool]
    """Every tensor is base plus update, bit by bit."""
    tensors: NotRequired[int]
    base: NotRequired[str]
    """plain or dequantised: the base that the update was added to."""
    rounding: NotRequired[str]
    survival: NotRequired[SurvivalFigures]
    scheme: NotRequired[str]
    """Of llm-compressor."""
    llmcompressor: NotRequired[str]
    """Its version."""
    group_size: NotRequired[int]
    """Weights that share a scale."""
    calibration_rows: NotRequired[int]
