"""Name the keys of other tools, so that an unknown key gets a useful answer.

Source: recipes and command lines of Axolotl, LLaMA-Factory, TRL, ms-swift and Unsloth, autumn 2026.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from difflib import get_close_matches

FOREIGN: dict[str, str] = {
    # model
    "base_model": "model.name_or_path",
    "model_name_or_path": "model.name_or_path",
    "model_name": "model.name_or_path",
    "model_id": "model.name_or_path",
    "model_revision": "model.revision",
    "revision_of_model": "model.revision",
    "torch_dtype": "model.dtype",
    "bf16": "model.dtype: bfloat16",
    "fp16": "model.dtype: float16",
    "flash_attention": "model.attn_implementation",
    "flash_attn": "model.attn_implementation",
    "attn_impl": "model.attn_implementation",
    "template": "model.chat_template",
    "chat_template_path": "model.chat_template",
    "chat_template_jinja": "model.chat_template",
    # adapter
    "finetuning_type": "adapter.kind",
    "tuner_type": "adapter.kind",
    "train_type": "adapter.kind",
    "use_peft": "adapter.kind: lora",
    "load_in_4bit": "adapter.kind: qlora",
    "quantization_bit": "adapter.kind: qlora",
    "quant_bits": "adapter.kind: qlora",
    "lora_r": "adapter.r",
    "lora_rank": "adapter.r",
    "rank": "adapter.r",
    "lora_alpha": "adapter.alpha",
    "lora_dropout": "adapter.dropout",
    "lora_target": "adapter.target_modules",
    "lora_target_modules": "adapter.target_modules",
    "lora_target_linear": "adapter.target_modules: all-linear",
    "lora_modules_to_save": "adapter.modules_to_save",
    "lora_model_dir": "adapter.init_from",
    "adapter_name_or_path": "adapter.init_from",
    "peft_use_dora": "adapter.use_dora",
    "peft_use_rslora": "adapter.use_rslora",
    # data
    "datasets": "data.sources",
    "dataset": "data.sources",
    "dataset_name": "data.sources",
    "train_file": "data.sources",
    "val_set_size": "data.split.validation",
    "val_size": "data.split.validation",
    "split_dataset_ratio": "data.split.validation",
    "test_split_size": "data.split.heldout",
    "heldout_fraction": "data.split.heldout",
    "test_datasets": "data.split.heldout_path",
    "eval_dataset": "data.split.validation_path",
    "dataset_exact_deduplication": "data.dedupe.exact",
    "system": "data.system_prompt.text",
    "type": "data.sources.format",
    # pack
    "sequence_len": "pack.max_length",
    "cutoff_len": "pack.max_length",
    "max_seq_length": "pack.max_length",
    "max_tokens": "pack.max_length",
    "sample_packing": "pack.packing",
    "neat_packing": "pack.packing",
    "train_on_inputs": "pack.loss_on: all",
    "train_on_prompt": "pack.loss_on: all",
    "train_on_completions": "pack.loss_on: assistant",
    "assistant_only_loss": "pack.loss_on: assistant",
    "completion_only_loss": "pack.loss_on: completion",
    "mask_history": "pack.loss_on: last_turn",
    "loss_scale": "pack.loss_on",
    "roles_to_train": "pack.loss_on",
    "excess_length_strategy": "pack.overlong",
    "truncation_strategy": "pack.overlong",
    # method
    "stage": "method.kind",
    "task": "method.kind",
    "rl": "method.kind",
    "rlhf_type": "method.kind",
    "rl_beta": "method.beta",
    "pref_beta": "method.beta",
    "dpo_beta": "method.beta",
    "dpo_loss_type": "method.loss_type",
    "pref_loss": "method.loss_type",
    # train
    "lr": "train.learning_rate",
    "num_epochs": "train.num_train_epochs",
    "epochs": "train.num_train_epochs",
    "batch_size": "train.global_batch_size",
    "train_batch_size": "train.global_batch_size",
    "per_device_train_batch_size": "train.micro_batch_size",
    "gradient_accumulation_steps": "train.global_batch_size (the accumulation follows from it)",
    "lr_scheduler": "train.lr_scheduler_type",
    "warmup_ratio": "train.warmup_steps (a value below 1 is a share)",
    "optimizer": "train.optim",
    "optimizer_in_bwd": "train.optimizer_in_backward",
    "use_gradient_checkpointing": "train.gradient_checkpointing",
    "evals_per_epoch": "train.eval_steps",
    "saves_per_epoch": "train.save_steps",
    "output_dir": "name (the run folder is runs/NAME; --run-dir for another place)",
    # eval, export, track, launch
    "baselines": "eval.arms",
    "merge_lora": "export.formats: [adapter, merged]",
    "export_dir": "export.formats",
    "report_to": "track.report_to",
    "wandb_project": "track.project",
    "wandb_name": "track.run_name",
    "deepspeed": "launch.strategy: zero3",
    "fsdp": "launch.strategy: fsdp2",
    "fsdp_config": "launch.strategy: fsdp2",
    "ddp": "launch.strategy: ddp",
}


def suggest(key: str, keys: Collection[str], everywhere: dict[str, str]) -> str:
    """Return the end of an unknown-key message: the nearest known key, or what another tool's key is called here.

    Args:
        key: The unknown key, without its section.
        keys: Keys of the section in which it was found.
        everywhere: Last part of each key of the recipe to its dotted name.
    """
    foreign = FOREIGN.get(key)
    if foreign and _last_part(foreign) in keys:
        return f"; that is called `{foreign}` here"
    near = get_close_matches(key, list(keys), n=1, cutoff=0.75)
    if near:
        return f"; did you mean `{near[0]}`?"
    if key in everywhere:
        return f"; did you mean `{everywhere[key]}`?"
    if foreign:
        return f"; that is called `{foreign}` here"
    near = get_close_matches(key, [*keys, *everywhere, *FOREIGN], n=1, cutoff=0.75)
    if near:
        name = near[0] if near[0] in keys else everywhere.get(near[0], FOREIGN.get(near[0], near[0]))
        return f"; did you mean `{name}`?"
    return f"; known here: {', '.join(sorted(keys))}"


def _last_part(spelling: str) -> str:
    """Return `kind` for `adapter.kind: qlora`."""
    return re.split(r"[: ]", spelling)[0].rpartition(".")[2]
