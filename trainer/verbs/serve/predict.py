"""Run `trainer predict`: answer the rows of a file with the tuned model, resumable, checked against a schema."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import orjson
import torch
from tqdm import tqdm

from trainer.data.served_prompt import ServedSystem, replaces
from trainer.digests import HashMemory, hash_value
from trainer.disk import disk_errors, read_json, write_json
from trainer.errors import DataError, HardwareError, StageError
from trainer.lock import exclusive
from trainer.recipe import Recipe
from trainer.recipe.json_schema import check_schema, read_schema
from trainer.rundir import RunFolder
from trainer.scoring.graders.json_text import parse
from trainer.scoring.graders.structured import schema_fault
from trainer.scoring.question import Answer
from trainer.verbs.serve.artefacts import system_of
from trainer.verbs.serve.output import INPUT_LINE, Output, Row
from trainer.verbs.serve.questions import InputRow, read_questions
from trainer.verbs.serve.tuned import Tuned, open_tuned

WINDOW = 2048
"""Rows that are tokenized and ordered by length together; what is in memory does not grow with the file."""
NUM_LISTED = 5
OURS = (INPUT_LINE, "answer", "reasoning", "finished", "prompt_tokens", "answer_tokens", "reason", "detail")

Say = Callable[[str], None]


@dataclass(frozen=True)
class PredictOptions:
    """What is asked for on the command line."""

    input: Path
    output: Path
    schema: Path | None = None
    merged: bool = False

    def beside(self, ending: str) -> Path:
        """Return a file beside the output, named after it."""
        return self.output.with_name(f"{self.output.name.removesuffix('.jsonl')}.{ending}")


def predict(recipe: Recipe, run: RunFolder, request: PredictOptions, *, arguments: str, say: Say) -> None:
    """Answer every row of the input.

    Writes the output (the input's fields, `answer`, `finished`, token counts), `OUTPUT.rejected.jsonl` where rows
    cannot be asked or answers break the schema, and `OUTPUT.state.json`, which tells what the answers come from.

    Raises:
        DataError: The input or the schema cannot be used, or more rows than `data.max_rejected` cannot be asked.
        StageError: There is no model, or the output holds answers of another one.
        HardwareError: The model does not fit, or the disk is full.
    """
    if request.output.resolve() == request.input.resolve():
        raise DataError(f"{request.output} is the input as well", hint="name another file for the answers")
    schema = _schema(request.schema)
    system = system_of(recipe, run)
    if system.sentence:
        say(f"predict: {system.sentence}")
    if replaces(recipe.data):
        say("predict: system turns of the rows are replaced by it, as in training (data.system_prompt.when)")
    rows = _look_through(recipe, system, request, say)
    tuned = open_tuned(recipe, run, arguments, merged=request.merged)
    work = PredictionRun(recipe, tuned, request, schema, rows, say)
    try:
        with work.alone():
            work.run()
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            f"out of memory in predict: {str(error).splitlines()[0]}",
            hint=f"trainer predict {arguments} --set eval.batch_size=4 ..., the same files: what is answered is kept",
        ) from error


def _schema(path: Path | None) -> object:
    if path is None:
        return None
    try:
        schema = read_schema(str(path))
        check_schema(schema)
    except ValueError as error:
        raise DataError(f"--schema: {error}", hint="give a file with one JSON Schema") from error
    return schema


def _look_through(recipe: Recipe, system: ServedSystem, request: PredictOptions, say: Say) -> int:
    """Count the rows and name those that cannot be asked, before a model is loaded.

    Raises:
        DataError: Too many cannot be asked.
    """
    rows, faults = 0, []
    for question in read_questions(request.input, recipe.data, system):
        rows += 1
        if question.fault is not None:
            faults.append(f"{request.input}:{question.line}: {question.fault[0]}: {question.fault[1]}")
    for text in islice(faults, NUM_LISTED):
        say(text)
    if len(faults) > NUM_LISTED:
        say(f"and {len(faults) - NUM_LISTED} more rows that cannot be asked")
    _refuse_too_many(recipe, request, rows, len(faults))
    return rows


def _refuse_too_many(recipe: Recipe, request: PredictOptions, rows: int, faulty: int) -> None:
    limit = recipe.data.max_rejected
    if faulty == rows or faulty > limit * rows:
        raise DataError(
            f"{request.input}: {faulty} of {rows} rows cannot be asked, more than data.max_rejected ({limit:.0%})",
            hint="correct the rows named above, or --set data.max_rejected=SHARE",
        )


@dataclass
class PredictionRun:
    """One batch under way."""

    recipe: Recipe
    tuned: Tuned
    request: PredictOptions
    schema: object
    rows: int
    say: Say

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the output, and see to it that what it holds comes from the same model and input.

        Raises:
            StageError: Another process writes it, or it holds something else.
        """
        path = self.request.beside("state.json")
        with ExitStack() as stack:
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = exclusive(path.with_suffix(".lock"), subject=self.request.output, hint="name another output")
                stack.enter_context(lock)
            self._claim(path)
            yield

    def _claim(self, path: Path) -> None:
        files = (self.request.output, self.request.beside("rejected.jsonl"))
        input_hash = HashMemory().file(self.request.input)
        state = {"answers": self.tuned.identity, "input": input_hash, "schema": hash_value(self.schema)}
        recorded = read_json(path) if path.is_file() else None
        if recorded != state and (recorded is not None or any(file.exists() for file in files)):
            changed = [key for key in state if (recorded or {}).get(key) != state[key]]
            origin = f"made with another {' and another '.join(changed)}" if recorded else "not made by this command"
            raise StageError(
                f"{next((file for file in files if file.exists()), path)} is there already, {origin}",
                hint=f"name another output, or remove it: rm -f {shlex.join(map(str, (*files, path)))}",
            )
        write_json(path, state)

    def run(self) -> None:
        """Answer what is not answered yet."""
        self.output = Output(self.request.output)
        self.rejected = Output(self.request.beside("rejected.jsonl"))
        before = len(self.output.written) + len(self.rejected.written)
        if before:
            self.say(f"predict: {before} of {self.rows} rows are done")
        local = self.tuned.local(self.tuned.model)
        with tqdm(
            total=self.rows, initial=before, desc="predict", unit="row", disable=not sys.stderr.isatty()
        ) as self.bar:
            undone = self._undone()
            while window := list(islice(undone, WINDOW)):
                questions, prompts = self._prompts(window)
                local.answers(prompts, on_answer=self._keeper(questions))
        self.output.path.touch()
        self.output.finish()
        self.rejected.finish()
        reasons = self._summary(before)
        _refuse_too_many(self.recipe, self.request, self.rows, reasons.total() - reasons["schema"])

    def _undone(self) -> Iterator[InputRow]:
        for question in read_questions(self.request.input, self.recipe.data, self.tuned.system):
            if question.line not in self.output.written and question.line not in self.rejected.written:
                yield question

    def _prompts(self, window: list[InputRow]) -> tuple[list[InputRow], list[list[int]]]:
        """Return the rows that can be asked with their prompts; the others are rejected."""
        questions, prompts = [], []
        for question in window:
            fault, prompt = question.fault, []
            if fault is None:
                try:
                    prompt = self.tuned.prompt_ids(question.row)
                except DataError as error:
                    fault = ("template", error.message)
            if fault is None and not self.tuned.leaves_room(prompt):
                room = f"{len(prompt)} tokens and an answer of {self.tuned.max_new_tokens}"
                fault = ("too_long", f"{room} are more than the model's {self.tuned.max_context}")
            if fault is not None:
                self._reject(question, fault)
            else:
                questions.append(question)
                prompts.append(prompt)
        return questions, prompts

    def _reject(self, question: InputRow, fault: tuple[str, str]) -> None:
        if question.fault is None:  # found only now
            self.say(f"{self.request.input}:{question.line}: {fault[0]}: {fault[1]}")
        self.rejected.write(question.line, _fields(question.raw) | {"reason": fault[0], "detail": fault[1]})
        self.bar.update()

    def _keeper(self, questions: list[InputRow]) -> Callable[[int, Answer], None]:
        return lambda index, answer: self._keep(questions[index], answer)

    def _keep(self, question: InputRow, answer: Answer) -> None:
        reasoning = {} if answer.content is None else {"reasoning": answer.reasoning}
        row = _fields(question.raw) | {
            "answer": answer.final,
            **reasoning,
            "finished": answer.finished,
            "prompt_tokens": answer.prompt_tokens,
            "answer_tokens": answer.num_tokens,
        }
        fault = _broken(self.schema, answer.final) if self.schema is not None else ""
        if fault:
            self.rejected.write(question.line, row | {"reason": "schema", "detail": fault})
        else:
            self.output.write(question.line, row)
        self.bar.update()

    def _summary(self, before: int) -> Counter[str]:
        """Say what was written and return why rows were rejected."""
        path = self.rejected.path
        lines = path.read_bytes().splitlines() if path.is_file() else []
        reasons = Counter(str(orjson.loads(line)["reason"]) for line in lines)
        self.say(
            f"predict: {len(self.output.written)} rows in {self.output.path}"
            + (f", {before} done before" if before else "")
        )
        if reasons:
            counts = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
            self.say(f"predict: {reasons.total()} rows in {path}: {counts}")
        return reasons


def _fields(raw: object) -> Row:
    """Return the input's own fields; those that bear one of our names are kept as `input_NAME`.

    Example:
        >>> _fields({"id": 7, "answer": "4"})
        {'id': 7, 'input_answer': '4'}
    """
    values = raw if isinstance(raw, dict) else {"row": raw}
    return {f"input_{name}" if name in OURS else name: value for name, value in values.items()}


def _broken(schema: object, text: str) -> str:
    """Return what a schema does not allow about an answer; empty where it is valid."""
    try:
        value = parse(text)
    except ValueError as error:
        return f"not JSON: {error}"
    return schema_fault(schema, value)
