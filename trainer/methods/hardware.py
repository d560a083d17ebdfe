"""Measure the card that a model is on, and agree on one answer over all processes."""

from __future__ import annotations

import os
from dataclasses import replace

import torch

from trainer.model.planning import gpus
from trainer.model.planning.predictor import RESERVE_CUDA

HOST_SHARE = 0.8
"""Share of the host's free memory for layer inputs; the data and the page cache need the remainder."""


def lowest(values: list[float], device: torch.device) -> list[float]:
    """Return the lowest of each value over all processes, so that all of them decide alike."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(tensor, op=torch.distributed.ReduceOp.MIN)
    minima: list[float] = tensor.tolist()
    return minima


def card_of(model: torch.nn.Module) -> gpus.Card:
    """Return the card that a model is on, with the lowest numbers of all processes; or the CPU."""
    device = next(model.parameters()).device
    card = local_card(device)
    numbers = [float(card.memory), float(card.host_memory), card.flops or 0.0, card.bandwidth or 0.0]
    memory, host, flops, bandwidth = lowest(numbers, device)
    return replace(card, memory=int(memory), flops=flops or None, bandwidth=bandwidth or None, host_memory=int(host))


def local_card(device: torch.device) -> gpus.Card:
    """Return this process's card, with the memory that is free or already this process's; or the CPU."""
    if device.type != "cuda":
        return gpus.host()
    name, (free, total) = torch.cuda.get_device_name(device), torch.cuda.mem_get_info(device)
    listed = gpus.listed_card(name, total)
    # processes of one machine share its memory
    host = HOST_SHARE * gpus.host_free() / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    # a prediction counts the CUDA context, which is taken by now
    available = min(total, free + torch.cuda.memory_reserved(device) + RESERVE_CUDA)
    rates = (listed.flops, listed.bandwidth) if listed else (None, None)
    return gpus.Card(name, available, *rates, host_memory=int(host))
