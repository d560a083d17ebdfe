"""Build a plain loop of transformers and PEFT: padded batches, the whole logits, AdamW."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PreTrainedModel

from trainer.tokens.arrays import Ints
from trainer.tokens.store import TokenStore
from trainer.verbs.bench import clock
from trainer.verbs.bench.engines.start import same_start
from trainer.verbs.bench.shapes import LEARNING_RATE, LORA_ALPHA, LORA_RANK
from trainer.verbs.bench.task import Amount, History, Task, amount

IGNORED = -100
BETA = 0.1  # the default of DPO in TRL and here

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Row = tuple[Ints, Ints]


@dataclass
class PlainTraining:
    """Model, optimizer and the padded micro-batches of every step."""

    model: PreTrainedModel
    steps: list[list[Batch]]
    references: list[list[torch.Tensor]] | None
    is_pairs: bool
    amount: Amount
    precision: str
    settings: dict[str, object]
    reference_seconds: float

    def train(self) -> History:
        """Train to the end."""
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
        history = History([], [])
        for number, batches in enumerate(self.steps):
            loss = 0.0
            # the loss of a step is a mean over all its tokens (or pairs): sum over micro-batches, then divide once
            count = sum(
                len(ids) // 2 if self.is_pairs else int((labels != IGNORED).sum()) for ids, _, labels in batches
            )
            for index, batch in enumerate(batches):
                part = self._loss(batch, number, index) / count
                part.backward()
                loss += float(part.detach())
            history.grad_norms.append(float(torch.nn.utils.clip_grad_norm_(weights, 1.0)))
            history.losses.append(loss)
            optimizer.step()
            optimizer.zero_grad()
        return history

    def _loss(self, batch: Batch, step: int, index: int) -> torch.Tensor:
        """Return the loss summed over tokens, or over pairs."""
        log_probs = token_log_probs(self.model, batch)
        if not self.is_pairs:
            return -log_probs.sum()
        reference = self.references[step][index] if self.references else reference_log_probs(self.model, batch)
        # DPO: -log sigmoid(beta ((log pi_c - log ref_c) - (log pi_r - log ref_r))); chosen rows come first, (2 B,)
        chosen, rejected = (log_probs.sum(1) - reference).chunk(2)
        return -F.logsigmoid(BETA * (chosen - rejected)).sum()


def build(task: Task, variant: str) -> PlainTraining:
    """Load the model (float32 on the CPU, bfloat16 on a card) and pad the rows."""
    store = task.store()
    device = "cuda" if clock.on_cuda() else "cpu"
    dtype = torch.bfloat16 if clock.on_cuda() else torch.float32
    base = AutoModelForCausalLM.from_pretrained(task.model, dtype=dtype, device_map={"": device})
    lora = LoraConfig(r=LORA_RANK, lora_alpha=LORA_ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    same_start(model)
    steps = _steps(task, store, device)
    references, seconds = None, 0.0
    if task.kind == "dpo" and task.accounting == "left_out":
        start = clock.now()
        references = [[reference_log_probs(model, batch) for batch in batches] for batches in steps]
        seconds = clock.now() - start
    model.train()
    settings: dict[str, object] = {"micro_rows": task.micro_rows, "gradient_checkpointing": False}
    name = str(dtype).removeprefix("torch.")
    rows = list(range(len(store))) * task.epochs
    return PlainTraining(model, steps, references, task.kind == "dpo", amount(store, rows), name, settings, seconds)


def _steps(task: Task, store: TokenStore, device: str) -> list[list[Batch]]:
    rows = list(range(len(store)))
    size, micro = task.rows_per_step, task.micro_rows
    epoch = []
    for low in range(0, len(rows), size):
        step = rows[low : low + size]
        parts = [step[start : start + micro] for start in range(0, len(step), micro)]
        epoch.append([_padded(_sequences(store, part, task), device) for part in parts])
    return epoch * task.epochs


def _sequences(store: TokenStore, rows: list[int], task: Task) -> list[Row]:
    """Return (ids, mask) of conversations, or of all chosen and then all rejected sides of pairs."""
    if task.kind == "sft":
        return [store.row(row) for row in rows]
    return [
        (np.concatenate([pair[0], pair[side]]), np.repeat([0, 1], [len(pair[0]), len(pair[side])]))
        for side in (1, 2)
        for pair in map(store.pair, rows)
    ]


def _padded(rows: list[Row], device: str) -> Batch:
    """Return ids, attention mask and labels, each (B, S) int64."""
    width = max(len(ids) for ids, _ in rows)
    batch = np.zeros((3, len(rows), width), dtype=np.int64)
    batch[2] = IGNORED
    for index, (ids, mask) in enumerate(rows):
        batch[0, index, : len(ids)] = ids
        batch[1, index, : len(ids)] = 1
        batch[2, index, : len(ids)] = np.where(mask, ids, IGNORED)
    ids, attention, labels = torch.from_numpy(batch).to(device)
    return ids, attention, labels


def token_log_probs(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the log-probability of each trained token, (B, S - 1) float32, 0 where not trained."""
    ids, attention, labels = batch
    # position t predicts token t + 1
    logits = model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1].float()
    losses = F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="none", ignore_index=IGNORED)
    return -losses.view(len(ids), -1)


def reference_log_probs(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the log-probability of each answer without the adapter, (B,) float32."""
    with torch.no_grad(), model.disable_adapter():
        return token_log_probs(model, batch).sum(1)
