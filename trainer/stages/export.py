"""export: every wanted format, reopened from disk by a fresh process and proven.

Writes a folder for each format with its model card and `provenance.json`, `verify.json` with every figure, `README.md`
and `manifest.json`. The limits stand in `export.verify`; beyond them nothing is published.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from trainer import exact_json
from trainer.errors import GateError, HardwareError
from trainer.export.formats import MERGED, FromMerged, FromTraining, format_of
from trainer.export.held_out_answers import Exam, make_exam
from trainer.export.judge import Scored, drift, judge, prove_apart, sentence
from trainer.export.lineage import ExportLineage, RunFacts
from trainer.export.manifest import write_manifest
from trainer.export.provenance import template_sha256
from trainer.export.push import hub_token, push
from trainer.export.request import Export, Request
from trainer.export.sidecar import write_carried
from trainer.export.write import Writer, WrittenExport
from trainer.export.write_transformers import base_folder, generation_settings, own_files
from trainer.model import adapter as adapters
from trainer.model.load import load_tokenizer
from trainer.recipe import Recipe
from trainer.recipe.export import FORMATS
from trainer.recipe.metrics import written_out
from trainer.recipe.model import four_bit_of, low_rank
from trainer.rundir import StageContext, cache_dir, environment, read_json, write_json
from trainer.scoring.generation.responders import PromptEncoder
from trainer.scoring.generation.stopping import longest_answer, stop_ids, tokens_of
from trainer.scoring.question import PromptRequest
from trainer.scoring.retention import general_prompts
from trainer.tokens.chat import Renderer
from trainer.tokens.store import TokenStore

MEASURED = ("loss", "preference_accuracy", "preference_margin")
"""Metrics that no grader marks."""
GENERAL_PROMPTS = 8
"""General prompts on which the two bases of a qlora merge are compared."""
ROWS = ("train.jsonl", "validation.jsonl", "heldout.jsonl")
MERGING = "export.merging"
"""Folder beside `export/` where merged weights are written, so that a killed merge goes on where it was."""


def run(recipe: Recipe, context: StageContext) -> None:
    """Write every format of `export.formats`, then prove it; upload it where the recipe says so.

    Raises:
        GateError: A proof failed; nothing is published.
        HardwareError: The model does not fit, or a format cannot be written on this machine.
        StageError: The base model is not the one trained on.
    """
    if recipe.export.push:
        hub_token(recipe.export.push)
    work = ExportRun(recipe, context)
    try:
        proofs = work.proofs()
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            f"out of memory in export: {str(error).splitlines()[0]}",
            hint="hide the card: CUDA_VISIBLE_DEVICES= trainer export RECIPE",
        ) from error
    write_json(context.dir / "verify.json", proofs)
    work.origin.write_cards(context.dir, proofs, context.say)
    context.numbers.update({f"{name}_max_logit_diff": proof.get("max_logit_diff") for name, proof in proofs.items()})
    _publishable(proofs, context)
    context.say(f"export: manifest {write_manifest(context.dir)}")
    shutil.rmtree(context.run.path / MERGING, ignore_errors=True)
    if recipe.export.push:
        chosen = recipe.export.push.format or recipe.export.formats[0]
        context.say(f"export: {chosen} is at {push(context.dir / chosen, recipe.export.push)}")


def _publishable(proofs: dict[str, dict[str, Any]], context: StageContext) -> None:
    """Say what every proof found.

    Raises:
        GateError: One failed.
    """
    failed = {name: proof for name, proof in proofs.items() if not proof["passed"]}
    for name, proof in proofs.items():
        if name not in failed:
            context.say(sentence(name, proof))
    if failed:
        wrong = {name.partition("/")[0] for name in failed}
        others = list(dict.fromkeys(kind for name in proofs if (kind := name.partition("/")[0]) not in wrong))
        raise GateError(
            "the export is not equal to the trained model: "
            + "; ".join(f"{name}: {proof['because']}" for name, proof in failed.items()),
            hint=(f"--set export.formats=[{','.join(others)}], or " if others else "")
            + "see export.verify in the recipe for the limits"
            + f"; every figure is in {context.dir / 'verify.json'}",
        )


class ExportRun:
    """One export."""

    def __init__(self, recipe: Recipe, context: StageContext) -> None:
        self.recipe = recipe
        self.context = context
        self.references = context.dir / "references.pt"
        self.is_adapter = low_rank(recipe.adapter) is not None
        self.trained = context.input("train", "adapter" if self.is_adapter else "model")
        facts = adapters.check_saved(self.trained) if self.is_adapter else {}
        packed = read_json(context.input("pack", "report.json"))
        self.stop_id = int(packed["stop_token_id"])
        self.tokenizer = load_tokenizer(recipe.model, cache_dir())
        self.stop_ids = stop_ids(packed, self.tokenizer)
        self.tokens = PromptEncoder(
            Renderer(self.tokenizer, loss_on=recipe.pack.loss_on, template_kwargs=recipe.model.chat_template_kwargs)
        )
        self.base = base_folder(recipe.model, cache_dir())
        self.predictions = _lines(context.input("eval", "predictions.jsonl"))
        self.exam = self._exam()
        self.origin = ExportLineage(
            recipe,
            _run_facts(context),
            self.base,
            self.tokenizer,
            stop_id=self.stop_id,
            hash_file=context.run.hashes.file,
        )
        self.writer = self._writer(facts)
        self.formats = [format_of(name) for name in FORMATS if name in recipe.export.formats]
        self.derived = [format for format in self.formats if isinstance(format, FromMerged)]

    # Order of work

    def proofs(self) -> dict[str, dict[str, Any]]:
        """Write and prove; return export/verify.json."""
        self.context.say(f"export: a client sends {self.origin.clients_send}")
        for format in self.derived:  # before anything is written
            format.check(self.writer)
        others = [format for format in self.formats if isinstance(format, FromTraining) and format is not MERGED]
        written = [one for format in others for one in format.write(self.writer)]
        merged = MERGED.write(self.writer) if self.derived or MERGED in self.formats else []
        answer = self._proven([*written, *merged])
        if merged:
            chosen = self._chosen(merged, answer["exports"])
            later = [one for format in self.derived for one in format.write(self.writer, chosen)]
            if later:
                answer["exports"] |= self._proven(later)["exports"]
            written += [chosen, *later]
        self.references.unlink(missing_ok=True)
        proofs = {one.export.name: self._judged(one, answer) for one in written}
        if merged and MERGED not in self.formats and proofs["merged"]["passed"]:  # what the others were made from
            del proofs["merged"]
            shutil.rmtree(self.context.dir / "merged")
        return proofs

    def _proven(self, written: list[WrittenExport]) -> dict[str, Any]:
        for one in written:
            self._carry(one)
        return prove_apart(self._request([one.export for one in written]))

    def _judged(self, one: WrittenExport, answer: dict[str, Any]) -> dict[str, Any]:
        found = answer["exports"][one.export.name]
        scored = self._scored(found.get("answers", []), answer["trained"][one.export.base]["answers"])
        return judge(one.export.kind, one.dtype, found, scored, self.recipe.export.verify) | one.facts

    # Merged weights

    def _chosen(self, merged: list[WrittenExport], found: dict[str, Any]) -> WrittenExport:
        """Return the merge nearest to the model as it was trained; the others are removed."""
        if len(merged) == 1:
            return merged[0]
        drifts = {one.export.base: drift(found[one.export.name]) for one in merged}
        best = min(merged, key=lambda one: drifts[one.export.base])
        self.context.say(
            "export: drift from the model as trained, in nats a token: "
            + ", ".join(f"{base} base {value:.2e}" for base, value in drifts.items())
            + f"; kept: {best.export.base}"
        )
        for one in merged:
            if one is not best:
                shutil.rmtree(one.export.folder)
        folder = self.context.dir / "merged"
        Path(best.export.folder).rename(folder)
        found["merged"] = found[best.export.name]
        export = replace(best.export, name="merged", folder=str(folder))
        return WrittenExport(export, best.dtype, best.facts | {"drifts": drifts})

    def _writer(self, facts: dict[str, Any]) -> Writer:
        context, origin = self.context, self.origin
        return Writer(
            recipe=self.recipe,
            base=self.base,
            trained=self.trained,
            adapter_facts=facts,
            folder=context.dir,
            merging=context.run.path / MERGING,
            cache=cache_dir(),
            train_tokens=context.input("pack", "train.safetensors"),
            weights_dtype=origin.weights_dtype,
            base_hashes=origin.base_hashes,
            stop_id=self.stop_id,
            prompt=origin.served_prompt(self.stop_ids),
            has_tools=lambda: any(prompt["tools"] for prompt in self.exam.prompts(self.tokens)),
            fingerprint=context.record.fingerprint,
            say=context.say,
        )

    # The question

    def _request(self, exports: list[Export]) -> Request:
        recipe = self.recipe
        four_bit = four_bit_of(recipe.adapter)
        return Request(
            model=recipe.model.model_dump(mode="json"),
            base=str(self.base),
            cache=str(cache_dir()),
            trained=str(self.trained.absolute()),
            is_adapter=self.is_adapter,
            four_bit=four_bit.model_dump(mode="json") if four_bit else None,
            weights_dtype=self.origin.weights_dtype,
            rows=self._rows(),
            prompts=self.exam.prompts(self.tokens),
            general=self._general() if four_bit else [],
            stop_ids=self.stop_ids,
            stop_id=self.stop_id,
            max_new_tokens=longest_answer(recipe.eval.max_new_tokens, tokens_of(self.predictions, self.tokenizer)),
            template=template_sha256(self.origin.tokenizer.chat_template),
            eos_token=self.tokenizer.eos_token,
            exports=exports,
            references=str(self.references) if self.derived else None,
        )

    def _rows(self) -> list[list[int]]:
        """Return token ids of held-out rows, or of training rows where nothing is held out."""
        store = TokenStore.load(self.context.input("pack", "heldout.safetensors"))
        if not len(store):
            store = TokenStore.load(self.context.input("pack", "train.safetensors"))
        count = min(self.recipe.export.verify.num_rows, len(store))
        starts = store.offsets[:: store.segments]
        return [store.input_ids[starts[index] : starts[index + 1]].tolist() for index in range(count)]

    def _general(self) -> list[list[int]]:
        if not self.tokenizer.chat_template:
            return []
        prompts = general_prompts(None, GENERAL_PROMPTS)
        return [self.tokens.ids(PromptRequest([{"role": "user", "content": prompt}])) for prompt in prompts]

    def _exam(self) -> Exam:
        section = self.recipe.eval
        named = [] if section.metrics == "auto" else [one for one in section.metrics if one not in MEASURED]
        return make_exam(
            _lines(self.context.input("data", "heldout.jsonl")),
            self.predictions,
            [written_out(metric) for metric in named],
            turns=section.turns,
            count=self.recipe.export.verify.num_answers,
            greedy=section.sampling is None,
            form=self.tokens.form,
        )

    def _scored(self, answers: list[str], trained: list[str]) -> Scored | None:
        """Return the score of a format's answers beside that of eval's tuned answers to the same questions."""
        before = [own if own is not None else said for own, said in zip(self.exam.tuned, trained, strict=True)]
        known, now = self.exam.score(before), self.exam.score(answers)
        if known is None or now is None or self.exam.grader is None:
            return None
        return Scored(self.exam.grader.title, known, now, len(answers))

    # What travels along

    def _carry(self, one: WrittenExport) -> None:
        folder, prompt = Path(one.export.folder), self.origin.served_prompt(self.stop_ids)
        if not format_of(one.export.kind).holds_tokenizer:
            settings, base = generation_settings(self.base), own_files(self.recipe.model, self.base)
            why = write_carried(folder, self.origin.tokenizer, settings, self.stop_id, prompt, base=base)
            if why:
                self.context.say(f"export: {one.export.name}: tokenizer files written anew: {why}")
        self.origin.sign(folder, {"kind": one.export.kind, "dtype": one.dtype})


def _run_facts(context: StageContext) -> RunFacts:
    """Read what the stages before left."""
    train, data = context.run.record("train"), context.run.record("data")
    hashes = [{name: file["sha256"] for name, file in one.outputs.items()} if one else {} for one in (train, data)]
    machine = environment()
    return RunFacts(
        fingerprint=context.record.fingerprint,
        inputs=context.record.inputs,
        trained_on=train.inputs if train else {},
        numbers=train.numbers if train else {},
        trained={name: digest for name, digest in hashes[0].items() if name.startswith(("adapter/", "model/"))},
        rows={name: hashes[1][name] for name in ROWS if name in hashes[1]},
        train_rows=context.input("data", "train.jsonl"),
        data_report=read_json(context.input("data", "report.json")),
        scores=read_json(context.input("eval", "scores.json")),
        gates=read_json(context.input("eval", "gates.json")),
        code={"sha256": machine["code"], "packages": machine["packages"]},
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [exact_json.loads(line) for line in path.read_bytes().splitlines()]
