"""eval: every arm on the same held-out rows, the regression suites, and the forgetting meter.

Writes `predictions.jsonl`, `suites.jsonl`, `scores.json`, `gates.json`, and for CI `junit.xml` and `summary.md`.
Answers are kept in the cache by model and prompt, so that what was interrupted, or what changed only its graders or
gates, does not generate them again.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import torch
from tqdm import tqdm

from trainer import exact_json
from trainer.data.embedding import load_embedder
from trainer.errors import HardwareError
from trainer.model.load import load_tokenizer
from trainer.recipe import Recipe
from trainer.recipe.arms import Arm, Endpoint
from trainer.recipe.load import load_suite
from trainer.recipe.metrics import Grader, ToolCall, written_out
from trainer.render.junit import render_junit
from trainer.render.markdown import render_markdown
from trainer.rundir import StageContext, cache_dir, hash_value, read_json, write_json
from trainer.scoring.generation.endpoint import ChatPrompt, EndpointModel
from trainer.scoring.generation.models import Models
from trainer.scoring.generation.responders import EndpointResponder, LocalResponder, PromptEncoder, Responder
from trainer.scoring.generation.sampling import NucleusSampling
from trainer.scoring.generation.stopping import longest_answer, stop_ids
from trainer.scoring.graders import GraderServices, auto_metrics, check, unread_calls
from trainer.scoring.graders.judge import Ask
from trainer.scoring.lm_eval import add_tasks, read_suite
from trainer.scoring.measure import Settings, measure
from trainer.scoring.question import Message, PromptRequest, Question, asked_by
from trainer.scoring.questions.from_rows import questions_of
from trainer.scoring.questions.heldout import read_examples, read_held_out, usual_metric
from trainer.scoring.questions.prompts import build
from trainer.scoring.questions.retrieval import retriever_name, stronger_retriever
from trainer.scoring.questions.suite import SuiteItems, refuse_same_names
from trainer.scoring.results import Panel
from trainer.scoring.retention import RetentionMeter, general_prompts, task_format
from trainer.scoring.scores import EvalMeasurements, judge_gates, predictions, scores_of
from trainer.scoring.taught import contradiction
from trainer.tokens.chat import Renderer
from trainer.tokens.store import TokenStore

MEASURED = ("loss", "preference_accuracy", "preference_margin")
"""Metrics that no grader marks."""
REASONING_TOKENS = 512
"""Added to the longest answer of an arm that reasons first."""
JUDGE_TOKENS = 512
"""Longest verdict of `eval.judge`."""
MAX_POOL = 50_000
"""Training rows among which examples are looked for: a seeded sample above it."""

Row = dict[str, Any]


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
            work.look_at_retention(kind, model)
            del model  # the next one may need its room
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            f"out of memory in eval: {str(error).splitlines()[0]}", hint="--set eval.batch_size=4"
        ) from error
    work.write()


@contextmanager
def _bar(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Show progress with the time left on a terminal; yield what is called once an answer."""
    with tqdm(total=total, desc=title, unit="answer", disable=not sys.stderr.isatty(), leave=False) as bar:
        yield lambda: bar.update(1) and None


