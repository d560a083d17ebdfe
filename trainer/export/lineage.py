"""Record the origin of an export: check the base, write `provenance.json`, `prompt.json` and the model card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

import trainer
from trainer.data.served_prompt import ServedSystem, served_system
from trainer.digests import hash_value
from trainer.errors import StageError
from trainer.export.provenance import template_sha256, write_provenance
from trainer.export.sidecar import ServedPrompt, served_template, with_template
from trainer.export.write_transformers import licence_of
from trainer.model.load import commit, precision
from trainer.model.source import locate
from trainer.recipe import Recipe
from trainer.recipe.export import format_named
from trainer.render.card import CardFacts, public_name, public_recipe, recipe_text, render_card
from trainer.shapes.gates import GateResult
from trainer.shapes.proof import ExportProof
from trainer.shapes.report import DataReport
from trainer.shapes.scores import Scores

_GGUF = "model"
"""Label of a base that is a single GGUF file."""


@dataclass(frozen=True)
class RunFacts:
    """What the stages before left.

    Attributes:
        fingerprint: Of this export.
        inputs: sha256 of what this export reads, by label.
        trained_on: sha256 of what training read, by label.
        numbers: What training measured.
        trained: sha256 of what training wrote, by file.
        rows: sha256 of the rows, by file.
        train_rows: The training rows.
        data_report: data/report.json.
        scores: eval/scores.json.
        gates: eval/gates.json.
        code: Version and sha256 of this program, versions of packages.
    """

    fingerprint: str
    inputs: dict[str, str]
    trained_on: dict[str, str]
    numbers: dict[str, Any]
    trained: dict[str, str]
    rows: dict[str, str]
    train_rows: Path
    data_report: DataReport
    scores: Scores
    gates: list[GateResult]
    code: dict[str, object] = field(default_factory=dict)


class ExportLineage:
    """Base, rows, recipe and training of one export.

    Args:
        recipe: Of the run.
        run: What the stages before left.
        base: Folder with the base model's files.
        tokenizer: With the recipe's template.
        stop_id: Token that ends a trained answer.
        hash_file: Returns the sha256 of a file.

    Raises:
        StageError: The base model is not the one trained on.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: RunFacts,
        base: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        stop_id: int,
        hash_file: Callable[[Path], str],
    ) -> None:
        self.recipe = recipe
        self.run = run
        self.base = base
        self.served: ServedSystem = served_system(recipe.data, run.train_rows)
        template, self.no_default = served_template(tokenizer, self.served.text, recipe.model.chat_template_kwargs)
        """`no_default`: why the template that travels along has no default system prompt; empty where it has."""
        self.trained_template = tokenizer.chat_template
        self.tokenizer = with_template(tokenizer, template)
        """As it travels along."""
        self._check_base()
        self.facts = self._facts(stop_id, hash_file)

    @property
    def base_hashes(self) -> dict[str, str]:
        """Return the sha256 of the base's weight files as training saw them, by file name."""
        return {name: digest for name, digest in _weights(self.run.trained_on).items() if name != _GGUF}

    @property
    def weights_dtype(self) -> str:
        """Return the type of the weights while training, on whatever machine that was."""
        planned = str(precision(self.recipe.model, self.recipe.adapter).weights).removeprefix("torch.")
        return str(self.run.numbers.get("weights_dtype") or planned)

    def _check_base(self) -> None:
        model, trained_on = self.recipe.model, self.run.numbers.get("base_commit")
        if trained_on and (current := commit(model.name_or_path, model.revision)) != trained_on:
            raise StageError(
                f"{model.name_or_path} is at commit {current}, and the model was trained on {trained_on}",
                hint=f"--set model.revision={trained_on} --accept changed-recipe",
            )
        then, now = _weights(self.run.trained_on), _weights(self.run.inputs)
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name):
                raise StageError(
                    f"{self.recipe.model.name_or_path}: {name} is not what the model was trained on: sha256 "
                    f"{now.get(name, 'missing')[:12]}, then {then.get(name, 'missing')[:12]}",
                    hint="set model.name_or_path to the trained one, or train again on this base",
                )

    def _facts(self, stop_id: int, hash_file: Callable[[Path], str]) -> dict[str, Any]:
        """Return what provenance.json says of every format."""
        return {
            "name": self.recipe.name,
            "fingerprint": self.run.fingerprint,
            "base": {
                "name": public_name(self.recipe.model.name_or_path),
                "revision": self.revision,
                "files": {path.name: hash_file(path) for path in sorted(self.base.glob("*.safetensors"))},
                "trained_on": {name: value for name, value in self.run.trained_on.items() if name.startswith("model")},
            },
            "trained": self.run.trained,
            "data": self.run.rows,
            "recipe": hash_value(self._public_recipe),
            "template": template_sha256(self.trained_template),
            "served_template": template_sha256(self.tokenizer.chat_template),
            "stop_token_id": stop_id,
            "code": {"version": trainer.__version__, **self.run.code},
        }

    @property
    def revision(self) -> str | None:
        """Return the commit of the base model, or what the recipe names."""
        return self.recipe.model.revision or commit(self.recipe.model.name_or_path, None)

    @property
    def clients_send(self) -> str:
        """Say what a client sends for the model to be prompted as in training."""
        if not self.no_default:
            return (
                "the question alone: the chat template opens it with the system prompt of training, unless one is sent"
            )
        if self.served.text is not None:
            return f"the system prompt of prompt.json and the question ({self.no_default})"
        return f"the question ({self.served.sentence})" if self.served.sentence else "the question alone"

    def served_prompt(self, stop_ids: list[int]) -> ServedPrompt:
        """Return what prompt.json says."""
        return {
            "system": self.served.text,
            "default_system": not self.no_default,
            "chat_template_kwargs": self.recipe.model.chat_template_kwargs,
            "stop": [str(self.tokenizer.convert_ids_to_tokens(stop_id)) for stop_id in stop_ids],
            "stop_token_ids": stop_ids,
        }

    def sign(self, folder: Path, facts: dict[str, object]) -> str:
        """Write the provenance.json of a format; return its digest."""
        return write_provenance(folder, self.facts | facts)

    @property
    def _public_recipe(self) -> object:
        """Return what was run, parents and `--set` included, without the paths of this machine."""
        return public_recipe(self.recipe.model_dump(mode="json", exclude_defaults=True))

    def write_cards(self, folder: Path, proofs: dict[str, ExportProof], say: Callable[[str], None]) -> None:
        """Write the model card beside the formats and into each, and note figures and card in its provenance.

        Args:
            folder: Where the folders of the formats lie.
            proofs: Entries of verify.json, by format.
            say: Takes the digests.
        """
        (folder / "README.md").write_text(self._card(proofs, None), encoding="utf-8")
        for kind in dict.fromkeys(name.partition("/")[0] for name in proofs):
            format_proofs = {name: proof for name, proof in proofs.items() if name.partition("/")[0] == kind}
            (folder / kind / "README.md").write_text(self._card(format_proofs, "."), encoding="utf-8")
            dtype = ", ".join(proof["dtype"] for proof in format_proofs.values())
            digest = self.sign(
                folder / kind, {"kind": kind, "dtype": dtype, "proof": format_proofs.get(kind, format_proofs)}
            )
            say(f"export: {kind} provenance {digest}")

    def _made_from(self) -> dict[str, str]:
        """Return the sha256 of what the model was made from, by name."""
        groups = {"base": self.facts["base"]["files"], "data": self.facts["data"], "trained": self.facts["trained"]}
        digests = {f"{group}: {name}": digest for group, files in groups.items() for name, digest in files.items()}
        return digests | {name: self.facts[name] for name in ("recipe", "template") if self.facts[name]}

    def _card(self, proofs: dict[str, ExportProof], location: str | None) -> str:
        """Return the model card.

        Args:
            proofs: Entries of verify.json, by format.
            location: Where the one format of this card lies; None beside the folders of several.
        """
        model = self.recipe.model
        return render_card(
            CardFacts(
                name=self.recipe.name,
                base_model=public_name(model.name_or_path),
                base_on_hub=locate(model.name_or_path, revision=model.revision).kind == "hub",
                revision=self.revision,
                formats=list(dict.fromkeys(map(format_named, proofs))),
                adapter_kind=self.recipe.adapter.kind,
                method_kind=self.recipe.method.kind,
                recipe_yaml=recipe_text(self._public_recipe),
                trainer_version=trainer.__version__,
                data_report=self.run.data_report,
                train_numbers=self.run.numbers,
                scores=self.run.scores,
                verify=proofs,
                gates=self.run.gates,
                licence=licence_of(self.base),
                made_from=self._made_from(),
                system=self.served.text,
                clients_send=self.clients_send,
                template_kwargs=model.chat_template_kwargs,
                folder=location,
            )
        )


def _weights(inputs: dict[str, str]) -> dict[str, str]:
    """Return the hashes of the base's weight files among the inputs of a stage, by file name.

    Files of a folder are labelled `model/FILE`, but those that begin with `model.` have their name alone.
    """
    hashes = {
        label.removeprefix("model/"): digest
        for label, digest in inputs.items()
        if label.startswith(("model/", "model."))
    }
    return {name: digest for name, digest in hashes.items() if name == _GGUF or name.endswith(".safetensors")}
