"""Build TRL's trainers: with their defaults, at their best settings, and with Liger's layers."""

from __future__ import annotations

import contextlib
import io
import math
import tempfile
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from peft import LoraConfig
from transformers import PreTrainedModel, TrainingArguments
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from trainer.tokens.store import TokenStore
from trainer.verbs.bench import clock
from trainer.verbs.bench.engines.start import same_start
from trainer.verbs.bench.shapes import LEARNING_RATE, LORA_ALPHA, LORA_RANK, MAX_LENGTH, SEED
from trainer.verbs.bench.task import Amount, History, Task, amount, history_of

IGNORED = -100


class TimedDpoTrainer(DPOTrainer):
    """TRL's DPO on pairs that are tokenized; notes what the reference costs ahead of the training."""

    reference_seconds = 0.0

    def _prepare_dataset(self, dataset: Dataset, *_: object, **__: object) -> Dataset:
        return dataset

    def _precompute_ref_logps(self, *arguments: object, **keywords: object) -> dict[str, list[float]]:
        start = clock.now()
        with contextlib.redirect_stderr(io.StringIO()):  # its bar ignores disable_tqdm
            columns = super()._precompute_ref_logps(*arguments, **keywords)
        self.reference_seconds += clock.now() - start
        return columns


@dataclass
class TrlTraining:
    """A TRL trainer before its first step."""

    loop: SFTTrainer | DPOTrainer
    model: PreTrainedModel
    amount: Amount
    precision: str
    settings: dict[str, object]
    reference_seconds: float

    def train(self) -> History:
        """Train to the end."""
        self.loop.train()
        return history_of(self.loop.state.log_history)


def build(task: Task, variant: str) -> TrlTraining:
    """Hand TRL the model's folder, as its users do, and the tokens; the variants differ in settings only."""
    store = task.store()
    settings = _common(task) | ({} if variant == "default" else _best(task, store))
    if variant == "liger":
        settings["use_liger_kernel"] = True
    lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    common = {"model": str(task.model), "peft_config": lora}
    if task.kind == "sft":
        loop: SFTTrainer | DPOTrainer = SFTTrainer(
            **common, args=SFTConfig(**settings), train_dataset=_conversations(store)
        )
    else:
        settings["precompute_ref_log_probs"] = variant != "default" or task.accounting == "left_out"
        loop = TimedDpoTrainer(**common, args=DPOConfig(**settings), train_dataset=_pairs(store))
    same_start(loop.model)
    return TrlTraining(
        loop,
        loop.model,
        _amount(loop, task, store),
        "bfloat16" if loop.args.bf16 else "float32",
        _described(loop.args),
        getattr(loop, "reference_seconds", 0.0),
    )


def _common(task: Task) -> dict[str, object]:
    """Return what all engines agree on, and what a machine without a card forces."""
    settings: dict[str, object] = {
        "output_dir": tempfile.mkdtemp(dir=task.folder),
        "num_train_epochs": task.epochs,
        "per_device_train_batch_size": task.micro_rows,
        "gradient_accumulation_steps": math.ceil(task.rows_per_step / task.micro_rows),
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "optim": "adamw_torch",
        "train_sampling_strategy": "sequential",
        "seed": SEED,
        "max_length": MAX_LENGTH,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    return settings | ({} if clock.on_cuda() else {"use_cpu": True, "dataloader_pin_memory": False})


def _best(task: Task, store: TokenStore) -> dict[str, object]:
    settings: dict[str, object] = {"gradient_checkpointing": False}
    if clock.on_cuda():
        settings |= {"bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}}
    else:
        settings["bf16"] = task.precision == "bfloat16"
    if task.kind == "sft":
        packs = math.ceil(int(store.lengths().sum()) / MAX_LENGTH)
        steps = 1 if task.is_check else len(store) / task.rows_per_step
        # a check step takes everything: more micro-batches than there are make one step of an epoch
        accumulation = 2 * packs + 2 if task.is_check else max(1, round(packs / steps))
        settings |= {"packing": True, "per_device_train_batch_size": 1, "gradient_accumulation_steps": accumulation}
    return settings


def _conversations(store: TokenStore) -> Dataset:
    rows = [store.row(index) for index in range(len(store))]
    labels = [np.where(mask, ids, IGNORED).tolist() for ids, mask in rows]
    return Dataset.from_dict({"input_ids": [ids.tolist() for ids, _ in rows], "labels": labels})


def _pairs(store: TokenStore) -> Dataset:
    pairs = [store.pair(index) for index in range(len(store))]
    names = ("prompt_ids", "chosen_ids", "rejected_ids")
    return Dataset.from_dict({name: [pair[column].tolist() for pair in pairs] for column, name in enumerate(names)})


def _amount(loop: SFTTrainer | DPOTrainer, task: Task, store: TokenStore) -> Amount:
    """Count what TRL kept of the rows."""
    counted = amount(store, range(len(store)))
    if task.kind == "sft":
        labels = loop.train_dataset["labels"]
        tokens = sum(len(row) for row in labels)
        trained = sum(label != IGNORED for row in labels for label in row)
    else:
        sides = [
            [len(row) for row in loop.train_dataset[name]] for name in ("prompt_ids", "chosen_ids", "rejected_ids")
        ]
        tokens, trained = sum(map(sum, sides)), sum(map(sum, sides[1:]))
    return Amount(counted.rows * task.epochs, tokens * task.epochs, trained * task.epochs)


def _described(args: TrainingArguments) -> dict[str, object]:
    names = ("per_device_train_batch_size", "gradient_accumulation_steps", "bf16", "gradient_checkpointing")
    more = ("packing", "precompute_ref_log_probs", "use_liger_kernel")
    return {name: getattr(args, name) for name in (*names, *more) if hasattr(args, name)}
