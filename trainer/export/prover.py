"""Reopen every exported format in a fresh process and measure it against the trained model.

    python -m trainer.export.prover REQUEST.json ANSWER.json

The trained model is put together from what training wrote: the adapter on the unquantised base, and for qlora also on
the base as 4 bits hold it. Small models are computed in float64, so that a difference is one of weights, not of the
order of sums. The request and the answer are described by `Request` and `Found`.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson
import torch
from transformers import PreTrainedModel

from trainer.errors import HardwareError, TrainerError
from trainer.export.agreement import Agreement, Logits, agreement, agreement_of_log_probs, logits_of
from trainer.export.formats import format_of
from trainer.export.measurement import Measurement, ProofAnswer, TrainedAnswers
from trainer.export.merge import replay
from trainer.export.provenance import examine, read_provenance
from trainer.export.reopen import Opened, free, greedy, in_double, recast_findings, unquantised
from trainer.export.request import Export, Request, TokenPrompt
from trainer.export.sidecar import carried_findings
from trainer.export.write_transformers import plan_of
from trainer.model import adapter as adapters
from trainer.model.four_bit import dequantise_stacks
from trainer.model.load import load_model, load_tokenizer
from trainer.recipe.model import QloraAdapter
from trainer.shapes.proof import ModelAgreement

GENERAL_TOKENS = 16
"""Length of the trained model's answers to general prompts, at whose tokens the formats are compared."""


@dataclass
class Reference:
    """What the trained model says."""

    rows: Logits
    general: Logits
    answers: list[str]
    without: Logits | None = None
    """The base model on the same rows."""


class Prover:
    """Measures the references once an export, then every format."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.general = request.general
        self.tokenizer = load_tokenizer(request.section, Path(request.cache))
        self.references: dict[str, Reference] = {}
        path = Path(request.references) if request.references else None
        if path and path.is_file():
            saved = torch.load(path, weights_only=True)
            self.general = saved["general"]
            self.references = {base: Reference(**values) for base, values in saved["references"].items()}
            return
        bases = ["plain", *(["dequantised"] if request.four_bit else [])]
        # dequantised first, where there is one: that is what qlora trained on
        for base in reversed(bases):  # the general answers are those of the model as it was trained
            self.references[base] = self._reference(base)
        if path:
            references = {base: vars(reference) for base, reference in self.references.items()}
            torch.save({"general": self.general, "references": references}, path)

    def run(self) -> ProofAnswer:
        """Return what was found, ready for JSON."""
        trained: dict[str, TrainedAnswers] = {
            base: {"answers": reference.answers} for base, reference in self.references.items()
        }
        return {"trained": trained, "exports": {export.name: self._prove(export) for export in self.request.exports}}

    # The trained model

    def _reference(self, base: str) -> Reference:
        request = self.request
        if not request.is_adapter:
            model = unquantised(request.section, request.cache)
            without = logits_of(model, request.rows)
            del model
            free()
            trained = request.section.model_copy(update={"name_or_path": request.trained})
            return self._measured(unquantised(trained, request.cache), without)
        model = self._dequantised() if base == "dequantised" else unquantised(request.section, request.cache)
        without = logits_of(model, request.rows)
        return self._measured(adapters.load_on(model, Path(request.trained)), without)

    def _measured(self, model: PreTrainedModel, without: Logits) -> Reference:
        request = self.request
        answers = greedy(
            model, self.tokenizer, request.token_prompts, eos=request.stop_ids, max_new_tokens=request.max_new_tokens
        )
        if not self.references:
            self.general = self._with_answers(model)
        reference = Reference(logits_of(model, request.rows), logits_of(model, self.general), answers.texts, without)
        del model
        free()
        return reference

    def _with_answers(self, model: PreTrainedModel) -> list[list[int]]:
        """Return the general prompts, each with the trained model's own answer."""
        prompts = [TokenPrompt(ids=ids) for ids in self.request.general]
        answers = greedy(model, self.tokenizer, prompts, eos=self.request.stop_ids, max_new_tokens=GENERAL_TOKENS)
        return [[*prompt.ids, *answer] for prompt, answer in zip(prompts, answers.ids, strict=True)]

    def _dequantised(self) -> PreTrainedModel:
        """Return the base with the weights that 4-bit training saw, as an unquantised model."""
        request = self.request
        adapter = QloraAdapter.model_validate(request.four_bit)
        packed = load_model(
            request.section, Path(request.cache), adapter=adapter, dtype=getattr(torch, request.weights_dtype)
        )
        dequantise_stacks(packed)
        return in_double(packed.dequantize().float().eval())

    # The formats

    def _prove(self, export: Export) -> Measurement:
        format = format_of(export.kind)
        findings = [] if format.holds_tokenizer else self._carried_findings(export)
        findings += _of_this_export(export)
        replayed: Measurement = {"findings": []}
        try:
            if format.is_replayed:
                replayed = self._replayed(export)
            opened = format.open(self.request, export)
        except Exception as error:  # whatever PEFT, transformers and safetensors make of a folder that is not right
            if isinstance(error, torch.OutOfMemoryError) or isinstance(error.__cause__, torch.OutOfMemoryError):
                raise  # of this machine, not of the folder
            return {**replayed, "findings": [*findings, *replayed["findings"], _why_unopened(error)]}
        measured = self._compared(export, opened)
        findings += [*replayed["findings"], *opened.findings]
        opened.close()
        del opened
        free()
        measured.update(replayed)
        measured["findings"] = findings
        return measured

    def _carried_findings(self, export: Export) -> list[str]:
        request = self.request
        return list(
            carried_findings(
                Path(export.folder),
                request.token_prompts,
                stop_id=request.stop_id,
                template=request.template,
                eos_token=request.eos_token,
            )
        )

    def _replayed(self, export: Export) -> Measurement:
        """Recompute every tensor of merged weights and compare it bit by bit."""
        request, folder = self.request, Path(export.folder)
        if export.plan is None:
            findings = recast_findings(Path(request.trained), folder)
            return {"replayed": not findings, "findings": findings}
        plan = plan_of(export.plan)
        result = replay(Path(request.base), [(Path(request.trained), 1.0)], folder, plan)
        findings = list(result.findings)
        findings += [f"{name} is not base plus update" for name in result.differing]
        findings += [f"{name} of the adapter was not used" for name in result.unused_adapter_tensors]
        return {"replayed": result.equal, "tensors": result.tensors, "findings": findings}

    def _compared(self, export: Export, opened: Opened) -> Measurement:
        reference, request = self.references[export.base], self.request
        rows = opened.logits(request.rows)
        near = self._agreement(opened, reference.rows, rows)
        assert reference.without is not None
        gain = self._agreement(opened, reference.without, rows)
        drift = self._drift(opened, rows) if request.four_bit else None
        del rows  # up to half a GiB, and answers need memory of their own
        answers = opened.answers(request.token_prompts, request.max_new_tokens)
        is_same = [trained == exported for trained, exported in zip(reference.answers, answers, strict=True)]
        measured: Measurement = {
            "mean_kl": near.mean_kl,
            "max_kl": near.max_kl,
            "max_logit_diff": near.max_logit_diff,
            "top1_agreement": near.top1_agreement,
            "num_positions": near.num_positions,
            "findings": [],
            "differs_from_base": {"mean_kl": gain.mean_kl, "max_logit_diff": gain.max_logit_diff},
            "answers": answers,
            "same_answers": sum(is_same),
            "num_answers": len(is_same),
            "double": reference.rows[0].dtype == torch.float64,
            "largest_logit": max(float(row.abs().max()) for row in reference.rows),
        }
        if drift:
            measured["drift_from_4bit"] = drift[0]
            if drift[1]:
                measured["general_drift_from_4bit"] = drift[1]
        return measured

    def _drift(self, opened: Opened, rows: Logits) -> tuple[ModelAgreement, ModelAgreement | None]:
        """Compare with the model as it was trained, on held-out rows and, where there are any, on general prompts."""
        trained = self.references["dequantised"]
        drift = self._agreement(opened, trained.rows, rows).figures()
        if not trained.general:
            return drift, None
        return drift, self._agreement(opened, trained.general, opened.logits(self.general)).figures()

    @staticmethod
    def _agreement(opened: Opened, expected: Sequence[torch.Tensor], actual: Sequence[torch.Tensor]) -> Agreement:
        return (agreement_of_log_probs if opened.gives_log_probs else agreement)(expected, actual)


