"""Ask a fresh process to measure an export, and judge its figures against the limits of the recipe."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import orjson

from trainer.errors import BY_EXIT_CODE, GateError, HardwareError
from trainer.export.formats import Precision, format_of
from trainer.export.measurement import Measurement, ProofAnswer
from trainer.export.request import Request
from trainer.recipe.export import Format, Quantised, Verify
from trainer.shapes.proof import ExportProof

UNPUBLISHED = ("answers", "largest_logit", "double")
"""Figures that verify.json leaves out."""
NUM_LISTED = 3
"""Findings of one kind that a message lists."""


def prove_apart(request: Request) -> ProofAnswer:
    """Have a fresh process reopen and measure every format; see `trainer.export.prover.prove` for the answer.

    Raises:
        HardwareError: The process died, or out of memory.
        TrainerError: What the process itself says is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="trainer-proof-") as folder:
        request_path, answer_path = Path(folder) / "request.json", Path(folder) / "answer.json"
        request_path.write_bytes(orjson.dumps(asdict(request)))
        command = [sys.executable, "-m", "trainer.export.prover", str(request_path), str(answer_path)]
        process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ, check=False)
        if process.returncode or not answer_path.is_file():
            raise _died(process)
        answer: ProofAnswer = orjson.loads(answer_path.read_bytes())
    if "error" in answer:
        kind = BY_EXIT_CODE.get(answer["exit_code"], HardwareError)
        raise kind(answer["error"], hint=answer["hint"])
    return answer


def _died(process: subprocess.CompletedProcess[bytes]) -> Exception:
    output = process.stdout.decode("utf-8", "replace").strip()
    if process.returncode < 0:
        return HardwareError(
            f"the proof was killed by signal {-process.returncode}; the kernel sends 9 when memory runs out",
            hint="free some memory, or compare less: --set export.verify.num_rows=4",
        )
    return RuntimeError(f"the proof ended with {process.returncode}:\n{output[-4000:]}")


@dataclass(frozen=True)
class Scored:
    """The deciding metric of the same questions."""

    metric: str
    trained: float
    """Of the tuned answers of eval."""
    exported: float
    num_questions: int

    @property
    def drop(self) -> float:
        """How much is lost."""
        return self.trained - self.exported


def judge(kind: Format, dtype: str, measured: Measurement, scored: Scored | None, limits: Verify) -> ExportProof:
    """Return one entry of export/verify.json.

    Args:
        kind: Format.
        dtype: Type of its weights.
        measured: What the fresh process measured.
        scored: Held-out score, where rows ask questions.
        limits: Of the recipe.
    """
    reasons = list(_findings(measured["findings"]))
    precision = format_of(kind).precision(dtype)
    if "mean_kl" in measured:
        reasons += _beyond(precision, measured, limits)
        if not measured["differs_from_base"]["max_logit_diff"] > 0:
            reasons.append("the outputs are those of the base model")
    if scored is not None:
        reasons += _lost(precision, scored, limits)
    figures = {name: value for name, value in measured.items() if name not in UNPUBLISHED}
    figures |= {"score": asdict(scored) if scored else None, "dtype": dtype}
    return cast("ExportProof", figures | {"passed": not reasons, "because": "; ".join(reasons)})


def _findings(findings: list[str]) -> Iterator[str]:
    yield from findings[:NUM_LISTED]
    if len(findings) > NUM_LISTED:
        yield f"and {len(findings) - NUM_LISTED} more of the kind"


def _beyond(precision: Precision, measured: Measurement, limits: Verify) -> Iterator[str]:
    """Yield the limits that are not kept; a comparison with NaN is never true."""
    if precision == "exact":
        # float32 rounds relative to the size of a number: the limit grows with the logits
        limit = limits.max_logit_diff * (1.0 if measured["double"] else max(1.0, measured["largest_logit"] / 10))
        if not measured["max_logit_diff"] <= limit:
            yield f"largest logit difference {measured['max_logit_diff']:.2e}, limit {limit:.1e}"
        yield from _same(measured, 1.0)
        return
    bounds = _limits(precision, limits)
    if not measured["mean_kl"] <= bounds.max_mean_kl:
        yield f"{precision} weights add {measured['mean_kl']:.2e} nats a token, limit {bounds.max_mean_kl}"
    if limits.max_kl is not None and not measured["max_kl"] <= limits.max_kl:
        yield f"largest divergence {measured['max_kl']:.2e} nats, limit {limits.max_kl}"
    if not measured["top1_agreement"] >= bounds.min_top1_agreement:
        share, least = measured["top1_agreement"], bounds.min_top1_agreement
        yield f"same best token at {share:.1%} of positions, at least {least:.1%}"
    yield from _same(measured, bounds.min_same_answers)


def _limits(precision: Precision, limits: Verify) -> Verify | Quantised:
    return limits.quantised if precision == "quantised" else limits


def _same(measured: Measurement, least: float) -> Iterator[str]:
    """Yield too many different answers; one may turn on a tie."""
    differing = measured["num_answers"] - measured["same_answers"]
    if differing > max(1.0, (1 - least) * measured["num_answers"] + 1e-9):
        yield (
            f"{measured['same_answers']} of {measured['num_answers']} greedy answers are those of the trained model, "
            f"at least {least:.0%}"
        )


def _lost(precision: Precision, scored: Scored, limits: Verify) -> Iterator[str]:
    """Yield a score that fell too far; one answer more or less is chance."""
    limit = _limits(precision, limits).max_score_drop
    if scored.drop > max(limit, 1 / scored.num_questions) + 1e-9:
        yield (
            f"{scored.metric} fell from {scored.trained:.1%} to {scored.exported:.1%} "
            f"on {scored.num_questions} held-out questions, limit {limit:.1%}"
        )


def raise_failed(proofs: dict[str, ExportProof], path: Path) -> None:
    """Refuse to publish what is not proven.

    Args:
        proofs: By format; `gguf/q8_0` is of the format gguf.
        path: File with every figure, for the message.

    Raises:
        GateError: A proof failed.
    """
    failed = {name: proof for name, proof in proofs.items() if not proof["passed"]}
    if not failed:
        return
    failed_kinds = {name.partition("/")[0] for name in failed}
    sound = list(dict.fromkeys(kind for name in proofs if (kind := name.partition("/")[0]) not in failed_kinds))
    raise GateError(
        "the export is not equal to the trained model: "
        + "; ".join(f"{name}: {proof['because']}" for name, proof in failed.items()),
        hint=(f"--set export.formats=[{','.join(sound)}], or " if sound else "")
        + f"see export.verify in the recipe for the limits; every figure is in {path}",
    )


def drift(measured: Measurement) -> float:
    """Return the mean divergence from the model as trained: held-out rows and general prompts count the same."""
    divergences = [measured.get("drift_from_4bit"), measured.get("general_drift_from_4bit")]
    figures = [divergence["mean_kl"] for divergence in divergences if divergence]
    return sum(figures) / len(figures) if figures else float("inf")


def sentence(name: str, proof: ExportProof) -> str:
    """Return what the terminal says about a proven format."""
    score = proof["score"]
    scored = f", {score['metric']} {score['exported']:.1%} (trained {score['trained']:.1%})" if score else ""
    return (
        f"export: {name} proven on {proof['num_positions']} positions: largest logit difference "
        f"{proof['max_logit_diff']:.1e}, mean KL {proof['mean_kl']:.1e}, same best token "
        f"{proof['top1_agreement']:.1%}, same answers {proof['same_answers']} of {proof['num_answers']}{scored}"
    )
