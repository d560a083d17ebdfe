"""The proof of an export: ask a fresh process, judge what it found."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from trainer.errors import BY_EXIT_CODE, HardwareError
from trainer.export.formats import Precision, format_of
from trainer.export.request import Request
from trainer.recipe.export import Format, Quantised, Verify

SHOWN = 3
"""Findings of one kind that a message lists."""


def prove_apart(request: Request) -> dict[str, Any]:
    """Have a fresh process reopen and measure every format; see `trainer.export.prover.prove` for the answer.

    Raises:
        HardwareError: The process died, or out of memory.
        TrainerError: What the process itself says is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="trainer-proof-") as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_bytes(orjson.dumps(asdict(request)))
        command = [sys.executable, "-m", "trainer.export.prover", str(asked), str(answered)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=os.environ, check=False)
        if done.returncode or not answered.is_file():
            raise _died(done)
        answer: dict[str, Any] = orjson.loads(answered.read_bytes())
    if "error" in answer:
        kind = BY_EXIT_CODE.get(answer["exit_code"], HardwareError)
        raise kind(answer["error"], hint=answer["hint"])
    return answer


def _died(done: subprocess.CompletedProcess[bytes]) -> Exception:
    said = done.stdout.decode("utf-8", "replace").strip()
    if done.returncode < 0:
        return HardwareError(
            f"the proof was killed by signal {-done.returncode}; 9 is what the kernel sends when memory runs out",
            hint="free some memory, or compare less: --set export.verify.num_rows=4",
        )
    return RuntimeError(f"the proof ended with {done.returncode}:\n{said[-4000:]}")


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


def judge(kind: Format, dtype: str, found: dict[str, Any], scored: Scored | None, limits: Verify) -> dict[str, Any]:
    """Return one entry of export/verify.json.

    Args:
        kind: Format.
        dtype: Type of its weights.
        found: What the fresh process measured.
        scored: Held-out score, where rows ask questions.
        limits: Of the recipe.
    """
    reasons = list(_findings(found["findings"]))
    precision = format_of(kind).precision(dtype)
    if "mean_kl" in found:
        reasons += _beyond(precision, found, limits)
        if not found["differs_from_base"]["max_logit_diff"] > 0:
            reasons.append("the outputs are those of the base model")
    if scored is not None:
        reasons += _lost(precision, scored, limits)
    proof = {name: value for name, value in found.items() if name not in ("answers", "largest_logit", "double")}
    proof["score"] = asdict(scored) if scored else None
    return proof | {"dtype": dtype, "passed": not reasons, "because": "; ".join(reasons)}


def _findings(findings: list[str]) -> Iterator[str]:
    yield from findings[:SHOWN]
    if len(findings) > SHOWN:
        yield f"and {len(findings) - SHOWN} more of the kind"


def _beyond(precision: Precision, found: dict[str, Any], limits: Verify) -> Iterator[str]:
    """Yield the limits that are not kept; a comparison with NaN is never true."""
    if precision == "exact":
        limit = limits.max_logit_diff * (1.0 if found["double"] else max(1.0, found["largest_logit"] / 10))
        if not found["max_logit_diff"] <= limit:
            yield f"largest logit difference {found['max_logit_diff']:.2e}, limit {limit:.1e}"
        yield from _same(found, 1.0)
        return
    of = _limits(precision, limits)
    if not found["mean_kl"] <= of.max_mean_kl:
        yield f"{precision} weights add {found['mean_kl']:.2e} nats a token, limit {of.max_mean_kl}"
    if limits.max_kl is not None and not found["max_kl"] <= limits.max_kl:
        yield f"largest divergence {found['max_kl']:.2e} nats, limit {limits.max_kl}"
    if not found["top1_agreement"] >= of.min_top1_agreement:
        yield f"same best token at {found['top1_agreement']:.1%} of positions, at least {of.min_top1_agreement:.1%}"
    yield from _same(found, of.min_same_answers)


def _limits(precision: Precision, limits: Verify) -> Verify | Quantised:
    return limits.quantised if precision == "quantised" else limits


def _same(found: dict[str, Any], least: float) -> Iterator[str]:
    """Yield too many different answers; one may turn on a tie."""
    differing = found["num_answers"] - found["same_answers"]
    if differing > max(1.0, (1 - least) * found["num_answers"] + 1e-9):
        yield (
            f"{found['same_answers']} of {found['num_answers']} greedy answers are those of the trained model, "
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


def drift(found: dict[str, Any]) -> float:
    """Return the mean divergence from the model as trained: held-out rows and general prompts count the same."""
    figures = [found[name]["mean_kl"] for name in ("drift_from_4bit", "general_drift_from_4bit") if name in found]
    return sum(figures) / len(figures) if figures else float("inf")


def sentence(name: str, proof: dict[str, Any]) -> str:
    """Return what the terminal says about a proven format."""
    score = proof["score"]
    scored = f", {score['metric']} {score['exported']:.1%} (trained {score['trained']:.1%})" if score else ""
    return (
        f"export: {name} proven on {proof['num_positions']} positions: largest logit difference "
        f"{proof['max_logit_diff']:.1e}, mean KL {proof['mean_kl']:.1e}, same best token "
        f"{proof['top1_agreement']:.1%}, same answers {proof['same_answers']} of {proof['num_answers']}{scored}"
    )
