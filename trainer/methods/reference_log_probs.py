"""Compute and cache the reference: log-probabilities of every answer before the policy is trained.

The reference of a preference method is the policy at step 0, whether it starts fresh, continues an adapter or trains
all weights. Its log-probabilities are computed once for a data set, packed and without gradients, and
cached by content: all epochs, resumed runs and sweeps over rates, betas and losses read the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainer.engine.batch import moved, of_pairs
from trainer.engine.prepare import Engine
from trainer.methods.context import TrainingContext
from trainer.model import adapter as adapters
from trainer.model.load import commit
from trainer.recipe.model import LoraAdapter, QloraAdapter, four_bit_of, low_rank, start_of
from trainer.tokens.store import TokenStore

VERSION = 1
PACKAGES = ("peft", "torch", "transformers")
"""Their releases may change what a model computes."""
TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32768}
"""Larger than in training: there is no backward pass."""


def reference_of(context: TrainingContext, store: TokenStore, accelerator: Accelerator) -> torch.Tensor:
    """Return the policy's log-probabilities at step 0, from the cache or computed; see `reference_log_probs`."""
    adapter = low_rank(context.job.recipe.adapter)

    def compute() -> torch.Tensor:
        return reference_log_probs(
            context.model,
            context.engine,
            store,
            pad_id=context.pad_id,
            accelerator=accelerator,
            is_fresh=adapter is not None and adapter.init_from is None,
            go_alone=context.inputs.go_alone,
        )

    key = reference_key(store, _policy(context))
    return cached(context.job.cache, key, compute, accelerator=accelerator, say=context.say)


def _policy(context: TrainingContext) -> dict[str, object]:
    """Return all that decides the policy's outputs at step 0; a fresh adapter does not change them."""
    adapter, model = context.job.recipe.adapter, context.job.recipe.model
    four_bit, start = four_bit_of(adapter), start_of(adapter)
    of_four_bit = set(QloraAdapter.model_fields) - set(LoraAdapter.model_fields) | {"kind"}
    return {
        "weights": context.job.weights,
        "commit": commit(model.name_or_path, model.revision),
        "start": adapters.settings(start) if start else None,
        "packages": {name: version(name) for name in PACKAGES},
        "quantised": four_bit.model_dump(include=of_four_bit) if four_bit else None,
        "types": [str(context.types.weights), str(context.types.autocast)],
        "device": next(context.model.parameters()).device.type,
        "attention": context.model.config._attn_implementation,
        "go_alone": context.inputs.go_alone,
    }


def reference_log_probs(
    model: torch.nn.Module,
    engine: Engine,
    store: TokenStore,
    *,
    pad_id: int,
    accelerator: Accelerator,
    is_fresh: bool = False,
    go_alone: bool = False,
) -> torch.Tensor:
    """Score every pair of a store with the model as it is now; each process takes part of the batches.

    Args:
        model: The policy at step 0.
        engine: Of that model.
        store: Preference rows.
        pad_id: Token that fills lines up.
        accelerator: Of accelerate.
        is_fresh: The model's adapter adds nothing yet, and is left out.
        go_alone: Give the model one pair at a time.

    Returns:
        (pairs, 2) in the type of the log-probabilities, on the CPU: summed over the tokens of the chosen and of the
        rejected answer.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    log_probs = torch.zeros(len(store), 2, device=device)  # (pairs, 2): chosen, rejected
    # 0 tokens: each batch is the one pair that always fits
    budget = 0 if go_alone else TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cuda"])
    batches = list(_batches(store, budget))
    for rows in batches[accelerator.process_index :: accelerator.num_processes]:
        batch = moved(of_pairs([store.pair(row) for row in rows], engine.layout, pad_id), device)
        with torch.no_grad(), accelerator.autocast(), model.disable_adapter() if is_fresh else nullcontext():
            of_tokens, _ = engine.score(model, batch)
        sums = batch["targets"].sums(of_tokens).view(-1, 2)  # (2n,) alternating -> (n, 2)
        # float64 where the model computes in it, known only after the first batch
        log_probs = log_probs.to(sums.dtype)
        log_probs[torch.tensor(rows, device=device)] = sums
    model.train(was_training)
    # every pair is nonzero in one process only
    result: torch.Tensor = accelerator.reduce(log_probs, "sum").cpu()
    return result


def _batches(store: TokenStore, budget: int) -> Iterator[list[int]]:
    """Yield pairs from the longest to the shortest, so that there is little padding."""
    lengths = store.lengths()
    batch: list[int] = []
    for row in np.argsort(-lengths, kind="stable").tolist():
        if batch and (len(batch) + 1) * int(lengths[batch[0]]) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def reference_key(store: TokenStore, policy: dict[str, object]) -> str:
    """Return the hash of the tokens, and of policy and precision as `_policy` describes them."""
    digest = hashlib.sha256(json.dumps([VERSION, policy], sort_keys=True, default=str).encode())
    # the loss mask follows from the offsets: answers are trained in whole, prompts never
    for array in (store.input_ids, store.offsets):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def cached(
    folder: Path, key: str, compute: Callable[[], torch.Tensor], *, accelerator: Accelerator, say: Callable[[str], None]
) -> torch.Tensor:
    """Return the numbers in the cache under `key`, or compute and save them.

    A damaged file is computed again. A folder that cannot be written is no error: the cache only saves time.
    """
    path = folder / "reference" / f"{key}.safetensors"
    log_probs = _read(path)
    # all processes compute or none: each takes part of the batches
    missing = accelerator.reduce(torch.tensor(int(log_probs is None), device=accelerator.device), "sum")
    if int(missing) == 0:
        assert log_probs is not None
        say(f"train: reference log-probabilities of {len(log_probs)} pairs from the cache")
        return log_probs
    log_probs = compute()
    problem = _write(path, log_probs) if accelerator.is_main_process else None
    say(f"train: reference log-probabilities of {len(log_probs)} pairs computed once")
    if problem:
        say(f"train: they are not kept for other runs: {problem}")
    return log_probs


def _write(path: Path, log_probs: torch.Tensor) -> str | None:
    """Save the numbers; return the reason where they cannot be saved."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"reference": log_probs}, staged)
        staged.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            staged.unlink(missing_ok=True)
        return str(error)
    return None


def _read(path: Path) -> torch.Tensor | None:
    try:
        return load_file(path)["reference"]
    except (OSError, SafetensorError, KeyError):
        return None
