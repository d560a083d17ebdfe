"""What an export was made from: the base is the one trained on, `provenance.json`, `prompt.json`, the model card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trainer
from trainer.data.sources import system_text
from trainer.errors import StageError
from trainer.model.load import commit, precision
from trainer.model.provenance import template_sha256, write_provenance
from trainer.model.source import locate
from trainer.model.written import licence_of
from trainer.recipe import Recipe
from trainer.render.card import CardFacts, public_name, public_recipe, recipe_text, render_card
from trainer.rundir import StageContext, environment, hash_value, read_json
from trainer.scoring.exported import common_system

ROWS = ("train.jsonl", "validation.jsonl", "heldout.jsonl")
_GGUF = "model"
"""Label of a base that is a single GGUF file."""


class Origin:
    """Base, rows, recipe and training of one export.

    Args:
        recipe: Of the run.
        context: Of the stage.
        base: Folder with the base model's files.
        tokenizer: With the recipe's template.
        stop_id: Token that ends a trained answer.

    Raises:
        StageError: The base model is not the one trained on.
    """

    def __init__(self, recipe: Recipe, context: StageContext, base: Path, tokenizer: Any, stop_id: int) -> None:
        self.recipe = recipe
        self.context = context
        self.base = base
        self.tokenizer = tokenizer
        self.stop_id = stop_id
        self.train = context.run.record("train")
        self._check_base()
        self.facts = self._facts()

    @property
    def of_base(self) -> dict[str, str]:
        """Return what training noted of the base model: sha256 by file, or the name of a hub model."""
        inputs = self.train.inputs if self.train else {}
        return {label: digest for label, digest in inputs.items() if label.startswith("model")}

    @property
    def base_hashes(self) -> dict[str, str]:
        """Return the sha256 of the base's weight files as training saw them, by file name."""
        return {name: digest for name, digest in _weights(self.of_base).items() if name != _GGUF}

    @property
    def weights_dtype(self) -> str:
        """Return the type of the weights while training, on whatever machine that was."""
        numbers = self.train.numbers if self.train else {}
        own = str(precision(self.recipe.model, self.recipe.adapter).weights).removeprefix("torch.")
        return str(numbers.get("weights_dtype") or own)

    def _check_base(self) -> None:
        then, now = _weights(self.of_base), _weights(self.context.record.inputs)
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name):
                raise StageError(
                    f"{self.recipe.model.name_or_path}: {name} is not what the model was trained on: sha256 "
                    f"{now.get(name, 'missing')[:12]}, then {then.get(name, 'missing')[:12]}",
                    hint="set model.name_or_path to the trained one, or train again on this base",
                )

    def _facts(self) -> dict[str, Any]:
        """Return what provenance.json says of every format."""
        data = self.context.run.record("data")
        outputs = self.train.outputs if self.train else {}
        machine = environment()
        hashes = self.context.run.hashes
        files = {path.name: hashes.file(path) for path in sorted(self.base.glob("*.safetensors"))}
        return {
            "name": self.recipe.name,
            "fingerprint": self.context.record.fingerprint,
            "base": {
                "name": public_name(self.recipe.model.name_or_path),
                "revision": self.revision,
                "files": files,
                "trained_on": self.of_base,
            },
            "trained": {
                name: file["sha256"] for name, file in outputs.items() if name.startswith(("adapter/", "model/"))
            },
            "data": {name: data.outputs[name]["sha256"] for name in ROWS if data and name in data.outputs},
            "recipe": hash_value(self._public_recipe),
            "template": template_sha256(self.tokenizer.chat_template),
            "stop_token_id": self.stop_id,
            "code": {"version": trainer.__version__, "sha256": machine["code"], "packages": machine["packages"]},
        }

    @property
    def revision(self) -> str | None:
        """Return the commit of the base model, or what the recipe names."""
        return self.recipe.model.revision or commit(self.recipe.model.name_or_path, None)

    @property
    def system(self) -> str | None:
        """Return the system prompt of the recipe, or the one that every training row opens with."""
        return system_text(self.recipe.data) or common_system(self.context.input("data", "train.jsonl"))

    def served_prompt(self, stop_ids: list[int]) -> dict[str, Any]:
        """Return what prompt.json says."""
        return {
            "system": self.system,
            "chat_template_kwargs": self.recipe.model.chat_template_kwargs,
            "stop": [str(self.tokenizer.convert_ids_to_tokens(stop_id)) for stop_id in stop_ids],
            "stop_token_ids": stop_ids,
        }

    def sign(self, folder: Path, facts: dict[str, Any]) -> str:
        """Write the provenance.json of a format; return its digest."""
        return write_provenance(folder, self.facts | facts)

    def write_cards(self, proofs: dict[str, Any]) -> None:
        """Write the model card beside the formats and into each, and note figures and card in its provenance."""
        (self.context.dir / "README.md").write_text(self._card(proofs, None), encoding="utf-8")
        for kind in dict.fromkeys(name.partition("/")[0] for name in proofs):
            folder = self.context.dir / kind
            own = {name: proof for name, proof in proofs.items() if name.partition("/")[0] == kind}
            (folder / "README.md").write_text(self._card(own, "."), encoding="utf-8")
            dtype = ", ".join(proof["dtype"] for proof in own.values())
            digest = self.sign(folder, {"kind": kind, "dtype": dtype, "proof": own.get(kind, own)})
            self.context.say(f"export: {kind} provenance {digest}")

    @property
    def _public_recipe(self) -> Any:
        """Return what was run, parents and `--set` included, without the paths of this machine."""
        return public_recipe(self.recipe.model_dump(mode="json", exclude_defaults=True))

    def _card(self, proofs: dict[str, Any], place: str | None) -> str:
        model = self.recipe.model
        return render_card(
            CardFacts(
                name=self.recipe.name,
                base_model=public_name(model.name_or_path),
                base_on_hub=locate(model.name_or_path, revision=model.revision).kind == "hub",
                revision=self.revision,
                formats=list(dict.fromkeys(name.partition("/")[0] for name in proofs)),
                adapter_kind=self.recipe.adapter.kind,
                method_kind=self.recipe.method.kind,
                recipe_yaml=recipe_text(self._public_recipe),
                trainer_version=trainer.__version__,
                data_report=read_json(self.context.input("data", "report.json")),
                train_numbers=self.train.numbers if self.train else {},
                scores=read_json(self.context.input("eval", "scores.json")),
                verify=proofs,
                gates=read_json(self.context.input("eval", "gates.json")),
                licence=licence_of(self.base),
                provenance=self.facts,
                system=self.system,
                template_kwargs=model.chat_template_kwargs,
                place=place,
            )
        )


def _weights(inputs: dict[str, str]) -> dict[str, str]:
    """Return the hashes of the base's weight files among the inputs of a stage, by file name.

    Files of a folder are labelled `model/FILE`, but those that begin with `model.` have their name alone.
    """
    found = {
        label.removeprefix("model/"): digest
        for label, digest in inputs.items()
        if label.startswith(("model/", "model."))
    }
    return {name: digest for name, digest in found.items() if name == _GGUF or name.endswith(".safetensors")}
