"""Render the model card that travels with an export: Markdown with Hugging Face front matter."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, assert_never

from jinja2 import Environment, PackageLoader, StrictUndefined
from ruamel.yaml import YAML

from trainer.recipe.export import Format, library_of
from trainer.render.data.view import count_pairs
from trainer.render.metrics import with_interval, write_interval, write_value
from trainer.render.numbers import DASH, flatten, title_of
from trainer.render.proofs import PROOF_COLUMNS, proof_rows
from trainer.render.scores.damage import damage_summary, damages, outside_measures, prompts_and_suites
from trainer.render.scores.rows import NO_SCORES, ScoreRow, score_rows, verdict
from trainer.shapes.gates import GateResult
from trainer.shapes.proof import ExportProof
from trainer.shapes.report import DataReport
from trainer.shapes.scores import Score, Scores

_SETTINGS = ("method", "adapter", "pack", "train")
"""Sections of the recipe that the table of settings lists."""


@dataclass(frozen=True)
class CardFacts:
    """Everything that the card says.

    Keeping paths of this machine out of `base_model` and the recipe is the caller's duty.

    Args:
        name: Name of the run.
        base_model: Hub id, or another name of the base model; written as it is.
        base_on_hub: Whether `base_model` is a hub id; a folder's name may look like one.
        revision: Its commit, tag or branch, where known.
        formats: Exported formats, folders beside the card: adapter, merged, bnb4, fp8, awq, gptq, gguf.
        adapter_kind: none, lora or qlora.
        method_kind: sft, dpo, ...
        recipe_yaml: The recipe in full.
        trainer_version: Version of this package.
        data_report: data/report.json.
        train_numbers: Numbers of train/stage.json.
        scores: eval/scores.json.
        verify: export/verify.json.
        gates: eval/gates.json.
        licence: Identifier such as apache-2.0, where known.
        made_from: Sha256 of the files that the model was made from, by name.
        system: System prompt of the training rows, if there is one.
        clients_send: What a client sends to be answered as in training.
        template_kwargs: Arguments of the chat template in training.
        folder: Folder of the one format of this card; None where the card lies beside folders of formats.
    """

    name: str
    base_model: str
    revision: str | None
    formats: list[Format]
    adapter_kind: Literal["none", "lora", "qlora"]
    method_kind: str
    recipe_yaml: str
    trainer_version: str
    data_report: DataReport | None = None
    train_numbers: Mapping[str, object] = field(default_factory=dict)
    scores: Scores | None = None
    verify: Mapping[str, ExportProof] = field(default_factory=dict)
    gates: Sequence[GateResult] = ()
    licence: str | None = None
    made_from: Mapping[str, str] = field(default_factory=dict)
    base_on_hub: bool = True
    system: str | None = None
    clients_send: str = "the question alone"
    template_kwargs: Mapping[str, object] = field(default_factory=dict)
    folder: str | None = None


def public_name(name_or_path: str) -> str:
    """Return a model's name without a path of this machine."""
    return Path(name_or_path).name if Path(name_or_path).is_absolute() else name_or_path


def public_recipe(value: object) -> object:
    """Return the values of a recipe without the folders of this machine.

    Example:
        >>> public_recipe({"model": {"name_or_path": "/models/base"}, "seed": 0})
        {'model': {'name_or_path': 'base'}, 'seed': 0}
    """
    if isinstance(value, dict):
        return {name: public_recipe(item) for name, item in value.items()}
    if isinstance(value, list):
        return [public_recipe(item) for item in value]
    return public_name(value) if isinstance(value, str) else value


def recipe_text(values: object) -> str:
    """Return the values of a recipe as YAML."""
    text = io.StringIO()
    YAML(typ="safe", pure=True).dump(values, text)
    return text.getvalue()


