"""Write every format of an export, have each reopened by a fresh process, and judge what that process measured."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from trainer.data.records.kinds import Record
from trainer.export.formats import MERGED, FromMerged, FromTraining, format_of
from trainer.export.held_out_answers import Exam, make_exam
from trainer.export.judge import Scored, drift, judge, prove_apart
from trainer.export.lineage import ExportLineage, RunFacts
from trainer.export.measurement import Measurement, ProofAnswer
from trainer.export.provenance import template_sha256
from trainer.export.request import Export, Request
from trainer.export.sidecar import write_carried
from trainer.export.write import Writer, WrittenExport
from trainer.export.write_transformers import base_folder, generation_settings, is_converted, own_files
from trainer.model import adapter as adapters
from trainer.model.load import load_tokenizer
from trainer.recipe import Recipe
from trainer.recipe.export import FORMATS
from trainer.recipe.metrics import written_out
from trainer.recipe.model import four_bit_of, low_rank
from trainer.scoring.generation.responders import PromptEncoder
from trainer.scoring.generation.stopping import longest_answer, stop_ids, tokens_of
from trainer.scoring.question import PromptRequest
from trainer.scoring.retention import general_prompts
from trainer.shapes.predictions import Prediction
from trainer.shapes.proof import ExportProof
from trainer.tokens.chat import Renderer
from trainer.tokens.store import TokenStore

UNGRADED = ("loss", "preference_accuracy", "preference_margin")
"""Metrics without a grader."""
GENERAL_PROMPTS = 8
"""General prompts on which the two bases of a qlora merge are compared."""


@dataclass(frozen=True)
class ExportInputs:
    """Results of the earlier stages, and the folders to write."""

    run: RunFacts
    trained: Path
    """Folder with the trained adapter, or the trained model."""
    token_files: dict[str, Path]
    """Split to its token file: `heldout`, `train`."""
    pack_report: dict[str, Any]
    heldout: Sequence[Record]
    predictions: Sequence[Prediction]
    folder: Path
    """Where the folders of the formats go."""
    merging: Path
    """Where merged weights are written, so that a killed merge goes on where it was."""
    cache: Path
    """Folder for converted models."""


class ExportRun:
    """One export: written, proven, judged.

    Raises:
        StageError: The base model is not the one trained on.
        HardwareError: A file of the base is missing.
    """

    def __init__(
        self, recipe: Recipe, inputs: ExportInputs, *, hash_file: Callable[[Path], str], say: Callable[[str], None]
    ) -> None:
        self.recipe = recipe
        self.inputs = inputs
        self.say = say
        self.references = inputs.folder / "references.pt"
        self.stop_id = int(inputs.pack_report["stop_token_id"])
        self.tokenizer = load_tokenizer(recipe.model, inputs.cache)
        self.stop_ids = stop_ids(inputs.pack_report, self.tokenizer)
        self.tokens = PromptEncoder(
            Renderer(self.tokenizer, loss_on=recipe.pack.loss_on, template_kwargs=recipe.model.chat_template_kwargs)
        )
        self.base = base_folder(recipe.model, inputs.cache)
        self.exam = self._exam()
        self.origin = ExportLineage(
            recipe, inputs.run, self.base, self.tokenizer, stop_id=self.stop_id, hash_file=hash_file
        )
        self.formats = [format_of(name) for name in FORMATS if name in recipe.export.formats]
        self.derived = [format for format in self.formats if isinstance(format, FromMerged)]

    # Order of work

    def proofs(self) -> dict[str, ExportProof]:
        """Write and prove every format; return export/verify.json."""
        self.say(f"export: a client sends {self.origin.clients_send}")
        for format in self.derived:  # before anything is written
            format.check(self.writer)
        plain = [format for format in self.formats if isinstance(format, FromTraining) and format is not MERGED]
        written = [export for format in plain for export in format.write(self.writer)]
        merged = MERGED.write(self.writer) if self.derived or MERGED in self.formats else []
        # merged weights are proven before anything is made from them
        answer = self._prove([*written, *merged])
        if merged:
            chosen = self._nearest_merge(merged, answer["exports"])
            derived = [export for format in self.derived for export in format.write(self.writer, chosen)]
            if derived:
                answer["exports"] |= self._prove(derived)["exports"]
            written += [chosen, *derived]
        self.references.unlink(missing_ok=True)
        proofs = {export.name: self._judge(export, answer) for export in written}
        if merged and MERGED not in self.formats and proofs["merged"]["passed"]:  # only the source of other formats
            del proofs["merged"]
            shutil.rmtree(self.inputs.folder / "merged")
        return proofs

    def _prove(self, written: list[WrittenExport]) -> ProofAnswer:
        for export in written:
            self._sign(export)
        return prove_apart(self._request([export.export for export in written]))

    def _judge(self, written: WrittenExport, answer: ProofAnswer) -> ExportProof:
        measured = answer["exports"][written.name]
        scored = self._score(measured.get("answers", []), answer["trained"][written.export.base]["answers"])
        proof = judge(written.export.kind, written.dtype, measured, scored, self.recipe.export.verify)
        return cast("ExportProof", {**proof, **written.facts})

    def _nearest_merge(self, merged: list[WrittenExport], measured: dict[str, Measurement]) -> WrittenExport:
        """Return the merge nearest to the model as it was trained; remove the others."""
        if len(merged) == 1:
            return merged[0]
        drifts = {export.export.base: drift(measured[export.name]) for export in merged}
        best = min(merged, key=lambda export: drifts[export.export.base])
        self.say(
            "export: drift from the model as trained, in nats a token: "
            + ", ".join(f"{base} base {value:.2e}" for base, value in drifts.items())
            + f"; kept: {best.export.base}"
        )
        for export in merged:
            if export is not best:
                shutil.rmtree(export.export.folder)
        folder = self.inputs.folder / "merged"
        Path(best.export.folder).rename(folder)
        measured["merged"] = measured[best.name]
        renamed = replace(best.export, name="merged", folder=str(folder))
        return WrittenExport(renamed, best.dtype, best.facts | {"drifts": drifts})

    @cached_property
    def writer(self) -> Writer:
        """Return the writer of the formats."""
        inputs, origin = self.inputs, self.origin
        return Writer(
            recipe=self.recipe,
            base=self.base,
            trained=inputs.trained,
            adapter_facts={**adapters.check_saved(inputs.trained)} if self._is_adapter else {},
            folder=inputs.folder,
            merging=inputs.merging,
            cache=inputs.cache,
            train_tokens=inputs.token_files["train"],
            weights_dtype=origin.weights_dtype,
            # a converted base has other files than the published one, which ExportLineage compares
            base_hashes={} if is_converted(self.base, inputs.cache) else origin.base_hashes,
            stop_id=self.stop_id,
            prompt=origin.served_prompt(self.stop_ids),
            has_tools=lambda: any(prompt["tools"] for prompt in self.exam.prompts(self.tokens)),
            fingerprint=inputs.run.fingerprint,
            say=self.say,
        )

    def _sign(self, written: WrittenExport) -> None:
        """Write what travels beside the weights, then `provenance.json` over it."""
        folder, prompt = Path(written.export.folder), self.origin.served_prompt(self.stop_ids)
        if not format_of(written.export.kind).holds_tokenizer:
            settings, base = generation_settings(self.base), own_files(self.recipe.model, self.base)
            why = write_carried(folder, self.origin.tokenizer, settings, self.stop_id, prompt, base=base)
            if why:
                self.say(f"export: {written.name}: tokenizer files written anew: {why}")
        self.origin.sign(folder, {"kind": written.export.kind, "dtype": written.dtype})

    # What the fresh process is asked

    @property
    def _is_adapter(self) -> bool:
        return low_rank(self.recipe.adapter) is not None

    def _request(self, exports: list[Export]) -> Request:
        recipe, inputs = self.recipe, self.inputs
        four_bit = four_bit_of(recipe.adapter)
        return Request(
            model=recipe.model.model_dump(mode="json"),
            base=str(self.base),
            cache=str(inputs.cache),
            trained=str(inputs.trained.absolute()),
            is_adapter=self._is_adapter,
            four_bit=four_bit.model_dump(mode="json") if four_bit else None,
            weights_dtype=self.origin.weights_dtype,
            rows=self._rows(),
            prompts=self.exam.prompts(self.tokens),
            general=self._general() if four_bit else [],
            stop_ids=self.stop_ids,
            stop_id=self.stop_id,
            max_new_tokens=longest_answer(recipe.eval.max_new_tokens, tokens_of(inputs.predictions, self.tokenizer)),
            template=template_sha256(self.origin.tokenizer.chat_template),
            eos_token=self.tokenizer.eos_token,
            exports=exports,
            references=str(self.references) if self.derived else None,
        )

    def _rows(self) -> list[list[int]]:
        """Return token ids of held-out rows, or of training rows where nothing is held out."""
        # of a pair the segments prompt, chosen and rejected lie side by side; a row is all of them
        store = TokenStore.load(self.inputs.token_files["heldout"])
        if not len(store):
            store = TokenStore.load(self.inputs.token_files["train"])
        num_rows = min(self.recipe.export.verify.num_rows, len(store))
        starts = store.offsets[:: store.segments]
        return [store.input_ids[starts[index] : starts[index + 1]].tolist() for index in range(num_rows)]

    def _general(self) -> list[list[int]]:
        if not self.tokenizer.chat_template:
            return []
        prompts = general_prompts(None, GENERAL_PROMPTS)
        return [self.tokens.ids(PromptRequest([{"role": "user", "content": prompt}])) for prompt in prompts]

    def _exam(self) -> Exam:
        section = self.recipe.eval
        metrics = [] if section.metrics == "auto" else [name for name in section.metrics if name not in UNGRADED]
        return make_exam(
            self.inputs.heldout,
            self.inputs.predictions,
            [written_out(metric) for metric in metrics],
            turns=section.turns,
            count=self.recipe.export.verify.num_answers,
            greedy=section.sampling is None,
            form=self.tokens.form,
        )

    def _score(self, answers: list[str], trained: list[str]) -> Scored | None:
        """Return the score of a format's answers beside that of eval's tuned answers to the same questions.

        Args:
            answers: Of the format.
            trained: Of the trained model in the fresh process, for questions that eval did not ask greedily.
        """
        before = [
            in_eval if in_eval is not None else in_proof
            for in_eval, in_proof in zip(self.exam.tuned, trained, strict=True)
        ]
        score_trained, score_exported = self.exam.score(before), self.exam.score(answers)
        if score_trained is None or score_exported is None or self.exam.grader is None:
            return None
        return Scored(self.exam.grader.title, score_trained, score_exported, len(answers))
