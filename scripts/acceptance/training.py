"""Run short trainings of random models made on the card, by the loop of `trainer train` and by TRL.

No model is written to disk. A setting is a list of recipe keys, and a lever of the engine that is switched off.
"""

import contextlib
import dataclasses
import gc
import math
import time
from statistics import median
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, TrainerCallback, set_seed
from transformers.trainer_utils import SaveStrategy
from trl import SFTConfig, SFTTrainer

from acceptance.models import write_rows
from acceptance.workplace import Workplace
from trainer.engine import lora
from trainer.engine.prepare import Engine
from trainer.methods import assembly, worker
from trainer.methods.batch_plan import plan_batches
from trainer.methods.callbacks import StopSignals
from trainer.methods.context import Inputs, Job, TrainingContext
from trainer.model import adapter as adapters
from trainer.model.load import device, four_bit, load_tokenizer, precision
from trainer.model.planning.planner import MemoryPlan, described
from trainer.recipe import Recipe, load_recipe
from trainer.recipe.model import LoraAdapter, QloraAdapter
from trainer.tokens.pack import one_by_one
from trainer.tokens.store import TokenStore
from trainer.verbs.bench import clock
from trainer.verbs.bench.engines.start import same_start
from trainer.verbs.bench.shapes import LEARNING_RATE, LORA_ALPHA, LORA_RANK, LlamaShape

WARM_UP = 3
"""Steps that allocate, choose kernels and compile."""
TIMED = {"real": 6, "tiny": 2}
ROUNDS = {"real": 2, "tiny": 1}
Lever = Literal["product", "head", "residency"]


class Setting(NamedTuple):
    """One way to train."""

    sets: tuple[str, ...] = ()
    without: Lever | None = None
    """A part of the engine that is switched off after it was prepared."""


class Measured(NamedTuple):
    """One short training."""

    tokens_per_s: float
    peak_bytes: int
    predicted_bytes: int | None
    """Of all tensors, as `peak_bytes` on a card."""
    loss: float
    """Of the first step."""
    grad_norm: float
    recompute: str
    micro_batch_size: int


class Stopwatch(TrainerCallback):
    """Notes when each step ends."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(clock.now())

    def seconds(self) -> float:
        """Return those of the median step after the warm-up."""
        durations = np.diff(self.ends[WARM_UP - 1 :])
        return float(median(durations.tolist()))


class Rig:
    """A model of one shape with one kind of adapter, and rows of one length."""

    def __init__(self, workplace: Workplace, shape: LlamaShape, kind: str, length: int, *sets: str) -> None:
        self.workplace, self.shape, self.length, self.sets = workplace, shape, length, sets
        self.steps = WARM_UP + TIMED[workplace.size]
        write_rows(workplace.folder / "limits.jsonl", count=20, length=20)
        self.path = workplace.write_recipe(
            f"limits-{kind}-{length}",
            model={"name_or_path": str(workplace.folder / "model")},
            adapter={"kind": kind} | ({} if kind == "none" else {"r": LORA_RANK, "alpha": float(LORA_ALPHA)}),
            data={"sources": [{"path": str(workplace.folder / "limits.jsonl")}]},
            pack={"max_length": length},
            train={"max_steps": self.steps, "learning_rate": LEARNING_RATE / 10, "lr_scheduler_type": "constant"},
        )
        recipe = self.recipe(Setting())
        self.types = precision(recipe.model, recipe.adapter)
        model = random_model(shape, recipe, self.types.weights, length)
        self.model = adapters.attach(model, recipe.adapter) if isinstance(recipe.adapter, LoraAdapter) else model

    def recipe(self, setting: Setting) -> Recipe:
        return load_recipe(self.path, sets=[*self.sets, *setting.sets])

    def train(self, setting: Setting) -> Measured:
        """Train a few steps from the same start."""
        recipe = self.recipe(setting)
        set_seed(recipe.seed)
        same_start(self.model)
        worker.start_processes(None)
        loop, plan = self._loop(recipe, setting)
        watch = Stopwatch()
        loop.add_callback(watch)
        clock.reset_peak()
        loop.train()
        lines = [line for line in loop.state.log_history if "loss" in line]
        memory_plan = plan.memory if isinstance(plan.memory, MemoryPlan) else None  # a family that formulas cover
        measured = Measured(
            tokens_per_s=recipe.train.global_batch_size * self.length / watch.seconds(),
            peak_bytes=clock.peak_bytes(),
            predicted_bytes=memory_plan.memory.peak if memory_plan else None,
            loss=float(lines[0]["loss"]),
            grad_norm=float(lines[0]["grad_norm"]),
            recompute=described(memory_plan.levels) if memory_plan else "full" if plan.recomputes_all else "none",
            micro_batch_size=plan.steps.micro_batch_size,
        )
        del loop
        free()
        return measured

    def _loop(self, recipe: Recipe, setting: Setting) -> tuple[Any, Any]:
        folder = self.workplace.folder / "limits" / str(time.monotonic_ns())
        job = Job(recipe, folder, folder, self.workplace.folder / "cache", weights={}, say=_say)
        inputs = self._inputs(recipe)
        engine = self._switched(
            assembly.build_engine(job, self.model, inputs, self.types.autocast, _say), setting.without
        )
        context = TrainingContext(
            job, self.model, engine, inputs, self.types, load_tokenizer(recipe.model, job.cache), _say
        )
        plan = plan_batches(context, 1)
        loop, _ = assembly.build_loop(context, plan, StopSignals())
        loop.args.save_strategy = SaveStrategy.NO
        return loop, plan

    def _inputs(self, recipe: Recipe) -> Inputs:
        count = recipe.train.global_batch_size * self.steps
        rows = one_by_one(range(count))
        return Inputs(random_rows(self.shape.vocabulary, count, self.length), None, rows, is_packed=False)

    def _switched(self, engine: Engine, without: Lever | None) -> Engine:
        base: Any = self.model.get_base_model() if isinstance(self.model, adapters.PeftModel) else self.model
        if without in ("product", "residency"):
            lora.switch_off(base)
        if without == "residency":
            lora.switch_on(base, dequantised=False)
        if without == "head":
            base._scorer.remove()
            return dataclasses.replace(engine, scorer=None)
        return engine


def random_model(shape: LlamaShape, recipe: Recipe, dtype: torch.dtype, length: int) -> Any:
    """Make a Llama with random weights where it trains, in 4 bits for qlora."""
    model = random_llama(shape, dtype, length)
    if isinstance(recipe.adapter, QloraAdapter):
        model = LlamaForCausalLM.from_pretrained(
            None,
            config=model.config,
            state_dict=model.state_dict(),
            quantization_config=four_bit(recipe.adapter, dtype),
            dtype=dtype,
            device_map={"": device()},
        )
        free()
    return model


def random_llama(shape: LlamaShape, dtype: torch.dtype, length: int) -> Any:
    """Make a Llama with random weights."""
    torch.manual_seed(0)
    with device():
        return LlamaForCausalLM._from_config(
            LlamaConfig(**shape.config(max_position_embeddings=length, use_cache=False)), dtype=dtype
        )


def random_rows(vocabulary: int, count: int, length: int) -> TokenStore:
    """Return equal rows of full length, all of whose tokens are trained: no engine's order of rows matters."""
    ids = np.tile(np.random.default_rng(0).integers(10, vocabulary, length, dtype=np.int32), count)
    offsets = np.arange(count + 1, dtype=np.int64) * length
    return TokenStore(ids, np.ones(len(ids), dtype=np.uint8), offsets, np.arange(count, dtype=np.int32), 1)


