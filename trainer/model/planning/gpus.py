"""Describe graphics cards: those of this machine, and a table of others to plan for."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

MIB = 1 << 20
QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,compute_cap", "--format=csv,noheader,nounits")
QUERY_TIMEOUT_S = 10


@dataclass(frozen=True)
class Card:
    """Memory and rates of a card, or of a CPU."""

    name: str
    memory: int
    """Bytes, as the driver shows them."""
    flops: float | None = None
    """Multiplications and additions a second of dense bfloat16 matrices with float32 sums, by the data sheet."""
    bandwidth: float | None = None
    """Bytes a second between memory and processor, by the data sheet."""
    capability: tuple[int, int] | None = None
    """Compute capability; None: not known."""
    is_cuda: bool = True
    host_memory: int = sys.maxsize
    """Bytes that are free beside it, for layer inputs that wait there."""


# Memory as nvidia-smi shows it; rates from NVIDIA's data sheets, without sparsity, of the SXM form where there are two:
# A100 https://www.nvidia.com/en-us/data-center/a100/, H100 .../h100/, H200 .../h200/, L4 .../l4/, L40S .../l40s/;
# RTX 3090, 4090 and 5090: appendix of the architecture papers GA102, Ada and Blackwell RTX.
# Compute capability: https://developer.nvidia.com/cuda-gpus.
CARDS = {
    card.name: card
    for card in (
        Card("A100-40GB", 40960 * MIB, 312e12, 1.555e12, (8, 0)),
        Card("A100-80GB", 81920 * MIB, 312e12, 2.039e12, (8, 0)),
        Card("H100-80GB", 81559 * MIB, 989e12, 3.35e12, (9, 0)),
        Card("H200-141GB", 143771 * MIB, 989e12, 4.8e12, (9, 0)),
        Card("L4-24GB", 23034 * MIB, 121e12, 0.3e12, (8, 9)),
        Card("L40S-48GB", 46068 * MIB, 362e12, 0.864e12, (8, 9)),
        Card("RTX3090-24GB", 24576 * MIB, 71e12, 0.936e12, (8, 6)),
        Card("RTX4090-24GB", 24564 * MIB, 165.2e12, 1.008e12, (8, 9)),
        Card("RTX5090-32GB", 32607 * MIB, 209.5e12, 1.792e12, (12, 0)),
    )
}


def installed_cards() -> list[Card]:
    """Return the cards that nvidia-smi shows; none where there is no driver."""
    try:
        run = subprocess.run(QUERY, capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [card_of_line(line) for line in run.stdout.splitlines() if line.count(",") in (1, 2)]


def card_of_line(line: str) -> Card:
    """Return the card of one line of nvidia-smi, with the rates of the table.

    Example:
        >>> card = card_of_line("NVIDIA H100 80GB HBM3, 81559, 9.0")
        >>> card.memory == 81559 * MIB, card.flops, card.capability
        (True, 989000000000000.0, (9, 0))
    """
    name, mebibytes, *capability_parts = (part.strip() for part in line.split(","))
    memory = int(mebibytes) * MIB
    listed = listed_card(name, memory)
    numbers = [int(part) for part in "".join(capability_parts).split(".") if part.isdigit()]
    capability = (numbers[0], numbers[1]) if len(numbers) == 2 else None
    return Card(name, memory, *((listed.flops, listed.bandwidth) if listed else (None, None)), capability)


def listed_card(name: str, memory: int) -> Card | None:
    """Return the table's card with this name whose memory is about the same."""
    plain = name.upper().replace(" ", "").replace("GEFORCE", "").replace("NVIDIA", "")
    if "PCIE" in plain or "NVL" in plain or "LAPTOP" in plain:
        return None  # other rates under the same name
    # `H100 80GB HBM3` and `A100-SXM4-40GB` both begin with the chip
    words = plain.replace("-", " ").replace("80GB", " ").replace("40GB", " ").split()
    return next(
        (
            card
            for card in CARDS.values()
            if words and words[0] == card.name.split("-")[0] and abs(card.memory - memory) < 0.1 * card.memory
        ),
        None,
    )


def host() -> Card:
    """Return this machine's CPU with its memory."""
    return Card("CPU", os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), is_cuda=False)


def host_free() -> int:
    """Return the bytes of this machine's memory that programs can still get."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
