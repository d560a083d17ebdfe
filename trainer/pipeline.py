"""Find out which stages are fresh and which must run, and run them in order."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import trainer
from trainer.data.inputs import row_inputs
from trainer.data.pii.recipe_secrets import without_secrets
from trainer.digests import hash_value
from trainer.disk import disk_errors, read_json, write_json
from trainer.errors import DataError, GateError, StageError, TrainerError
from trainer.model.source import locate, tokenizer_inputs, weight_inputs
from trainer.recipe import Recipe
from trainer.recipe.load import RESOLVED_NAME
from trainer.recipe.model import start_of
from trainer.rundir import STARTED_JSON, RunFolder, StageContext, StageRecord, environment
from trainer.scoring.inputs import eval_inputs
from trainer.scoring.question import ANSWER_KIND
from trainer.stages import STAGES, Stage, load, select


@dataclass(frozen=True)
class Status:
    """State of one stage and, when it must run, why."""

    state: str
    """fresh, missing, stale or started (training that has not finished)."""
    reasons: tuple[str, ...] = ()


@dataclass
class Pipeline:
    """A recipe together with its run folder."""

    recipe: Recipe
    run: RunFolder
    recipe_path: Path
    say: Callable[[str], None]
    force: bool = False
    accepted: frozenset[str] = frozenset()
    resume_from: str | None = None
    arguments: str = "RECIPE"
    """The command line's recipe, `--set` and `--run-dir`, for the fixes that are printed."""
    worker: bool = False
    warned: set[str] = field(default_factory=set)

    def status(self, stage: Stage, *, is_replaced: bool = False) -> Status:
        """Compare what a stage was made from with what it would be made from today.

        Args:
            stage: Which one.
            is_replaced: It is written anew in any case, so that its weights may be damaged.

        Raises:
            StageError: Its weights are not the ones that it wrote.
        """
        record = self.run.record(stage.name)
        expected = self.expected_record(stage)
        if record is None:
            return self._unfinished_status(stage, expected)
        if missing := [name for name in record.outputs if not (self.run.stage_dir(stage.name) / name).is_file()]:
            return Status("stale", (f"{stage.name}/{missing[0]} is missing",))
        if stage.name in ("train", "export") and not is_replaced:
            self.run.refuse_damaged_weights(record, self.arguments)
        if record.fingerprint == expected.fingerprint:
            return Status("fresh")
        return Status("stale", tuple(differences(record, expected)))

    def _unfinished_status(self, stage: Stage, expected: StageRecord) -> Status:
        started = self._started_record(stage)
        if started is None:
            return Status("missing")
        if started.fingerprint == expected.fingerprint:
            return Status("started")
        return Status("stale", tuple(differences(started, expected)))

    def _started_record(self, stage: Stage) -> StageRecord | None:
        path = self.run.stage_dir(stage.name) / STARTED_JSON
        return StageRecord(**read_json(path)) if path.is_file() else None

    def _sections(self, stage: Stage) -> dict[str, object]:
        return dict(select(self.recipe.model_dump(mode="json"), stage))

    def expected_record(self, stage: Stage) -> StageRecord:
        """Return the record that the stage would get if it ran now."""
        inputs = dict(self._upstream_inputs(stage)) | dict(self._outside_inputs(stage))
        sections = self._sections(stage)
        # what a stage writes follows from its version, its keys and the content of its inputs, and from nothing else
        content = {"version": stage.version, "sections": sections, "inputs": inputs}
        return StageRecord(
            stage=stage.name,
            version=stage.version,
            fingerprint=hash_value(content),
            sections=sections,
            inputs=inputs,
            trainer_version=trainer.__version__,
        )

    def _upstream_inputs(self, stage: Stage) -> Iterator[tuple[str, str]]:
        for needed, names in stage.reads.items():
            if (record := self.run.record(needed)) is None:
                continue
            if names == ("stage.json",):
                yield f"{needed}/stage.json", record.fingerprint + str(record.ended)
                continue
            if names == ("@weights",):
                names = tuple(name for name in record.outputs if name.startswith(("adapter/", "model/")))
                self.run.refuse_damaged_weights(record, self.arguments)
            for name in names:
                path = self.run.stage_dir(needed) / name
                if path.is_file():
                    digest = self.run.hashes.file(path)
                    self._warn_if_edited(needed, name, record, digest)
                    yield f"{needed}/{name}", digest

    def _warn_if_edited(self, stage: str, name: str, record: StageRecord, digest: str) -> None:
        label = f"{stage}/{name}"
        written = record.outputs.get(name)
        if written and written["sha256"] != digest and label not in self.warned:
            self.warned.add(label)
            self.say(f"warning: {label} was changed after the stage wrote it; the file is used as it is")

    def _outside_inputs(self, stage: Stage) -> Iterator[tuple[str, str]]:
        for group in stage.outside:
            for label, path in self._outside_files(group).items():
                if isinstance(path, str):
                    yield label, path
                elif path.is_file():
                    yield label, self.run.hashes.file(path)
                else:
                    raise DataError(
                        f"{label}: no such file: {path}", hint="correct the path in the recipe, or bring the file"
                    )

    def _outside_files(self, group: str) -> dict[str, Path | str]:
        """Return the files of a group, or for a hub model the text that identifies it."""
        recipe = self.recipe
        if group == "rows":
            return dict(row_inputs(recipe.data))
        if group == "eval_files":
            return dict(eval_inputs(recipe.eval))
        if group == "start_adapter":
            return {"adapter.init_from": self._adapter_hash(Path(start))} if (start := start_of(recipe.adapter)) else {}
        source = locate(recipe.model.name_or_path, revision=recipe.model.revision)
        if source.path is None:
            return {"model": f"{source.name}@{source.revision or 'main'}"}
        files: dict[str, Path | str] = {**(tokenizer_inputs if group == "tokenizer" else weight_inputs)(source)}
        for key in ("chat_template", "chat_template_prefix"):
            if template := getattr(recipe.model, key):
                files[f"model.{key}"] = Path(template)
        return {f"model/{label}" if not label.startswith("model.") else label: path for label, path in files.items()}

    def _adapter_hash(self, start: Path) -> str:
        for folder in (start / "train" / "adapter", start):
            files = [folder / name for name in ("adapter_model.safetensors", "adapter_config.json")]
            if files[0].is_file():
                return hash_value([self.run.hashes.file(file) for file in files if file.is_file()])
        raise StageError(
            f"adapter.init_from: no adapter_model.safetensors in {start}",
            hint="point adapter.init_from at a finished run or an adapter folder; train that one first",
        )

    def check(self, refusals: list[TrainerError]) -> Iterator[str]:
        """Yield what rows and files tell before time is spent: whether rows fit, and what `run` would do.

        Args:
            refusals: Takes what `data` would refuse.
        """
        from trainer.data.first_rows import check_first_rows  # noqa: PLC0415  slow to import, and only `check` needs it

        data = self.status(STAGES["data"])  # raises for a file that is not there
        rows = check_first_rows(self.recipe, computed_fields=(ANSWER_KIND,))
        yield from (f"{'rows':7} {line}" for line in rows.lines)
        self._refuse_impossible_gates(data)
        for stage in STAGES.values():
            if stage.name == "report" or (stage.name == "decide" and self.recipe.decide is None):
                continue
            status = data if stage.name == "data" else self.status(stage)
            yield f"{stage.name:7} {status.state}" + (f": {'; '.join(status.reasons)}" if status.reasons else "")
        if rows.refusal:
            refusals.append(rows.refusal)

    def _refuse_impossible_gates(self, data: Status) -> None:
        """Refuse gates that no answers could pass with the rows and items there are; `data` makes the number exact."""
        if self.recipe.eval.gates and "failed-gate" not in self.accepted:
            from trainer.scoring.gates.coverage import refuse_impossible_gates  # noqa: PLC0415  scipy is slow to import

            rows = self.run.stage_dir("data") / "heldout.jsonl" if data.state == "fresh" else None
            refuse_impossible_gates(self.recipe, rows, self.recipe_path, self.arguments)

    # Running

    def open(self, verb: str) -> None:
        """Note the recipe and the machine in the run folder, before a verb is run.

        Raises:
            StageError: The folder belongs to another recipe, or `train/` was made with other settings.
        """
        resolved = self.run.path / RESOLVED_NAME
        if resolved.is_file():
            name = read_json(resolved).get("name")
            if name != self.recipe.name and "changed-recipe" not in self.accepted:
                raise StageError(
                    f"{self.run.path} was made by another recipe: name changed from {name!r} to {self.recipe.name!r}",
                    hint=f"use another folder: --run-dir runs/{self.recipe.name}, or --accept changed-recipe",
                )
        if not (self.force and verb == "train"):
            self._refuse_other_training()
        with disk_errors(self.run.path):
            self.run.path.mkdir(parents=True, exist_ok=True)
            copy = self.run.path / "recipe.yaml"
            if self.recipe_path.is_file() and not (copy.exists() and copy.samefile(self.recipe_path)):
                copy.write_bytes(without_secrets(self.recipe_path.read_bytes().decode()).encode())
        write_json(resolved, self.recipe.model_dump(mode="json"))
        write_json(self.run.path / "env.json", without_secrets(environment()) | {"accepted": sorted(self.accepted)})

    def _refuse_other_training(self) -> None:
        """Refuse changed settings before anything is written: the noted recipe stays the one of `train/`."""
        stage = STAGES["train"]
        trained = self.run.record(stage.name) or self._started_record(stage)
        if trained is None or "changed-recipe" in self.accepted:
            return
        if reasons := tuple(differences(trained, replace(trained, sections=self._sections(stage)))):
            raise self._other_training(reasons)

    def _other_training(self, reasons: tuple[str, ...]) -> StageError:
        is_data = any("pack/" in reason for reason in reasons)
        return StageError(
            f"{self.run.stage_dir('train')} was made from {'other data' if is_data else 'something else'}: "
            + "; ".join(reasons),
            hint=f"train beside it with --set name={self.recipe.name}-2, or replace it: "
            f"trainer train {self.arguments} --force",
        )

    def run_all(self) -> None:
        """Run every stage that is not fresh; a failed gate skips export, writes the report, then raises.

        Raises:
            GateError: A quality gate failed.
        """
        failed: GateError | None = None
        for stage in STAGES.values():
            if stage.name in ("data", "train"):  # before any work, and when the held-out rows are known
                self._refuse_impossible_gates(self.status(STAGES["data"]))
            if stage.name == "decide" and self.recipe.decide is None:
                continue
            if failed and stage.name == "export":
                self.say("export: skipped, a gate failed")
                continue
            try:
                self.run_stage(stage, force=self.force and stage.name != "train")
            except GateError as error:
                failed = error
        if failed:
            raise failed

    def run_one(self, name: str) -> None:
        """Run one stage whose inputs must be there and fresh."""
        stage = STAGES[name]
        if name == "decide":
            self._measure_what_decides(stage)
        for needed in stage.needs:
            self._require(stage, STAGES[needed])
        self.run_stage(stage, force=self.force)

    def _measure_what_decides(self, decide: Stage) -> None:
        """Bring rows and answers up to date; before training the arms that need none are all that there is."""
        if self.is_trained:
            self._require(decide, STAGES["train"])
        for name in ("data", "pack", "eval"):
            with suppress(GateError):  # the decision explains a failed gate, it does not stop at it
                self.run_stage(STAGES[name], force=False)

    @property
    def is_trained(self) -> bool:
        """Tell whether training has finished."""
        return self.run.record("train") is not None

    def _require(self, stage: Stage, needed: Stage) -> None:
        status = self.status(needed)
        if status.state == "fresh" or (needed.name == "train" and "changed-recipe" in self.accepted):
            return
        state = "is not finished" if status.state in ("missing", "started") else f"is stale: {_briefly(status.reasons)}"
        raise StageError(
            f"{stage.name} needs {self.run.stage_dir(needed.name)}, which {state}",
            hint=f"trainer {needed.name} {self.arguments}",
        )

    def run_stage(self, stage: Stage, *, force: bool) -> None:
        """Run a stage unless it is fresh; never replace a started training because something changed.

        Raises:
            StageError: `train/` was made from something else.
        """
        status = self.status(stage, is_replaced=force)
        if status.state == "fresh" and stage.name == "train" and self.resume_from and not force:
            raise StageError(
                f"{self.run.stage_dir(stage.name)} is finished: there is nothing to resume",
                hint=f"leave --resume-from out, or train anew: trainer train {self.arguments} --force",
            )
        if status.state == "fresh" and not force:
            self.say(f"{stage.name}: up to date")
        elif stage.name == "train":
            self._run_train(stage, status, force=force)
        else:
            self._run_short(stage, status)
        if stage.name == "eval":
            self._check_gates()

    def _run_short(self, stage: Stage, status: Status) -> None:
        why = f" ({_briefly(status.reasons)})" if status.reasons else ""
        self.say(f"{stage.name}: {stage.help}{why}")
        if stage.name == "export":
            self._check_gates()
        record = self.expected_record(stage)
        record.started, record.accepted = time.time(), sorted(self.accepted)
        with self.run.staged(record) as folder:
            load(stage.name)(self.recipe, self._context(folder, record))

    def _run_train(self, stage: Stage, status: Status, *, force: bool) -> None:
        folder = self.run.stage_dir(stage.name)
        if status.state == "stale" and not force:
            if "changed-recipe" not in self.accepted:
                raise self._other_training(status.reasons)
            if self.run.record(stage.name) is not None:
                self.say("train: kept although the recipe changed (accepted)")
                return
        if force and not self.worker:
            shutil.rmtree(folder, ignore_errors=True)
        record = self.expected_record(stage)
        record.started, record.accepted = time.time(), sorted(self.accepted)
        if not self.worker:
            self.say(f"train: {'continued from its last checkpoint' if status.state == 'started' else stage.help}")
        with disk_errors(folder):
            load(stage.name)(self.recipe, self._context(folder, record))

    def _context(self, folder: Path, record: StageRecord) -> StageContext:
        return StageContext(
            run=self.run,
            dir=folder,
            numbers=record.numbers,
            say=self.say,
            record=record,
            accepted=self.accepted,
            resume_from=self.resume_from,
            worker=self.worker,
        )

    def _check_gates(self) -> None:
        path = self.run.stage_dir("eval") / "gates.json"
        gates = read_json(path) if path.is_file() and self.is_trained else []
        failed = [gate["sentence"] for gate in gates if not gate["passed"]]
        if failed and "failed-gate" not in self.accepted:
            raise GateError(
                "quality gate failed: " + "; ".join(failed),
                hint=f"look at {self.run.path}/report/index.html; to export all the same: --accept failed-gate",
            )


def differences(old: StageRecord, new: StageRecord) -> Iterator[str]:
    """Yield what changed between two records, as a person would name it."""
    if old.version != new.version:
        yield f"this version of recipe-trainer writes {new.stage} in another form"
    for key in sorted(old.sections.keys() | new.sections.keys()):
        before, after = old.sections.get(key), new.sections.get(key)
        if before != after:
            yield f"{key} changed from {before!r} to {after!r}"
    for label in sorted(old.inputs.keys() | new.inputs.keys()):
        if label not in new.inputs:
            yield f"{label} is gone"
        elif label not in old.inputs:
            yield f"{label} is new"
        elif old.inputs[label] != new.inputs[label]:
            yield f"the content of {label} changed"


def _briefly(reasons: tuple[str, ...], most: int = 4) -> str:
    """Join the first few reasons: a new version of a stage may bring a hundred keys.

    Example:
        >>> _briefly(("a changed", "b changed", "c changed"), most=2)
        'a changed; b changed; and 1 more'
    """
    more = len(reasons) - most
    return "; ".join(reasons[:most]) + (f"; and {more} more" if more > 0 else "")
