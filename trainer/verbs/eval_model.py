"""Run `trainer eval` without a recipe: any model on suites, or two runs against each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import exact_json
from trainer.data.embedding import load_embedder
from trainer.disk import cache_dir, read_json, read_json_lines, write_json
from trainer.errors import GateError, HardwareError, StageError
from trainer.export.sidecar import PROMPT_JSON
from trainer.model.adapter import WEIGHTS, load_on
from trainer.model.load import load_model, load_tokenizer, precision
from trainer.recipe.arms import Arm, Endpoint
from trainer.recipe.load import load_suite
from trainer.recipe.model import ModelSection
from trainer.render.scores.terminal import suites_table
from trainer.scoring.gates.metrics import LOWER_IS_BETTER
from trainer.scoring.generation.endpoint import EndpointModel
from trainer.scoring.generation.local import LocalModel
from trainer.scoring.generation.responders import EndpointResponder, LocalResponder, PromptEncoder, Responder
from trainer.scoring.graders import GraderServices
from trainer.scoring.lm_eval import add_tasks, read_suite
from trainer.scoring.measure import ArmRun
from trainer.scoring.question import prompt_of
from trainer.scoring.questions.suite import SuiteItems, refuse_same_names
from trainer.scoring.results import Panel
from trainer.scoring.scores import predictions, suite_scores
from trainer.scoring.statistics.comparisons import corrected_p_values
from trainer.scoring.statistics.measurements import Evidence, Kind, difference
from trainer.scoring.statistics.wording import comparison_of
from trainer.shapes.predictions import Prediction
from trainer.shapes.scores import ArmComparison, Scores, SuiteScores
from trainer.tokens.chat import Renderer

ARM = "model"
CONCURRENCY = 8


@dataclass(frozen=True)
class Target:
    """What is evaluated."""

    location: str
    """Model folder, adapter folder, hub id, `.gguf` file, `package:NAME`, or an http(s) address."""
    base: str | None = None
    """Base model of an adapter folder, where its own file does not name one that can be found."""
    name: str | None = None
    """Name of the model at an address."""

    @property
    def is_address(self) -> bool:
        """Tell an OpenAI-compatible address from a model."""
        return self.location.startswith(("http://", "https://"))


def evaluate_alone(target: Target, suites: Sequence[str], out: Path | None) -> None:
    """Run suites on one model, print the scores, and write them with every answer where `out` is given.

    Raises:
        RecipeError: A suite is wrong.
        HardwareError: The model cannot be loaded, or an address does not answer.
        GateError: An item of a suite that says `must_pass` is wrong.
    """
    scores: dict[str, SuiteScores] = {}
    answers: list[Prediction] = []
    wrong: list[str] = []
    read = [read_suite(load_suite(path)) for path in suites]
    refuse_same_names([items.suite for items in read])
    opened = _Opened(target)
    for items in read:
        panel = _measure(opened, items)
        scores[items.suite.name] = suite_scores(panel, items.suite.must_pass)
        answers += predictions(panel, [])
        wrong += _wrong(panel) if items.suite.must_pass else []
    opened.forget()
    Console(width=100, highlight=False).print(suites_table(scores))
    if out is not None:
        write_json(out / "scores.json", {"target": target.location, "suites": scores})
        (out / "suites.jsonl").write_bytes(b"".join(exact_json.dumps(line) + b"\n" for line in answers))
    if wrong:
        listed = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise GateError(
            f"{len(wrong)} must-pass items are wrong: {listed}", hint="--out FOLDER writes the answers to suites.jsonl"
        )


def _wrong(panel: Panel) -> list[str]:
    """Return the items that some grader did not mark as right."""
    evidence = [panel.evidence(ARM, metric) for metric in panel.graders]
    return list(
        dict.fromkeys(
            str(item)
            for rows in evidence
            if rows is not None and rows.ids and rows.values.ndim == 1
            for item, value in zip(rows.ids, rows.values.tolist(), strict=True)
            if value < 1
        )
    )


def template_kwargs(folder: Path) -> dict[str, object]:
    """Return the settings of the chat template that an exported model was trained with; none for other folders."""
    path = folder / PROMPT_JSON
    prompt = read_json(path) if path.is_file() else None
    kwargs = prompt.get("chat_template_kwargs") if isinstance(prompt, dict) else None
    return kwargs if isinstance(kwargs, dict) else {}


class _Opened:
    """A target's model and tokenizer, loaded once for all suites."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.encoder: PromptEncoder | None = None
        self.stores: set[Path] = set()
        if target.is_address:
            return
        section = ModelSection(name_or_path=target.location)
        folder = Path(target.location)
        self.adapter = folder if (folder / WEIGHTS).is_file() else None
        if self.adapter is not None:
            section = ModelSection(name_or_path=_base_of(folder, target.base))
        has_tokenizer = self.adapter is not None and (folder / "tokenizer_config.json").is_file()
        tokenizer_section = ModelSection(name_or_path=target.location) if has_tokenizer else section
        self.tokenizer = load_tokenizer(tokenizer_section, cache_dir())
        self.encoder = PromptEncoder(Renderer(self.tokenizer, template_kwargs=template_kwargs(folder)))
        model: PreTrainedModel = load_model(section, cache_dir(), dtype=precision(section, None).weights)
        if self.adapter is not None:
            self.model: PreTrainedModel | PeftModel = load_on(model, self.adapter)
        else:
            self.model = model.eval()

    def responder(self, max_new_tokens: int) -> Responder:
        if self.target.is_address:
            key = hashlib.sha256(f"{self.target}{max_new_tokens}".encode()).hexdigest()
            store = cache_dir() / "answers" / f"alone-{key}.jsonl"
            self.stores.add(store)
            section = Endpoint(base_url=self.target.location, name=self.target.name or "default")
            model = EndpointModel(section, max_new_tokens=max_new_tokens, concurrency=CONCURRENCY)
            return EndpointResponder(model, None, store=store, max_context=None)
        assert self.encoder is not None
        local = LocalModel(
            self.model,
            self.tokenizer,
            stop_ids=self._stop_ids(),
            max_new_tokens=max_new_tokens,
            form=self.encoder.form,
            say=Console(stderr=True, highlight=False).print,
        )
        limit = getattr(self.model.config, "max_position_embeddings", None)
        return LocalResponder(local, self.encoder, store=None, max_context=limit)

    def weights(self, suite: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """Return model and tokenizer.

        Raises:
            HardwareError: They are behind an address.
        """
        if self.target.is_address:
            raise HardwareError(
                f"the suite {suite} names tasks of lm-evaluation-harness, which need the log-probabilities of a model "
                f"in this process; {self.target.location} gives none",
                hint="give a model folder, or a suite without tasks",
            )
        return self.model, self.tokenizer

    def forget(self) -> None:
        """Remove what was kept for an interruption: behind the address there may be another model tomorrow."""
        for store in self.stores:
            store.unlink(missing_ok=True)

    def _stop_ids(self) -> list[int]:
        eos = self.model.generation_config.eos_token_id
        ids = {eos} if isinstance(eos, int) else set(eos or [])
        stop_ids = sorted(ids | ({self.tokenizer.eos_token_id} - {None}))
        if not stop_ids:
            raise StageError(f"{self.target.location} names no token that ends an answer", hint="give it an eos_token")
        return stop_ids


def _base_of(folder: Path, configured: str | None) -> str:
    """Return the base model of an adapter: the one that is given, else the one that its own file names."""
    path = folder / "adapter_config.json"
    try:
        recorded = json.loads(path.read_bytes()).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError) as error:
        raise StageError(
            f"{folder} is no whole adapter: {path}: {error}", hint="copy the whole folder again"
        ) from error
    if not configured and not recorded:
        raise StageError(f"{path} names no base model", hint="give it by --base MODEL")
    return str(configured or recorded)


