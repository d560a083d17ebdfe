"""Build this project's engine: the loop of `trainer train` from a recipe and its packed rows."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel, set_seed
from transformers.trainer_utils import SaveStrategy

from trainer.methods import assembly, worker
from trainer.methods.batch_plan import BatchPlan, plan_batches
from trainer.methods.callbacks import StopSignals
from trainer.methods.context import Inputs, Job, TrainingContext, read_inputs
from trainer.methods.loop import RecipeLoop
from trainer.methods.order import order
from trainer.model.load import load_tokenizer, precision
from trainer.model.planning.planner import MemoryPlan, described
from trainer.recipe import load_recipe
from trainer.tokens.pack import PackPlan
from trainer.verbs.bench import clock
from trainer.verbs.bench.engines.start import same_start
from trainer.verbs.bench.task import Amount, History, Task, amount, history_of


@dataclass
class OurTraining:
    """A loop as `trainer train` has it before its first step."""

    loop: RecipeLoop
    model: PreTrainedModel
    amount: Amount
    precision: str
    settings: dict[str, object]
    reference_seconds: float = 0.0

    def train(self) -> History:
        """Train to the end."""
        self.loop.train()
        return history_of(self.loop.state.log_history)


def build(task: Task, variant: str) -> OurTraining:
    """Load model, rows and packs, and build the loop; checkpoints are off, as for every engine.

    The loop is built twice: at first the log-probabilities of the reference are not in the cache, then they are. The
    difference is what they cost.
    """
    pack_dir = task.part / "run" / "pack"
    recipe = load_recipe(task.part / "recipe.yaml", sets=_sets(task, pack_dir))
    scratch = Path(tempfile.mkdtemp(dir=task.folder))
    job = Job(recipe, pack_dir, scratch, scratch / "cache", weights={"model": "random"}, say=_silent)
    worker.start_processes(None)
    set_seed(recipe.seed)
    types = precision(recipe.model, recipe.adapter)
    model, _ = assembly.build_model(job, types, _silent)
    same_start(model)
    inputs = read_inputs(job)
    engine = assembly.build_engine(job, model, inputs, types.autocast, _silent)
    context = TrainingContext(job, model, engine, inputs, types, load_tokenizer(recipe.model, job.cache), _silent)
    plan = plan_batches(context, 1)
    # the first build computes the reference and caches it, the second reads it: the difference is its cost
    seconds = [_build_seconds(context, plan)[0]] if task.kind == "dpo" else []
    cached, loop = _build_seconds(context, plan)
    loop.args.save_strategy = SaveStrategy.NO
    rows = [row for item in order(plan.steps, recipe.seed) for row in inputs.plan[int(item)]]
    return OurTraining(
        loop,
        loop.model,
        amount(inputs.train, rows),
        str(types.autocast or types.weights).removeprefix("torch."),
        _described(plan, inputs, loop),
        max(0.0, sum(seconds) - cached) if seconds else 0.0,
    )


def _build_seconds(context: TrainingContext, plan: BatchPlan) -> tuple[float, RecipeLoop]:
    start = clock.now()
    loop, _ = assembly.build_loop(context, plan, StopSignals())
    return clock.now() - start, loop


def _described(plan: BatchPlan, inputs: Inputs, loop: RecipeLoop) -> dict[str, object]:
    levels = plan.memory.levels if isinstance(plan.memory, MemoryPlan) else ()
    return {
        "micro_batch_size": plan.steps.micro_batch_size,
        "accumulation": plan.steps.accumulation,
        "is_packed": inputs.is_packed,
        "attention": loop.model.config._attn_implementation,
        "gradient_checkpointing": described(levels) if levels else loop.args.gradient_checkpointing,
    }


def _silent(_: str) -> None:
    return None


def _sets(task: Task, pack_dir: Path) -> list[str]:
    """Return the overrides that give a step as many rows as the other engines take, counted in packs."""
    items = len(PackPlan.load(pack_dir / "packs.safetensors"))
    steps = 1 if task.is_check else _steps(items, task.size.rows / task.rows_per_step)
    return [f"train.global_batch_size={-(-items // steps)}", f"train.num_train_epochs={float(task.epochs)}"]


def _steps(items: int, target: float) -> int:
    """Return the number of steps nearest to the target that cuts the items evenly, else the target.

    Example:
        12 packs in about 5 steps: 4 steps of 3 packs, or 6 of 2.

        >>> _steps(12, 5.0), _steps(13, 5.0)
        (6, 5)
    """
    even = [steps for steps in range(1, items + 1) if items % steps == 0 and target / 2 <= steps <= 2 * target]
    return min(even, key=lambda steps: abs(np.log(steps / target))) if even else max(1, round(target))