def render_card(facts: CardFacts) -> str:
    """Render the card; its front matter is YAML that the Hugging Face hub reads."""
    environment = Environment(
        loader=PackageLoader("trainer.render"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    text = environment.get_template("card.md.j2").render(facts=facts, **_context(facts))
    return text.encode("utf-8", "replace").decode("utf-8")


def _context(facts: CardFacts) -> dict[str, object]:
    scores = facts.scores or NO_SCORES
    measures, broken = outside_measures(scores), damages(scores)
    return {
        "front_matter": _front_matter(facts),
        "tuning": _tuning(facts.adapter_kind),
        "verdict": verdict(scores),
        "licence": f"Its licence, `{facts.licence}`, applies to this model too."
        if facts.licence
        else "Its own card names no licence; whatever it is, it applies to this model too.",
        "data_pairs": count_pairs(facts.data_report) if facts.data_report else [],
        "settings": list(_settings(facts.recipe_yaml)),
        "train_pairs": [(title_of(key), text) for key, text in flatten(facts.train_numbers)],
        "scores": [_score_cells(row.metric.title, row) for row in score_rows(scores)],
        "damage_summary": damage_summary(scores),
        "damages": [damage.sentence for damage in broken],
        "outside": [_score_cells(measure.title, measure.row) for measure in measures],
        "limits": _unmeasured(scores),
        "failed_gates": [gate for gate in facts.gates if not gate["passed"]],
        "proof_titles": [*PROOF_COLUMNS.values(), "same answers", "held-out score (trained)"],
        "proofs": [(proof, _answer_cells(facts.verify[proof.format])) for proof in proof_rows(facts.verify)],
        "survivals": list(_survivals(facts.verify)),
        "compressed": dict(_compressed(facts.verify)),
        "loads_from_hub": facts.base_on_hub and _is_hub_id(facts.base_model),
        "package": facts.base_model.removeprefix("package:") if facts.base_model.startswith("package:") else "",
        "messages": _messages(facts.system),
        "fence": _fence(facts.recipe_yaml),
        "system_fence": _fence(facts.system or ""),
    }


def _library(formats: list[Format]) -> str:
    """Return the library that opens all formats; an adapter's comes first, as the first thing that the card shows."""
    libraries = {library_of(format) for format in formats}
    if "peft" in libraries:
        return "peft"
    return libraries.pop() if len(libraries) == 1 else "transformers"


def _tuning(adapter_kind: Literal["none", "lora", "qlora"]) -> str:
    match adapter_kind:
        case "none":
            return "full fine-tuning"
        case "lora":
            return "LoRA adapter"
        case "qlora":
            return "QLoRA adapter"
        case _:
            assert_never(adapter_kind)


def _front_matter(facts: CardFacts) -> str:
    """Return the metadata as YAML. Source: https://huggingface.co/docs/hub/model-cards."""
    is_adapter = "adapter" in facts.formats
    # the hub refuses a card whose base_model is no id of it
    base = facts.base_model if facts.base_on_hub and not facts.base_model.startswith("package:") else None
    metadata = {
        "base_model": base,
        "base_model_relation": None if base is None else "adapter" if is_adapter else "finetune",
        "library_name": _library(facts.formats),
        "pipeline_tag": "text-generation",
        "license": facts.licence,
        "tags": ["recipe-trainer", facts.method_kind, *([facts.adapter_kind] if facts.adapter_kind != "none" else [])],
    }
    yaml, stream = YAML(), io.StringIO()
    yaml.dump({key: value for key, value in metadata.items() if value is not None}, stream)
    return stream.getvalue()


def _settings(recipe_yaml: str) -> Iterator[tuple[str, str]]:
    recipe = YAML(typ="safe", pure=True).load(recipe_yaml)
    sections = recipe if isinstance(recipe, dict) else {}
    yield from flatten({name: sections[name] for name in _SETTINGS if isinstance(sections.get(name), dict)})


def _answer_cells(proof: ExportProof) -> list[str]:
    score, num_answers = proof["score"], proof.get("num_answers")
    return [
        f"{proof['same_answers']} of {num_answers}" if num_answers else DASH,
        f"{score['metric']} {score['exported']:.1%} ({score['trained']:.1%})" if score else DASH,
    ]


def _survivals(proofs: Mapping[str, ExportProof]) -> Iterator[str]:
    """Yield how much of the update the merged weights hold."""
    for name, proof in proofs.items():
        if survival := proof.get("survival"):
            yield (
                f"`{name}`: {survival['median']:.1%} of the update survives rounding to {proof['dtype']} (median over "
                f"the tensors, lowest {survival['lowest']:.1%}; rounding {proof['rounding']}, base {proof['base']})"
            )


def _compressed(proofs: Mapping[str, ExportProof]) -> Iterator[tuple[str, str]]:
    """Yield each format of llm-compressor and how its weights are held."""
    for name, proof in proofs.items():
        if "scheme" in proof:
            groups = ""
            if "group_size" in proof:
                groups = f" with a scale for every {proof['group_size']} weights"
                groups += f", calibrated on {proof['calibration_rows']} training rows"
            yield name, f"`{proof['scheme']}`{groups}, by llm-compressor {proof['llmcompressor']}"


def _messages(system: str | None) -> str:
    """Return the conversation of the example as Python."""
    turns = [{"role": "system", "content": system}] if system else []
    lines = [json.dumps(turn, ensure_ascii=False) for turn in [*turns, {"role": "user", "content": "..."}]]
    return f"[{lines[0]}]" if len(lines) == 1 else "[\n    " + ",\n    ".join(lines) + ",\n]"


def _unmeasured(scores: Scores) -> str:
    """Say what nothing measured: abilities outside the task only where eval did not look at them."""
    if not prompts_and_suites(scores):
        return (
            "Nothing here measures safety, bias, or abilities outside the task; tuning can weaken what the base model "
            "had learnt of them."
        )
    return (
        "Outside the task only what stands under “Outside the task” was measured; safety and bias beyond it were not, "
        "and tuning can weaken what the base model had learnt of them."
    )


def _score_cells(title: str, row: ScoreRow) -> list[str]:
    measured = row.tuned or row.base
    num_rows = f"{measured['n']:,}" if measured else DASH
    return [title, _score_cell(row, row.base), _score_cell(row, row.tuned), row.gain, num_rows]


def _score_cell(row: ScoreRow, score: Score | None) -> str:
    interval = write_interval(row.metric, score["low"], score["high"]) if score else ""
    return with_interval(write_value(row.metric, score["value"] if score else None), interval)


def _cell(text: object) -> str:
    """Escape what would end a table cell or start a tag."""
    return re.sub(r"\s+", " ", str(text)).replace("|", "\\|").replace("<", "&lt;")


def _is_hub_id(base_model: str) -> bool:
    return bool(re.fullmatch(r"[\w.-]+(/[\w.-]+)?", base_model)) and not base_model.endswith(".gguf")


def _fence(text: str) -> str:
    """Return a code fence longer than any run of backticks in the text."""
    return "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