def _measure(opened: _Opened, items: SuiteItems) -> Panel:
    panel = Panel(items.questions, items.metrics, seed=0)
    if items.questions:
        prompts = [prompt_of(question) for question in items.questions]
        services = GraderServices(embed=load_embedder)
        responder = opened.responder(items.suite.max_new_tokens)
        ArmRun(Arm(name=ARM), responder, panel, prompts, items.graders, services, opened.encoder).measure()
    if items.tasks:
        model, tokenizer = opened.weights(items.suite.name)
        add_tasks(panel.results(ARM), items.tasks, model, tokenizer)
    return panel


# Two runs


def compare_runs(first: Path, second: Path) -> list[ArmComparison]:
    """Compare the tuned answers of two runs on the held-out rows that both have.

    Returns:
        One comparison per metric, first less second.

    Raises:
        StageError: A run is not evaluated, or they share no rows.
    """
    runs = _tuned(first), _tuned(second)
    shared = [key for key in runs[0] if key in runs[1]]
    if not shared:
        raise StageError(
            f"{first} and {second} share no held-out row", hint="compare runs on the same data and data.split.seed"
        )
    scores: Scores = read_json(first / "eval" / "scores.json")
    names = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    differences = {}
    for metric in dict.fromkeys(metric for key in shared for metric in runs[0][key]["grades"]):
        common = [key for key in shared if all(metric in answers[key]["grades"] for answers in runs)]
        if common:
            differences[metric] = difference(*_evidence(runs, metric, common), seed=0)
    descriptions = scores.get("metrics") or {}
    lower = LOWER_IS_BETTER.union(name for name, described in descriptions.items() if described["better"] == "lower")
    p_values = corrected_p_values(list(differences.values()))
    return [
        comparison_of(result, *names, metric, p_value=p_value, lower_is_better=lower)
        for (metric, result), p_value in zip(differences.items(), p_values, strict=True)
    ]


def _tuned(run: Path) -> dict[str, dict[str, Any]]:
    """Return the tuned answer to every held-out question, by question and reference."""
    path = run / "eval" / "predictions.jsonl"
    if not path.is_file():
        raise StageError(f"{run} is not evaluated: {path} is missing", hint=f"trainer eval {run}")
    return {
        json.dumps([line["messages"], line["reference"]], sort_keys=True): line["answers"]["tuned"]
        | {"group": line["group"]}
        for line in read_json_lines(path)
        if "tuned" in line["answers"]
    }


def _evidence(
    runs: tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]], metric: str, rows: Sequence[str]
) -> tuple[Evidence, Evidence]:
    """Return the marks of both runs: shares only where every mark of both is 0 or 1."""
    marks = [np.array([answers[key]["grades"][metric] for key in rows]) for answers in runs]
    kind: Kind = "share" if np.isin(marks, (0.0, 1.0)).all() else "mean"
    groups = [runs[0][key]["group"] for key in rows]
    return Evidence(kind, marks[0], groups=groups), Evidence(kind, marks[1], groups=groups)
