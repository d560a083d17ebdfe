"""Run the loop that all methods share: item order, log-probabilities, checkpoints, validation.

transformers' Trainer runs the steps; its batches, its loss and the parts that hide faults are replaced here. A shape
of rows defines the counts of a batch, its loss, and the sums over validation rows.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TypeAlias

import torch
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerControl, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from trainer.engine import compile, current
from trainer.engine.batch import Batch, moved
from trainer.engine.optimizer.backward import InBackward
from trainer.engine.optimizer.choice import OptimizerChoice, optimizer_for
from trainer.engine.prepare import Engine
from trainer.errors import DivergedError
from trainer.methods import checkpoints
from trainer.methods.order import StreamSampler

VALIDATION_LOSS = "eval_loss"
LogLine: TypeAlias = dict[str, float]
"""One entry of a Trainer's log history: names, numbers, and the step."""


class RecipeLoop(Trainer):
    """Train in a fixed order, by losses of log-probabilities, with whole checkpoints.

    The collator's batches hold `inputs`, `targets` and `counts`. Counts are added up over all micro-batches and
    processes of a step and divide the loss, so that neither number changes a result.
    """

    stream: StreamSampler
    checkpoint_dir: Path
    keep: int
    engine: Engine
    trained: list[torch.nn.Parameter]
    """Weights that the optimizer updates, once training has begun."""
    steps_in_backward = False
    in_backward: InBackward | None = None
    loss_is_scaled_for_ga = True
    """For transformers: losses are shares of the whole step's mean already."""

    def __init__(self, *, engine: Engine, **settings: object) -> None:
        super().__init__(**settings)
        self.engine = engine
        self.model_accepts_loss_kwargs = True  # the same, for transformers before 5.20
        config = self.accelerator.unwrap_model(self.model).config.get_text_config()
        self.router_share = float(getattr(config, "router_aux_loss_coef", 0.0) or 0.0)

    def configure(self, *, stream: StreamSampler, checkpoint_dir: Path, keep: int) -> None:
        """Set the parts that the constructor of transformers has no parameters for."""
        self.stream = stream
        self.checkpoint_dir = checkpoint_dir
        self.keep = keep

    def loss(self, batch: Batch, log_probs: torch.Tensor, totals: torch.Tensor) -> torch.Tensor:
        """Return the batch's share of the step's loss.

        Args:
            batch: From the collator.
            log_probs: (N,) of its targets.
            totals: `counts` of the whole step.
        """
        raise NotImplementedError

    def measure(self, batch: Batch, log_probs: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return sums over the items of a validation batch, (measures,) float64; see `validation`.

        Args:
            batch: From the collator.
            log_probs: (N,) of its targets.
            weights: (items,) float64: 0 for items that only fill up a process, else 1.
        """
        raise NotImplementedError

    def validation(self, sums: torch.Tensor) -> dict[str, float]:
        """Return metrics from the sums of `measure` over all validation rows."""
        raise NotImplementedError

    def training_step(
        self, model: torch.nn.Module, inputs: Batch, num_items_in_batch: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Run a micro-batch forward and backward; return its share of the step's loss, on the device.

        transformers sets the mode of every module in each micro-batch, which takes milliseconds where each linear layer
        has an adapter, and under DeepSpeed rounds the reference's log-probabilities to the type of the weights.
        """
        if not self.model.training:
            model.train()
        # in the first step: accelerate has wrapped the model by now
        if not hasattr(self, "trained"):
            self._walk_once(model)
        # layers that transformers computes again in the backward pass ask for the segments there
        with current.of(inputs["inputs"].get("segments")):
            loss = self.compute_loss(model, inputs, num_items_in_batch=num_items_in_batch)
            options = {"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}  # losses are scaled already
            self.accelerator.backward(loss, **options)
        return loss.detach()

    def _walk_once(self, model: torch.nn.Module) -> None:
        """List the trained weights once, where transformers walks through all modules twice in every step."""
        self.trained = [weight for weight in model.parameters() if weight.requires_grad]
        if not self._is_sharded:
            model.zero_grad = self._forget_gradients

    def _forget_gradients(self, set_to_none: bool = True) -> None:
        for weight in self.trained:
            weight.grad = None

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        if self._is_sharded:  # by the wrapped model's own method
            return super()._clip_grad_norm(model)
        return self.accelerator.clip_grad_norm_(self.trained, self.args.max_grad_norm)

    @property
    def _is_sharded(self) -> bool:
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the micro-batch's share of the step's loss; a router's auxiliary loss is a mean over micro-batches."""
        assert not return_outputs, "validation is our own"
        log_probs, router_loss = self.engine.score(model, inputs)
        # loss of a step = sum over micro-batches and processes of (sum of this one's terms) / (count of the step)
        loss = self.loss(inputs, log_probs, num_items_in_batch)
        if router_loss is not None and self.router_share:
            num_micro_batches = self.current_gradient_accumulation_steps * self.accelerator.num_processes
            # a mean over tokens of one micro-batch, which cannot be divided by a count of the step
            loss = loss + self.router_share * router_loss / num_micro_batches
        return loss * self.accelerator.num_processes  # gradients are averaged over the processes

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> torch.Tensor:
        # (micro-batches, counts) -> (counts,): the divisors of the whole step, known before its first backward pass
        counts = torch.stack([batch["counts"].to(device) for batch in batch_samples]).sum(0)
        # token counts differ between processes: means of their means would weigh tokens unequally
        total: torch.Tensor = self.accelerator.reduce(counts, "sum") if self.args.world_size > 1 else counts
        return total

    def get_optimizer_cls_and_kwargs(
        self, args: TrainingArguments, model: torch.nn.Module | None = None
    ) -> OptimizerChoice:
        """Return the optimizer's class and settings; static in transformers, but called on an instance."""
        proposed = Trainer.get_optimizer_cls_and_kwargs(args, model)
        return optimizer_for(model, args.optim.value, args.seed, proposed)

    def create_optimizer(self, model: torch.nn.Module | None = None) -> torch.optim.Optimizer:
        """Create the optimizer; let it step in the backward pass where the batch plan says so."""
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        if self.steps_in_backward and self.in_backward is None:
            self.in_backward = InBackward(optimizer)
        return optimizer

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: torch.Tensor | None = None) -> torch.Tensor:
        return self.in_backward.take_norm() if self.in_backward else super()._get_grad_norm(model, grad_norm)

    def floating_point_ops(self, inputs: Batch) -> int:
        """Count nothing: the estimate of transformers knows neither adapters nor packs."""
        return 0

    def evaluate(
        self, eval_dataset: object = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return means over all validation rows of all processes, each row counted once."""
        dataset, num_rows = self.eval_dataset, len(self.eval_dataset)
        world, size = self.args.world_size, self.args.per_device_eval_batch_size
        # process p takes rows p, p + world, ...; all take equally many, so rows at the end wrap around, uncounted
        rows = range(self.args.process_index, -(-num_rows // world) * world, world)
        self.model.eval()
        # float64: a sum over 100,000 rows in float32 would lose digits that the number of processes then changes
        sums = torch.zeros((), dtype=torch.float64, device=self.args.device)
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            batch = moved(self.data_collator.collate([dataset[row % num_rows] for row in chunk]), self.args.device)
            weights = torch.tensor([row < num_rows for row in chunk], dtype=torch.float64)
            with torch.no_grad(), self.accelerator.autocast(), compile.paused():
                log_probs, _ = self.engine.score(self.model, batch)
            sums = sums + self.measure(batch, log_probs, weights.to(self.args.device))
        metrics = self.validation(self.accelerator.reduce(sums, "sum"))
        self.log(metrics)
        self.control: TrainerControl = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _get_train_sampler(self, train_dataset: object = None) -> StreamSampler:
        return self.stream

    def _get_output_dir(self, trial: object = None) -> str:
        return str(self.checkpoint_dir / ".staged")

    def _save_checkpoint(self, model: torch.nn.Module, trial: object = None) -> None:
        """Write to a staging folder, then publish; every process takes part, the first one renames."""
        self._refuse_non_finite()
        step = self.state.global_step
        staged = Path(self._get_output_dir()) / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if self.args.should_save:
            shutil.rmtree(staged.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            Trainer._save_checkpoint(self, model, trial)
        except Exception:
            shutil.rmtree(staged.parent, ignore_errors=True)  # on a full disk it would stay in the way
            raise
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (staged / "training_args.bin").unlink(missing_ok=True)  # a pickle that is never read
            checkpoints.publish(staged, self.checkpoint_dir / checkpoints.step_name(step))
            checkpoints.rotate(self.checkpoint_dir, keep=self.keep, best=best_step(self.state.log_history))
            shutil.rmtree(staged.parent, ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _refuse_non_finite(self) -> None:
        """Check the weights, and the losses since the last log line, with one read from the device."""
        trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        names = [*(f"weight {name}" for name in trained), "the loss since the last logged step"]
        # one boolean a tensor, stacked below: each read of its own would wait for the card
        flags = [_gathered(torch.isfinite(weight).all()) for weight in trained.values()]
        flags.append(torch.isfinite(self._tr_loss).all())
        for name, is_finite in zip(names, torch.stack(flags).tolist(), strict=True):
            if not is_finite:
                raise diverged(self.state.global_step, f"{name} is not finite")


def _gathered(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor whose parts may be spread over processes."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def diverged(step: int, problem: str) -> DivergedError:
    """Return the error for a loss, gradient or weight that is not finite."""
    return DivergedError(
        f"training diverged at step {step}: {problem}",
        hint="lower train.learning_rate (under a new name: --set name=NEW --set train.learning_rate=...), "
        "or look at the rows of that step",
    )


def validations(history: list[LogLine]) -> list[tuple[float, int]]:
    """Return (validation loss, step) from a Trainer's log history."""
    return [(line[VALIDATION_LOSS], int(line["step"])) for line in history if VALIDATION_LOSS in line]


def best_step(history: list[LogLine]) -> int | None:
    """Return the step with the lowest validation loss, the earliest of equals."""
    return min(validations(history))[1] if validations(history) else None
