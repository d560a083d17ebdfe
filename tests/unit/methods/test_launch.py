"""How processes and cards are matched, with a machine that pretends to have cards."""

from __future__ import annotations

import pytest
import torch

from trainer.errors import HardwareError
from trainer.methods import launch
from trainer.methods.worker import start_processes
from trainer.recipe.train import LaunchSection


@pytest.fixture
def four_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(
    ("listed", "processes", "observed"),
    [(None, 1, "0"), (None, 4, "0,1,2,3"), ("3,1", 1, "3"), ("GPU-a,GPU-b", 2, "GPU-a,GPU-b")],
)
def test_each_process_has_one_card(
    listed: str | None, processes: int, observed: str, four_cards: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if listed:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert launch.visible_cards(processes) == observed


def test_auto_is_one_process_a_card_and_more_are_refused(four_cards: None) -> None:
    assert launch.num_processes(LaunchSection()) == 4
    assert launch.num_processes(LaunchSection(num_processes=2)) == 2
    with pytest.raises(HardwareError, match="num_processes is 5, 4 cards are visible"):
        launch.num_processes(LaunchSection(num_processes=5))


def test_one_process_that_sees_several_cards_is_refused(four_cards: None) -> None:
    with pytest.raises(HardwareError, match="one process sees 4 cards"):
        start_processes(None)


def test_strategies_for_cards_are_refused_on_the_cpu() -> None:
    for strategy in ("fsdp2", "zero3"):
        with pytest.raises(HardwareError, match="needs CUDA cards"):
            launch.accelerate_config(LaunchSection.model_validate({"strategy": strategy}), 2)