def _why_unopened(error: Exception) -> str:
    if isinstance(error, TrainerError):
        return error.message
    reason = (str(error).strip() or "no reason given").splitlines()[0]
    return f"cannot be opened: {type(error).__name__}: {reason}"


def _of_this_export(export: Export) -> list[str]:
    """Return what shows that the folder was not written by this export, or changed since."""
    try:
        examined = examine(Path(export.folder))
        written_by = read_provenance(Path(export.folder)).get("fingerprint")
    except TrainerError as error:
        return [error.message]
    return examined.findings + ([] if written_by == export.fingerprint else ["it was written by another export"])


def prove(request: Request) -> ProofAnswer:
    """Measure every format of a request against the trained model.

    Raises:
        HardwareError: The base model cannot be loaded.
        StageError: The trained adapter is damaged.
    """
    try:
        with torch.no_grad():
            return Prover(request).run()
    finally:
        gc.collect()


def read_request(path: Path) -> Request:
    """Return the request of a file."""
    values = orjson.loads(path.read_bytes())
    return Request(**values | {"exports": [Export(**export) for export in values["exports"]]})


def main(arguments: list[str]) -> int:
    """Answer a request; errors that a person can act on go into the answer."""
    request_path, answer_path = map(Path, arguments)
    try:
        answer: object = prove(read_request(request_path))
    except TrainerError as error:
        answer = {"error": error.message, "hint": error.hint, "exit_code": error.exit_code}
    except torch.OutOfMemoryError as error:
        answer = {
            "error": f"out of memory in export: {str(error).splitlines()[0]}",
            "hint": "hide the card: CUDA_VISIBLE_DEVICES= trainer export RECIPE",
            "exit_code": HardwareError.exit_code,
        }
    answer_path.write_bytes(orjson.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
