"""eval: measure every arm on the same held-out rows, on the regression suites, and by the forgetting meter.

Writes `predictions.jsonl`, `suites.jsonl`, `scores.json`, `gates.json`, and for CI `junit.xml` and `summary.md`.
The cache keeps answers by model and prompt: an interrupted run, or one with other graders or gates, does not generate
them again.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import orjson
import torch
from tqdm import tqdm

from trainer import exact_json
from trainer.data.embedding import load_embedder
from trainer.data.records.kinds import Message, Record
from trainer.digests import hash_value
from trainer.disk import cache_dir, read_json, write_json
from trainer.errors import HardwareError
from trainer.model.load import load_tokenizer
from trainer.recipe import Recipe
from trainer.recipe.arms import Arm, Endpoint
from trainer.recipe.load import load_suite
from trainer.recipe.metrics import Grader, ToolCallMatch, written_out
from trainer.render.scores.junit import render_junit
from trainer.render.scores.summary import render_markdown
from trainer.rundir import StageContext
from trainer.scoring.generation.endpoint import ChatPrompt, EndpointModel
from trainer.scoring.generation.models import Kind, Models
from trainer.scoring.generation.responders import EndpointResponder, LocalResponder, PromptEncoder, Responder
from trainer.scoring.generation.sampling import NucleusSampling
from trainer.scoring.generation.stopping import longest_answer, stop_ids
from trainer.scoring.graders import GraderServices, auto_metrics, check, unread_calls
from trainer.scoring.lm_eval import add_tasks, read_suite
from trainer.scoring.measure import ArmRun
from trainer.scoring.question import PromptRequest, Question, prompt_of
from trainer.scoring.questions.from_rows import questions_of
from trainer.scoring.questions.heldout import read_examples, read_held_out, usual_metric
from trainer.scoring.questions.prompts import build
from trainer.scoring.questions.retrieval import retriever_name, stronger_retriever
from trainer.scoring.questions.suite import SuiteItems, refuse_same_names
from trainer.scoring.results import ArmResults, Panel
from trainer.scoring.retention import RetentionMeter, general_prompts, task_format
from trainer.scoring.scores import EvalMeasurements, judge_gates, predictions, scores_of
from trainer.scoring.taught import contradiction
from trainer.shapes.gates import GateResult
from trainer.tokens.chat import Renderer
from trainer.tokens.store import TokenStore

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

MEASURED = ("loss", "preference_accuracy", "preference_margin")
"""Metrics that no grader marks."""
REASONING_TOKENS = 512
"""Added to the longest answer of an arm that reasons first."""
JUDGE_TOKENS = 512
"""Longest verdict of `eval.judge`."""
MAX_POOL = 50_000
"""Training rows to choose examples from: a seeded sample above it."""
WEIGHTS = {"base": ("model",), "start": ("model", "adapter."), "tuned": ("model", "train/")}
"""Kind of model to the first characters of the inputs that its weights come from."""


def run(recipe: Recipe, context: StageContext) -> None:
    """Measure every arm that can be measured: before training, those that need none.

    Raises:
        DataError: There are no held-out rows, or an arm is shown what it is tested on.
        HardwareError: Out of memory, or an endpoint does not answer.
    """
    work = EvalRun(recipe, context)
    try:
        for kind, model in work.models():
            for arm in work.arms:
                if arm.model == kind or (kind == "endpoint" and isinstance(arm.model, Endpoint)):
                    work.measure(arm, model)
            if model is not None:
                work.measure_retention(kind, model)
            del model  # the next one may need its room
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            f"out of memory in eval: {str(error).splitlines()[0]}", hint="--set eval.batch_size=4"
        ) from error
    work.write()


@contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show progress with the time left on a terminal; yield a function to call once per answer."""
    with tqdm(total=total, desc=title, unit="answer", disable=not sys.stderr.isatty(), leave=False) as bar:
        yield lambda: bar.update(1) and None