def train_trl(workplace: Workplace, shape: LlamaShape, length: int, micro: int, **settings: Any) -> Measured:
    """Train the same by TRL: bfloat16, LoRA on all linear layers, rows that fill a sequence, so without padding."""
    on_cuda = clock.on_cuda()
    dtype = torch.bfloat16 if on_cuda else torch.float32
    model = random_llama(shape, dtype, length)
    steps = WARM_UP + TIMED[workplace.size]
    store = random_rows(shape.vocabulary, micro * steps, length)
    rows = [store.row(index)[0].tolist() for index in range(len(store))]
    common: dict[str, Any] = {
        "output_dir": str(workplace.folder / "trl"),
        "max_steps": steps,
        "per_device_train_batch_size": micro,
        "max_length": length,
        "learning_rate": LEARNING_RATE / 10,
        "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "bf16": on_cuda,
        "gradient_checkpointing": False,
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    common |= {} if on_cuda else {"use_cpu": True, "dataloader_pin_memory": False}
    loop = SFTTrainer(
        model=model,
        args=SFTConfig(**common | settings),
        train_dataset=Dataset.from_dict({"input_ids": rows, "labels": rows}),
        peft_config=LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        processing_class=AutoTokenizer.from_pretrained(workplace.folder / "model"),
    )
    same_start(loop.model)
    watch = Stopwatch()
    loop.add_callback(watch)
    clock.reset_peak()
    loop.train()
    lines = [line for line in loop.state.log_history if "loss" in line]
    measured = Measured(
        tokens_per_s=micro * length / watch.seconds(),
        peak_bytes=clock.peak_bytes(),
        predicted_bytes=None,
        loss=float(lines[0]["loss"]),
        grad_norm=float(lines[0]["grad_norm"]),
        recompute="full" if loop.args.gradient_checkpointing else "none",
        micro_batch_size=micro,
    )
    del loop, model
    free()
    return measured


def fastest(*trials: Any) -> Measured:
    """Return the fastest of several trainings; one that runs out of memory does not take part."""
    results = []
    for trial in trials:
        with contextlib.suppress(torch.OutOfMemoryError):
            results.append(trial())
        free()
    return max(results, key=lambda training: training.tokens_per_s)


def gain(rig: Rig, off: Setting, on: Setting) -> tuple[Measured, Measured]:
    """Measure two settings in turns; return the median of each by speed."""
    results: dict[Setting, list[Measured]] = {off: [], on: []}
    rounds = ROUNDS[rig.workplace.size]
    for number in range(rounds):
        for setting in (off, on) if number % 2 == 0 else (on, off):
            results[setting].append(rig.train(setting))
    middle = {
        setting: sorted(trainings, key=lambda training: training.tokens_per_s)[(rounds - 1) // 2]
        for setting, trainings in results.items()
    }
    assert all(
        math.isfinite(training.loss) and training.grad_norm > 0
        for trainings in results.values()
        for training in trainings
    )
    return middle[off], middle[on]


def free() -> None:
    """Give memory back."""
    gc.collect()
    if clock.on_cuda():
        torch.cuda.empty_cache()


def _say(message: str) -> None:
    if not message.startswith("train: step"):
        print(f"   {message}", flush=True)