@dataclass
class EvalRun:
    """What is measured, and what has been found so far."""

    recipe: Recipe
    context: StageContext
    suites: list[tuple[SuiteItems, Panel]] = field(default_factory=list)

    def __post_init__(self) -> None:
        recipe = self.recipe
        self.tokenizer = load_tokenizer(recipe.model, cache_dir())
        self.renderer = Renderer(
            self.tokenizer, loss_on=recipe.pack.loss_on, template_kwargs=recipe.model.chat_template_kwargs
        )
        self.tokens = PromptEncoder(self.renderer)
        self.held = read_held_out(
            TokenStore.load(self.context.input("pack", "heldout.safetensors")),
            self.context.input("data", "heldout.jsonl").read_bytes().splitlines(),
            max_rows=recipe.eval.max_rows,
            seed=recipe.seed,
            by=recipe.data.split.by,
        )
        questions = questions_of(
            self.held.rows, turns=recipe.eval.turns, by=recipe.data.split.by, write_answer=self.tokens.right_answer
        )
        self.panel = Panel(questions, _graders(recipe, questions), recipe.seed)
        for grader in self.panel.graders.values():
            check(grader, questions)
        unread = unread_calls(questions) if any(isinstance(one, ToolCall) for one in self.panel.graders.values()) else 0
        if unread:
            self.context.say(
                f"eval: {unread} tool calls cannot be read in the form in which this model's template writes them: "
                "only answers that equal the reference letter by letter will count as right"
            )
        items = [read_suite(load_suite(path)) for path in recipe.eval.suites]
        refuse_same_names([item.suite for item in items])
        self.suites = [(item, Panel(item.questions, item.metrics, recipe.seed)) for item in items]
        self.stop_ids = stop_ids(read_json(self.context.input("pack", "report.json")), self.tokenizer)
        self.max_new_tokens = longest_answer(
            recipe.eval.max_new_tokens, [question.reference_tokens for question in questions]
        )
        tuned = self.context.input("train", "")
        self.opened = Models(recipe.model, recipe.adapter, self.tokenizer, tuned=tuned, cache=cache_dir())
        chosen = recipe.eval.sampling
        self.sampling = NucleusSampling(chosen.temperature, chosen.top_p, chosen.seed) if chosen else None
        self.retention: RetentionMeter | None = None
        self.contradictions: list[dict[str, Any]] = []

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

    def models(self) -> Iterator[tuple[str, Any]]:
        """Yield (kind, model) for the weights that some arm needs, then the endpoints."""
        kinds = {arm.model for arm in self.arms if not isinstance(arm.model, Endpoint)}
        if kinds:
            yield from self.opened.opened(kinds)
        if any(isinstance(arm.model, Endpoint) for arm in self.arms):
            yield "endpoint", None

    def measure(self, arm: Arm, model: Any) -> None:
        """Measure one arm on the held-out rows and, where it is a plain one, on the suites."""
        if self.panel.questions:
            speaker = self._speaker(arm, model, self._limit(arm))
            asked = self._prompts(arm, speaker)
            graders = [list(self.panel.graders.values())] * len(asked)
            self._answer(arm, speaker, self.panel, asked, graders, f"eval {arm.name}")
        if arm.is_plain and model is not None:
            scores = self.held.scores(model)
            self.panel.results(arm.name).measured |= self.held.evidence(model, scores)
            self._look_for_contradiction(arm, scores.known)
            for items, panel in self.suites:
                self._suite(arm, model, items, panel)

    def _look_for_contradiction(self, arm: Arm, known: Iterable[bool]) -> None:
        """Note an arm that does not give the answers which it knows; draws need not be the likeliest answers."""
        if self.panel.questions and self.sampling is None:
            answers = self.held.last_answers(self.tokenizer.decode, known)
            entry = contradiction(arm.name, self.panel.questions, self.panel.arms[arm.name], answers)
            self.contradictions += [entry] if entry else []

    def _limit(self, arm: Arm) -> int:
        reasons = arm.prompt is not None and arm.prompt.reasoning_tag is not None
        return self.max_new_tokens + (REASONING_TOKENS if reasons else 0)

    def _suite(self, arm: Arm, model: Any, items: SuiteItems, panel: Panel) -> None:
        if items.questions:
            self._items(arm, model, items, panel)
        if items.tasks:
            names = ", ".join(name for tasks in items.tasks for name in tasks.lm_eval)
            self.context.say(f"{items.suite.name} {arm.name}: {names} of lm-evaluation-harness")
            add_tasks(panel.results(arm.name), items.tasks, model, self.tokenizer)

    def _items(self, arm: Arm, model: Any, items: SuiteItems, panel: Panel) -> None:
        speaker = self._speaker(arm, model, items.suite.max_new_tokens)
        asked = [asked_by(question) for question in panel.questions]
        plain = Arm(name=arm.name, model=arm.model)
        self._answer(plain, speaker, panel, asked, items.graders, f"{items.suite.name} {arm.name}", latency_rows=0)

    def _answer(
        self,
        arm: Arm,
        speaker: Responder,
        panel: Panel,
        asked: Sequence[PromptRequest],
        graders: Sequence[Sequence[Grader]],
        title: str,
        *,
        latency_rows: int | None = None,
    ) -> None:
        settings = Settings(
            self.recipe.eval.latency_rows if latency_rows is None else latency_rows, self.recipe.eval.concurrency
        )
        self.context.say(f"{title}: {len(asked)} questions")
        with _bar(title, len(asked)) as told:
            panel.arms[arm.name] = measure(
                arm,
                speaker,
                panel.questions,
                asked,
                graders,
                helps=self.helps,
                tokens=self.tokens,
                settings=settings,
                told=told,
            )
        if endless := panel.arms[arm.name].facts["endless_reasoning"]:
            self.context.say(
                f"{title}: {endless} of {len(asked)} answers were cut off inside their reasoning; "
                "for longer ones: --set eval.max_new_tokens=N"
            )

    @cached_property
    def helps(self) -> GraderServices:
        """Return what graders may ask for."""
        judge_section = self.recipe.eval.judge
        ask: Ask | None = None
        if judge_section is not None:
            model = EndpointModel(judge_section, max_new_tokens=JUDGE_TOKENS, concurrency=self.recipe.eval.concurrency)

            def ask(conversations: list[list[Message]]) -> list[str]:
                return [answer.text for answer in model.answers([ChatPrompt(messages) for messages in conversations])]

        return GraderServices(embed=load_embedder, ask=ask, choice_scores=None)

    def _speaker(self, arm: Arm, model: Any, max_new_tokens: int) -> Responder:
        section = self.recipe.eval
        store = cache_dir() / "answers" / f"{self._identity(arm, max_new_tokens)}.jsonl"
        if isinstance(arm.model, Endpoint):
            endpoint = EndpointModel(
                arm.model, max_new_tokens=max_new_tokens, sampling=self.sampling, concurrency=section.concurrency
            )
            return EndpointResponder(endpoint, self.tokens, store=store, max_context=arm.model.max_context_tokens)
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
        limit = getattr(model.config, "max_position_embeddings", None)
        return LocalResponder(local, self.tokens, store=store, max_context=limit)

    def _identity(self, arm: Arm, max_new_tokens: int) -> str:
        """Return what an answer depends on beside its prompt."""
        starts = {"base": ("model",), "start": ("model", "adapter."), "tuned": ("model", "train/")}
        decoding = {
            "max_new_tokens": max_new_tokens,
            "stop_ids": self.stop_ids,
            "sampling": asdict(self.sampling) if self.sampling else None,
        }
        if isinstance(arm.model, Endpoint):
            return hash_value({"endpoint": arm.model.base_url, "name": arm.model.name, **decoding})
        inputs = self.context.record.inputs
        weights = {label: value for label, value in inputs.items() if label.startswith(starts[arm.model])}
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

    def _prompts(self, arm: Arm, speaker: Responder) -> list[PromptRequest]:
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
            fits=speaker.fits,
        )

    @cached_property
    def train_rows(self) -> list[Row]:
        """Return the training rows, or a seeded sample of very many."""
        lines = self.context.input("data", "train.jsonl").read_bytes().splitlines()
        if len(lines) > MAX_POOL:
            lines = random.Random(self.recipe.seed).sample(lines, MAX_POOL)
        return [exact_json.loads(line) for line in lines]

    # Forgetting

    def look_at_retention(self, kind: str, model: Any) -> None:
        """Record the base's answers to general prompts, then how the tuned model differs."""
        section, names = self.recipe.eval.retention, {arm.name for arm in self.arms}
        if not section.num_prompts or not {"base", "tuned"} <= names or not self.tokenizer.chat_template:
            return
        if kind not in ("base", "tuned"):
            return
        prompts = general_prompts(Path(section.prompts) if section.prompts else None, section.num_prompts)
        asked = [PromptRequest([{"role": "user", "content": prompt}]) for prompt in prompts]
        arm = Arm(name=kind, model=kind)  # type: ignore[arg-type]
        speaker = self._speaker(arm, model, max(section.max_new_tokens, self.max_new_tokens))
        with _bar(f"retention {kind}", len(asked)) as told:
            said = speaker.answers(asked, told)
        answers = [answer.text for answer in said]
        if kind == "base":
            rows = [
                (self.tokens.ids(one), self.tokens.of_text(text)[: section.max_new_tokens])
                for one, text in zip(asked, answers, strict=True)
            ]
            self.retention = RetentionMeter(rows, self.context.dir / "base_log_probs.tmp", prompts=prompts)
            self.retention.record(model)
        elif self.retention is not None:
            self.retention.compare(model)
        if self.retention is not None:
            self.retention.answers[kind] = [answer.final for answer in said]

    # Results

    def write(self) -> None:
        """Write everything that was found."""
        references = [question.reference or "" for question in self.panel.questions]
        measured = EvalMeasurements(
            panel=self.panel,
            suites=[(items.suite.name, items.suite.must_pass, panel) for items, panel in self.suites],
            retention=self.retention.evidence(task_format(references)) if self.retention else {},
            primary=_primary(self.recipe, self.panel),
            heldout_rows=len(self.held.rows),
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
        self.context.numbers["rows"] = len(self.held.rows)
        for arm, metrics in scores["arms"].items():
            self.context.numbers.update(
                {f"{arm}_{metric}": round(value["value"], 6) for metric, value in metrics.items()}
            )


def _graders(recipe: Recipe, questions: Sequence[Question]) -> dict[str, Grader]:
    """Return the graders of the held-out rows by the name of their metric."""
    if not questions:
        return {}
    if recipe.eval.metrics == "auto":
        found = auto_metrics([question.reference or "" for question in questions], questions)
    else:
        found = [written_out(metric) for metric in recipe.eval.metrics if metric not in MEASURED]
    return {grader.title: grader for grader in found}


def _primary(recipe: Recipe, panel: Panel) -> str:
    """Return the metric that decides: the first one named, else the one that fits the rows."""
    if recipe.eval.metrics != "auto":
        first = recipe.eval.metrics[0]
        return first if isinstance(first, str) else first.title
    return usual_metric(recipe.method, panel.graders)


def _write_lines(path: Path, lines: Iterable[Row]) -> None:
    with path.open("wb") as file:
        file.writelines(exact_json.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)
