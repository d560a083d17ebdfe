"""What the policy said about every answer before it was trained.

The reference of a preference method is the policy at step 0, whether it starts fresh, continues an adapter or trains
all weights. Its log-probabilities are computed once for a data set, packed and without gradients, and kept by
content: all epochs, resumed runs and sweeps over rates, betas and losses read the same numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from trainer.engine.batch import of_pairs
from trainer.engine.prepare import Engine
from trainer.methods.collate import moved
from trainer.methods.context import TrainingContext
from trainer.model import adapter as adapters
from trainer.model.load import commit
from trainer.recipe.model import LoraAdapter, QloraAdapter, four_bit_of, low_rank, start_of
from trainer.tokens.store import TokenStore

VERSION = 1
PACKAGES = ("peft", "torch", "transformers")
"""Their releases may change what a model computes."""
TOKENS_PER_BATCH = {"cpu": 4096, "cuda": 32768}
"""Nothing is kept for a backward pass, so that batches may be larger than in training."""


def reference_of(parts: TrainingContext, store: TokenStore, accelerator: Any) -> torch.Tensor:
    """Return what the policy at step 0 says about the pairs of a store, kept or computed; see `reference_log_probs`."""
    adapter = low_rank(parts.job.recipe.adapter)

    def compute() -> torch.Tensor:
        return reference_log_probs(
            parts.model,
            parts.engine,
            store,
            pad_id=parts.pad_id,
            accelerator=accelerator,
            is_fresh=adapter is not None and adapter.init_from is None,
            go_alone=parts.inputs.go_alone,
        )

    key = reference_key(store, _policy(parts))
    return remembered(parts.job.cache, key, compute, accelerator=accelerator, say=parts.say)


def _policy(parts: TrainingContext) -> dict[str, Any]:
    """Return all that decides what the policy at step 0 says; a fresh adapter changes nothing."""
    adapter, model = parts.job.recipe.adapter, parts.job.recipe.model
    four_bit, start = four_bit_of(adapter), start_of(adapter)
    of_four_bit = set(QloraAdapter.model_fields) - set(LoraAdapter.model_fields) | {"kind"}
    return {
        "weights": parts.job.weights,
        "commit": commit(model.name_or_path, model.revision),
        "start": adapters.settings(start) if start else None,
        "packages": {name: version(name) for name in PACKAGES},
        "quantised": four_bit.model_dump(include=of_four_bit) if four_bit else None,
        "float8_base": parts.job.recipe.train.float8_base,
        "types": [str(parts.types.weights), str(parts.types.autocast)],
        "device": next(parts.model.parameters()).device.type,
        "attention": parts.model.config._attn_implementation,
        "go_alone": parts.inputs.go_alone,
    }


def reference_log_probs(
    model: Any,
    engine: Engine,
    store: TokenStore,
    *,
    pad_id: int,
    accelerator: Any,
    is_fresh: bool = False,
    go_alone: bool = False,
) -> torch.Tensor:
    """Score every pair of a store with the model as it is now; the processes share the work.

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
    found = torch.zeros(len(store), 2, device=device)
    budget = 0 if go_alone else TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cuda"])
    batches = list(_batches(store, budget))
    for rows in batches[accelerator.process_index :: accelerator.num_processes]:
        batch = moved(of_pairs([store.pair(row) for row in rows], engine.layout, pad_id), device)
        with torch.no_grad(), accelerator.autocast(), model.disable_adapter() if is_fresh else nullcontext():
            log_probs, _ = engine.score(model, batch)
        sums = batch["targets"].sums(log_probs).view(-1, 2)
        found = found.to(sums.dtype)
        found[torch.tensor(rows, device=device)] = sums
    model.train(was_training)
    result: torch.Tensor = accelerator.reduce(found, "sum").cpu()
    return result


def _batches(store: TokenStore, budget: int) -> Iterator[list[int]]:
    """Take pairs from the longest to the shortest, so that padding, where there is any, is little."""
    lengths = store.lengths()
    taken: list[int] = []
    for row in np.argsort(-lengths, kind="stable").tolist():
        if taken and (len(taken) + 1) * int(lengths[taken[0]]) > budget:
            yield taken
            taken = []
        taken.append(row)
    if taken:
        yield taken


def reference_key(store: TokenStore, weights: dict[str, Any]) -> str:
    """Return what decides the numbers: the tokens, and `weights`, which says all about policy and precision."""
    digest = hashlib.sha256(json.dumps([VERSION, weights], sort_keys=True, default=str).encode())
    for array in (store.input_ids, store.offsets):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def remembered(
    folder: Path, key: str, compute: Callable[[], torch.Tensor], *, accelerator: Any, say: Callable[[str], None]
) -> torch.Tensor:
    """Return the numbers kept under `key`, or compute and keep them.

    A damaged file is computed again, and a folder that cannot be written is no error: it only saves time.
    """
    path = folder / "reference" / f"{key}.safetensors"
    kept = _read(path)
    # all processes compute or none: they need each other for it
    missing = accelerator.reduce(torch.tensor(int(kept is None), device=accelerator.device), "sum")
    if int(missing) == 0:
        assert kept is not None
        say(f"train: reference log-probabilities of {len(kept)} pairs from the cache")
        return kept
    found = compute()
    problem = _write(path, found) if accelerator.is_main_process else None
    say(f"train: reference log-probabilities of {len(found)} pairs computed once")
    if problem:
        say(f"train: they are not kept for other runs: {problem}")
    return found


def _write(path: Path, found: torch.Tensor) -> str | None:
    """Keep the numbers; return why they cannot be."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"reference": found}, staged)
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