@dataclass
class EvalRun:
    """The questions, the models and the results so far."""

    recipe: Recipe
    context: StageContext

    def __post_init__(self) -> None:
        recipe, section = self.recipe, self.recipe.eval
        self.tokenizer = load_tokenizer(recipe.model, cache_dir())
        self.renderer = Renderer(
            self.tokenizer, loss_on=recipe.pack.loss_on, template_kwargs=recipe.model.chat_template_kwargs
        )
        self.encoder = PromptEncoder(self.renderer)
        self.heldout = read_held_out(
            TokenStore.load(self.context.input("pack", "heldout.safetensors")),
            self.context.input("data", "heldout.jsonl").read_bytes().splitlines(),
            max_rows=section.max_rows,
            seed=recipe.seed,
            by=recipe.data.split.by,
        )
        self.panel = self._heldout_panel()
        items = [read_suite(load_suite(path)) for path in section.suites]
        refuse_same_names([item.suite for item in items])
        self.suites = [(item, Panel(item.questions, item.metrics, recipe.seed)) for item in items]
        self.stop_ids = stop_ids(read_json(self.context.input("pack", "report.json")), self.tokenizer)
        lengths = [question.reference_tokens for question in self.panel.questions]
        self.max_new_tokens = longest_answer(section.max_new_tokens, lengths)
        tuned = self.context.input("train", "")
        self.opened = Models(recipe.model, recipe.adapter, self.tokenizer, tuned=tuned, cache=cache_dir())
        drawn = section.sampling
        self.sampling = NucleusSampling(drawn.temperature, drawn.top_p, drawn.seed) if drawn else None
        self.retention: RetentionMeter | None = None
        self.contradictions: list[GateResult] = []

    def _heldout_panel(self) -> Panel:
        recipe = self.recipe
        questions = questions_of(
            self.heldout.rows, turns=recipe.eval.turns, by=recipe.data.split.by, write_answer=self.encoder.right_answer
        )
        graders = _graders(recipe, questions)
        for grader in graders.values():
            check(grader, questions)
        has_calls = any(isinstance(grader, ToolCallMatch) for grader in graders.values())
        if has_calls and (num_unread := unread_calls(questions)):
            self.context.say(
                f"eval: {num_unread} tool calls cannot be read in the form in which this model's template writes them: "
                "only answers that equal the reference letter by letter will count as right"
            )
        return Panel(questions, graders, recipe.seed)

    # Arms

    @cached_property
    def arms(self) -> list[Arm]:
        """Return the arms that can be measured now."""
        arms = self.recipe.eval.all_arms
        if self.context.run.record("train") is not None:
            return arms
        left_out = [arm.name for arm in arms if arm.model == "tuned"]
        if left_out:
            self.context.say(f"eval: without {', '.join(left_out)}, nothing is trained yet")
        return [arm for arm in arms if arm.model != "tuned"]

    def models(self) -> Iterator[tuple[Kind | Literal["endpoint"], PreTrainedModel | PeftModel | None]]:
        """Yield (kind, model) for the weights that some arm needs, then the endpoints."""
        kinds = {arm.model for arm in self.arms if not isinstance(arm.model, Endpoint)}
        if kinds:
            yield from self.opened.opened(kinds)
        if any(isinstance(arm.model, Endpoint) for arm in self.arms):
            yield "endpoint", None

    def measure(self, arm: Arm, model: PreTrainedModel | PeftModel | None) -> None:
        """Measure one arm on the held-out rows and, where it is a plain one, on the suites."""
        if self.panel.questions:
            responder = self._responder(arm, model, self._max_new_tokens(arm))
            prompts = self._prompts(arm, responder)
            graders = [list(self.panel.graders.values())] * len(prompts)
            run = self._arm_run(arm, responder, self.panel, prompts, graders)
            self._measure(replace(run, latency_rows=self.recipe.eval.latency_rows), f"eval {arm.name}")
        if arm.is_plain and model is not None:
            scores = self.heldout.scores(model)
            results = self.panel.results(arm.name)
            results.measured |= self.heldout.evidence(model, scores)
            self._note_contradiction(results, scores.is_likeliest.tolist())
            for items, panel in self.suites:
                self._measure_suite(arm, model, items, panel)

    def _note_contradiction(self, results: ArmResults, is_likeliest: Sequence[bool]) -> None:
        """Note an arm that does not give the answers that it knows; sampled answers need not be the likeliest."""
        if self.panel.questions and self.sampling is None:
            entry = contradiction(results, self.heldout.last_answers(self.tokenizer.decode, is_likeliest))
            self.contradictions += [entry] if entry else []

    def _max_new_tokens(self, arm: Arm) -> int:
        reasons = arm.prompt is not None and arm.prompt.reasoning_tag is not None
        return self.max_new_tokens + (REASONING_TOKENS if reasons else 0)

    def _measure_suite(self, arm: Arm, model: PreTrainedModel | PeftModel, items: SuiteItems, panel: Panel) -> None:
        title = f"{items.suite.name} {arm.name}"
        if items.questions:
            responder = self._responder(arm, model, items.suite.max_new_tokens)
            prompts = [prompt_of(question) for question in panel.questions]
            plain = Arm(name=arm.name, model=arm.model)
            self._measure(self._arm_run(plain, responder, panel, prompts, items.graders), title)
        if items.tasks:
            names = ", ".join(name for tasks in items.tasks for name in tasks.lm_eval)
            self.context.say(f"{title}: {names} of lm-evaluation-harness")
            add_tasks(panel.results(arm.name), items.tasks, model, self.tokenizer)

    def _arm_run(
        self,
        arm: Arm,
        responder: Responder,
        panel: Panel,
        prompts: Sequence[PromptRequest],
        graders: Sequence[Sequence[Grader]],
    ) -> ArmRun:
        concurrency = self.recipe.eval.concurrency
        return ArmRun(arm, responder, panel, prompts, graders, self.services, self.encoder, concurrency=concurrency)

    def _measure(self, run: ArmRun, title: str) -> None:
        self.context.say(f"{title}: {len(run.prompts)} questions")
        with _progress(title, len(run.prompts)) as on_answer:
            results = replace(run, on_answer=on_answer).measure()
        if endless := results.facts["endless_reasoning"]:
            self.context.say(
                f"{title}: {endless} of {len(run.prompts)} answers were cut off inside their reasoning; "
                "for longer ones: --set eval.max_new_tokens=N"
            )

    @cached_property
    def services(self) -> GraderServices:
        """Return the helpers that graders may ask."""
        judge_section = self.recipe.eval.judge
        if judge_section is None:
            return GraderServices(embed=load_embedder)
        model = EndpointModel(judge_section, max_new_tokens=JUDGE_TOKENS, concurrency=self.recipe.eval.concurrency)

        def ask(conversations: list[list[Message]]) -> list[str]:
            return [answer.text for answer in model.answers([ChatPrompt(messages) for messages in conversations])]

        return GraderServices(embed=load_embedder, ask=ask)

    def _responder(self, arm: Arm, model: PreTrainedModel | PeftModel | None, max_new_tokens: int) -> Responder:
        section = self.recipe.eval
        store = cache_dir() / "answers" / f"{self._answer_key(arm, max_new_tokens)}.jsonl"
        if isinstance(arm.model, Endpoint):
            endpoint = EndpointModel(
                arm.model, max_new_tokens=max_new_tokens, sampling=self.sampling, concurrency=section.concurrency
            )
            return EndpointResponder(endpoint, self.encoder, store=store, max_context=arm.model.max_context_tokens)
        assert model is not None, "only endpoints have none"
        local = self.opened.local(
            model,
            stop_ids=self.stop_ids,
            max_new_tokens=max_new_tokens,
            sampling=self.sampling,
            batch_size=section.batch_size,
            engine=section.engine,
            form=self.renderer.form,
            say=self.context.say,
        )
        max_context = getattr(model.config, "max_position_embeddings", None)
        return LocalResponder(local, self.encoder, store=store, max_context=max_context)

    def _answer_key(self, arm: Arm, max_new_tokens: int) -> str:
        """Return a hash of all that an answer depends on beside its prompt."""
        decoding = {
            "max_new_tokens": max_new_tokens,
            "stop_ids": self.stop_ids,
            "sampling": asdict(self.sampling) if self.sampling else None,
        }
        if isinstance(arm.model, Endpoint):
            return hash_value({"endpoint": arm.model.base_url, "name": arm.model.name, **decoding})
        inputs = self.context.record.inputs
        weights = {label: value for label, value in inputs.items() if label.startswith(WEIGHTS[arm.model])}
        adapter = self.recipe.adapter.model_dump(mode="json", exclude={"init_from"})
        form = {
            "dtype": self.recipe.model.dtype,
            "adapter": adapter,
            "on": str(torch.cuda.is_available()),
            "engine": self.recipe.eval.engine,
            "reasoning": asdict(self.renderer.form),
        }
        return hash_value({"weights": weights, **form, **decoding})

    # Prompts

    def _prompts(self, arm: Arm, responder: Responder) -> list[PromptRequest]:
        if arm.retriever:
            missing = stronger_retriever(arm.retriever)
            weaker = f"; no embedding model is installed, with one it may do better: {missing}" if missing else ""
            self.context.say(f"eval {arm.name}: examples or passages found by {retriever_name(arm.retriever)}{weaker}")
        return build(
            arm,
            self.panel.questions,
            train_rows=lambda: self.train_rows,
            read_rows=read_examples,
            seed=self.recipe.seed,
            fits=responder.fits,
        )

    @cached_property
    def train_rows(self) -> list[Record]:
        """Return the training rows, or a seeded sample of very many."""
        lines = self.context.input("data", "train.jsonl").read_bytes().splitlines()
        if len(lines) > MAX_POOL:
            lines = random.Random(self.recipe.seed).sample(lines, MAX_POOL)
        return [exact_json.loads(line) for line in lines]

    # Forgetting

    def measure_retention(self, kind: Kind | Literal["endpoint"], model: PreTrainedModel | PeftModel) -> None:
        """Record the base's answers to general prompts, then how the tuned model differs."""
        section, names = self.recipe.eval.retention, {arm.name for arm in self.arms}
        if not section.num_prompts or not {"base", "tuned"} <= names or not self.tokenizer.chat_template:
            return
        if kind not in ("base", "tuned"):
            return
        texts = general_prompts(Path(section.prompts) if section.prompts else None, section.num_prompts)
        prompts = [PromptRequest([{"role": "user", "content": text}]) for text in texts]
        limit = max(section.max_new_tokens, self.max_new_tokens)
        responder = self._responder(Arm(name=kind, model=kind), model, limit)
        with _progress(f"retention {kind}", len(prompts)) as on_answer:
            answers = responder.answers(prompts, on_answer)
        if kind == "base":
            rows = [
                (self.encoder.ids(prompt), self.encoder.of_text(answer.text)[: section.max_new_tokens])
                for prompt, answer in zip(prompts, answers, strict=True)
            ]
            self.retention = RetentionMeter(rows, self.context.dir / "base_log_probs.tmp", prompts=texts)
            self.retention.record(model)
        elif self.retention is not None:
            self.retention.compare(model)
        if self.retention is not None:
            self.retention.answers[kind] = [answer.final for answer in answers]

    # Results

    def write(self) -> None:
        """Write all results."""
        references = [question.reference or "" for question in self.panel.questions]
        measured = EvalMeasurements(
            panel=self.panel,
            suites=[(items.suite.name, items.suite.must_pass, panel) for items, panel in self.suites],
            retention=self.retention.evidence(task_format(references)) if self.retention else {},
            primary=_primary(self.recipe, self.panel),
            heldout_rows=len(self.heldout.rows),
            slices=self.recipe.eval.slices,
        )
        scores = scores_of(measured)
        prompted = [arm.name for arm in self.arms if arm.is_prompted]
        gates = [*self.contradictions, *judge_gates(self.recipe.eval.gates, measured, scores, prompted)]
        folder = self.context.dir
        write_json(folder / "scores.json", scores)
        write_json(folder / "gates.json", gates)
        _write_lines(folder / "predictions.jsonl", predictions(self.panel, self.recipe.eval.slices))
        _write_lines(folder / "suites.jsonl", (line for _, panel in self.suites for line in predictions(panel, [])))
        (folder / "junit.xml").write_text(render_junit(gates, name=self.recipe.name), encoding="utf-8")
        (folder / "summary.md").write_text(render_markdown(scores, gates, name=self.recipe.name), encoding="utf-8")
        self.context.numbers["rows"] = len(self.heldout.rows)
        for arm, metrics in scores["arms"].items():
            self.context.numbers.update(
                {f"{arm}_{metric}": round(value["value"], 6) for metric, value in metrics.items()}
            )


def _graders(recipe: Recipe, questions: Sequence[Question]) -> dict[str, Grader]:
    """Return the graders of the held-out rows by the name of their metric."""
    if not questions:
        return {}
    if recipe.eval.metrics == "auto":
        graders = auto_metrics([question.reference or "" for question in questions], questions)
    else:
        graders = [written_out(metric) for metric in recipe.eval.metrics if metric not in MEASURED]
    return {grader.title: grader for grader in graders}


def _primary(recipe: Recipe, panel: Panel) -> str:
    """Return the metric that decides: the first one named, else the one that fits the rows."""
    if recipe.eval.metrics != "auto":
        first = recipe.eval.metrics[0]
        return first if isinstance(first, str) else first.title
    return usual_metric(recipe.method, panel.graders)


def _write_lines(path: Path, lines: Iterable[Mapping[str, object]]) -> None:
    with path.open("wb") as file:
        file.writelines(exact_json.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
