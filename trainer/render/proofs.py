"""Write export/verify.json as a table: how each exported format compares with the trained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.render.numbers import finite, write_number
from trainer.shapes.proof import ExportProof

PROOF_COLUMNS = {
    "top1_agreement": "same top token",
    "mean_kl": "mean KL (nats)",
    "max_kl": "max KL (nats)",
    "max_logit_diff": "max logit diff",
    "num_positions": "positions",
}


@dataclass(frozen=True)
class ProofRow:
    """One exported format."""

    format: str
    passed: bool
    cells: list[str]
    """In the order of PROOF_COLUMNS."""

    @property
    def state(self) -> str:
        """Return the result as a word."""
        return "passed" if self.passed else "failed"


def proof_rows(proofs: Mapping[str, ExportProof]) -> list[ProofRow]:
    """Return one row for each exported format."""
    return [
        ProofRow(name, proof["passed"], [_cell(key, proof.get(key)) for key in PROOF_COLUMNS])
        for name, proof in proofs.items()
    ]


def _cell(key: str, value: object) -> str:
    number = finite(value)
    if number is None or key == "num_positions":
        return write_number(value)
    if key == "top1_agreement":
        return f"{number * 100:.2f}%"
    return "0" if number == 0 else f"{number:.1e}"
