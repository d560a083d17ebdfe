"""Kill it, fill the disk, damage its files: it says what happened, and going on gives the same weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.command import Project, Result, call, contents, finish, is_alive, kill_tree, tree, wait_for

pytestmark = pytest.mark.slow

STOP_S = 60
"""Less than a stop that waits for the limit of 100 s; more than the promise of 10 s, for machines under load."""
ADAPTER = Path("train/adapter/adapter_model.safetensors")


def prepared(finished: Project) -> Project:
    """Put a finished run back to where its training has not begun."""
    for name in ("train", "eval", "export", "report"):
        shutil.rmtree(finished.run / name)
    return finished


def stopped(finished: Project) -> Project:
    """Put a finished run back to where its training was killed after the last checkpoint."""
    for name in ("eval", "export", "report", "train/adapter"):
        shutil.rmtree(finished.run / name)
    (finished.run / "train/stage.json").unlink()
    return finished


def checkpoints(project: Project) -> list[str]:
    return sorted(path.name for path in (project.run / "train/checkpoints").glob("step_*"))


def trained_to(project: Project, step: int) -> bool:
    return any(name >= f"step_{step:06d}" for name in checkpoints(project))


def training(project: Project, *, step: int) -> subprocess.Popen[str]:
    """Start `trainer train` and wait for a checkpoint of a step."""
    process = project.start("train", str(project.recipe))
    wait_for(lambda: trained_to(project, step), process)
    return process


def all_end(members: list[int]) -> bool:
    """Wait at most ten seconds for killed processes: under load the kernel takes its time."""
    deadline = time.monotonic() + 10
    while any(is_alive(member) for member in members):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def losses(project: Project) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (project.run / "train/metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def same_training(project: Project, another: Project) -> None:
    assert (project.run / ADAPTER).read_bytes() == (another.run / ADAPTER).read_bytes()
    assert losses(project) == losses(another)


def failed(result: Result, code: int, *parts: str) -> None:
    assert result.code == code, result.text
    assert "error:" in result.err and "fix:" in result.err and "Traceback" not in result.text, result.text
    for part in parts:
        assert part in result.text


# Signals


def test_killing_everything_loses_nothing(finished: Project, finished_run: Project) -> None:
    project = prepared(finished)
    process = training(project, step=6)
    members = tree(process.pid)
    assert len(members) >= 3  # ours, accelerate's launcher, the training
    kill_tree(process.pid)
    assert finish(process).code == -signal.SIGKILL
    assert all_end(members)
    assert checkpoints(project) and not (project.run / "train/stage.json").exists()
    result = project.call("train", worker=True)
    assert result.code == 0 and "train: continued from step_0000" in result.out, result.text
    same_training(project, finished_run)


def test_sigterm_saves_and_leaves_no_process(finished: Project, finished_run: Project) -> None:
    project = prepared(finished)
    process = training(project, step=4)
    members = tree(process.pid)
    second = project.call("run")
    assert second.code == 4 and f"in use by process {process.pid}" in second.err
    process.terminate()
    result = finish(process)
    failed(result, 143, "stopped by signal 15 after step", "the state is saved", "the same command continues")
    assert not any(is_alive(member) for member in members)
    step = int(result.err.partition("after step ")[2].split()[0])
    assert 4 <= step < 24 and checkpoints(project)[-1] == f"step_{step:06d}"
    assert project.call("train", worker=True).code == 0
    same_training(project, finished_run)


def test_a_signal_while_loading_ends_the_training_at_once(finished: Project) -> None:
    project = prepared(finished)
    process = project.start("train", str(project.recipe))
    wait_for(lambda: (project.run / "train/started.json").is_file(), process)
    begin = time.monotonic()
    process.terminate()
    result = finish(process)
    assert time.monotonic() - begin < STOP_S
    assert result.code == 143, result.text
    facts = json.loads((project.run / "train/exit.json").read_text())
    assert facts["exit_code"] == 143
    assert "before the first step" in facts["message"] or "the state is saved" in facts["message"]


def test_sigterm_to_process_1_of_a_container_saves_and_ends_in_time(finished: Project) -> None:
    project = prepared(finished)
    unshare = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("may not make a PID namespace here")
    environment = os.environ | {"TRAINER_RUNS": str(project.runs), "CUDA_VISIBLE_DEVICES": ""}
    command = [*unshare, sys.executable, "-m", "trainer", "train", str(project.recipe)]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: trained_to(project, 4), process)
    begin = time.monotonic()
    os.kill(tree(process.pid)[1], signal.SIGTERM)  # process 1 of the namespace
    result = finish(process)
    assert time.monotonic() - begin < STOP_S
    failed(result, 143, "stopped by signal 15 after step", "the state is saved")


def test_ctrl_c_saves_too(finished: Project) -> None:
    project = prepared(finished)
    process = training(project, step=2)
    members = tree(process.pid)
    process.send_signal(signal.SIGINT)
    failed(finish(process), 130, "stopped by signal 2 after step")
    assert not any(is_alive(member) for member in members)


def test_a_launcher_that_dies_takes_its_training_along(finished: Project) -> None:
    project = prepared(finished)
    process = training(project, step=2)
    members = tree(process.pid)
    process.kill()
    finish(process)
    assert "step_000024" not in checkpoints(project)
    assert not any(is_alive(member) for member in members)


def test_a_killed_training_process_is_exit_5(finished: Project) -> None:
    project = prepared(finished)
    process = training(project, step=2)
    os.kill(tree(process.pid)[-1], signal.SIGKILL)
    failed(finish(process), 5, "was killed by signal 9", "out of memory", "the same command continues")


# Checkpoints


def test_killed_between_the_last_checkpoint_and_the_end(finished: Project, finished_run: Project) -> None:
    assert stopped(finished).call("train", worker=True).code == 0
    same_training(finished, finished_run)


@pytest.mark.parametrize("how", ["truncated", "flipped", "missing", "half-written"])
def test_a_damaged_checkpoint_is_passed_over_by_name(finished: Project, finished_run: Project, how: str) -> None:
    project = stopped(finished)
    newest, older = sorted((project.run / "train/checkpoints").glob("step_*"))[::-1]
    path = newest / ("adapter_model.safetensors" if how == "flipped" else "optimizer.pt")
    data = path.read_bytes()
    if how == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped":
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    elif how == "missing":
        path.unlink()
    else:  # as a kill inside a save leaves it
        newest.rename(newest.parent / ".staged")
    result = project.call("train", worker=True)
    assert result.code == 0, result.text
    assert f"continued from {older.name}" in result.out
    if how != "half-written":
        assert f"{newest.name} is passed over: {path.name} is {'missing' if how == 'missing' else 'damaged'}" in (
            result.out
        )
    same_training(project, finished_run)


def test_a_checkpoint_can_be_chosen(finished: Project, finished_run: Project) -> None:
    project = stopped(finished)
    older = checkpoints(project)[0]
    result = project.call("train", "--resume-from", older, worker=True)
    assert result.code == 0, result.text
    same_training(project, finished_run)


def test_an_unknown_or_damaged_choice_is_refused(finished: Project) -> None:
    project = stopped(finished)
    before = contents(project.run / "train/checkpoints")
    failed(project.call("train", "--resume-from", "step_000999", worker=True), 4, "no checkpoint step_000999")
    (project.run / "train/checkpoints/step_000024/scheduler.pt").unlink()
    result = project.call("train", "--resume-from", "step_000024", worker=True)
    failed(result, 4, "step_000024: scheduler.pt is missing", "step_000022")
    del before["step_000024/scheduler.pt"]
    assert contents(project.run / "train/checkpoints") == before


# Results that must not be used


def test_divergence_is_exit_7_and_never_saved(tmp_path: Path, tiny_model_dir: Path) -> None:
    from safetensors.numpy import load_file

    project = Project(tmp_path)
    tiny.write_recipe(
        tmp_path, model=tiny_model_dir, train={"learning_rate": 1e30, "max_grad_norm": 0, "save_steps": 1}
    )
    result = project.spawn("run", str(project.recipe))
    failed(result, 7, "training diverged at step", "lower train.learning_rate", "rows of steps", "checkpoint")
    assert not (project.run / "train/adapter").exists() and not (project.run / "train/stage.json").exists()
    for path in (project.run / "train").rglob("*.safetensors"):
        assert all((abs(tensor) < float("inf")).all() for tensor in load_file(path).values()), path
    lines = [json.loads(line) for line in (project.run / "train/metrics.jsonl").read_text().splitlines()]
    assert lines and all(abs(line["loss"]) < float("inf") for line in lines)


def test_nan_in_the_base_weights_is_told_by_name_not_as_a_rate(tmp_path: Path, tiny_model_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    project = Project(tmp_path)
    tiny.write_recipe(tmp_path, model=model, train={"max_steps": 3})
    result = project.spawn("run", str(project.recipe))
    assert result.code == 7 and "model.norm.weight" in result.text, result.text
    assert "lower train.learning_rate" not in result.text


# The disk


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 72 MiB."""
    folder = tmp_path_factory.mktemp("disk")
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=72m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mount.returncode:
        pytest.skip("may not mount a tmpfs here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, *, leave: int) -> None:
    """Write zeros until only some bytes are free."""
    free = shutil.disk_usage(folder).free
    if free > leave:
        (folder / "filler").write_bytes(bytes(free - leave))


def test_a_disk_that_fills_up_while_training_is_exit_5(
    finished: Project, finished_run: Project, small_disk: Path
) -> None:
    project = prepared(finished).copied_to(small_disk / "project")
    fill(small_disk, leave=100_000)
    failed(project.call("train", worker=True), 5, "no space left", "--run-dir")
    assert json.loads((project.run / "train/exit.json").read_text())["exit_code"] == 5
    assert not (project.run / "train/checkpoints/.staged").exists()
    (small_disk / "filler").unlink()
    assert project.call("train", worker=True).code == 0
    same_training(project, finished_run)


@pytest.mark.parametrize("verb", ["data", "pack", "export"])
def test_a_full_disk_is_exit_5_and_nothing_half_made_stays(finished: Project, small_disk: Path, verb: str) -> None:
    project = finished.copied_to(small_disk / "project")
    before = contents(project.run / verb)
    fill(small_disk, leave=8_000)
    failed(project.call(verb, "--force"), 5, "no space left")
    assert contents(project.run / verb) == before


def test_training_does_not_begin_without_space(finished: Project, small_disk: Path) -> None:
    project = prepared(finished).copied_to(small_disk / "project")
    fill(small_disk, leave=20 << 20)
    failed(project.call("train"), 5, "no space left", "--run-dir")


# Wrong inputs


def simple(folder: Path, **changes: Any) -> Project:
    tiny.write_recipe(folder, **changes)
    return Project(folder)


def test_a_model_folder_without_weights_is_exit_5(tmp_path: Path, tiny_model_dir: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    (model / "model.safetensors").unlink()
    failed(simple(tmp_path / "p", model=model).call("run"), 5, f"{model} holds no weights", "safetensors")
    (model / "config.json").unlink()
    failed(simple(tmp_path / "q", model=model).call("run"), 5, f"{model} is no model: no config.json")


def test_damaged_weights_are_exit_5(finished: Project, tiny_model_dir: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[: len(data) // 2])
    project = simple(tmp_path / "p", model=model)
    for verb in ("data", "pack"):
        assert project.call(verb).code == 0
    sizes = f"model.safetensors: {len(data) // 2} bytes, its header speaks of {len(data)}: truncated"
    failed(project.call("train", worker=True), 5, sizes)


def test_a_broken_row_is_exit_3_with_its_line(tmp_path: Path, tiny_model_dir: Path) -> None:
    project = simple(tmp_path, model=tiny_model_dir)
    path = tmp_path / "rows.jsonl"
    lines = path.read_text().splitlines()[:10]
    lines[6] = lines[6][:-5]
    path.write_text("\n".join(lines))
    failed(project.call("run"), 3, f"{path}:7: invalid_json")
    assert not (project.run / "data").exists()


@pytest.mark.parametrize("text", ["", "\n\n"])
def test_empty_data_is_exit_3(tmp_path: Path, tiny_model_dir: Path, text: str) -> None:
    project = simple(tmp_path, model=tiny_model_dir)
    (tmp_path / "rows.jsonl").write_text(text)
    failed(project.call("run"), 3, str(tmp_path / "rows.jsonl"), "the file is empty")


def test_missing_data_is_exit_3(tmp_path: Path, tiny_model_dir: Path) -> None:
    project = simple(tmp_path, model=tiny_model_dir)
    (tmp_path / "rows.jsonl").unlink()
    failed(project.call("run"), 3, "data.sources.0.path", str(tmp_path / "rows.jsonl"))


def test_a_row_without_answer_is_rejected_with_a_reason(tmp_path: Path, tiny_model_dir: Path) -> None:
    project = simple(tmp_path, model=tiny_model_dir)
    rows = tiny.rows()
    del rows[3]["messages"][1]
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    assert project.call("data").code == 0
    (line,) = [json.loads(text) for text in (project.run / "data/rejected.jsonl").read_text().splitlines()]
    assert (line["source"], line["line"]) == ("rows.jsonl", 4) and line["reason"]
    for row in rows:
        del row["messages"][1:]
    tiny.write_rows(tmp_path / "rows.jsonl", rows)
    failed(project.call("data"), 3, "rows.jsonl:1: ", line["reason"])


def test_rows_of_another_method_are_exit_3(tmp_path: Path, tiny_model_dir: Path) -> None:
    project = simple(tmp_path, model=tiny_model_dir)
    failed(project.call("run", "--set", "method.kind=dpo"), 3, "rows.jsonl:1", "method.kind")


@pytest.mark.parametrize(
    ("added", "parts"),
    [
        ("train2: {}\n", ("recipe.yaml:", "train2")),
        ("seed: many\n", ("recipe.yaml:", "seed")),
        ("name: again\n", ("recipe.yaml:", "name")),
        ("launch: {num_procesess: 2}\n", ("launch.num_procesess", "num_processes")),
        ("export: [\n", ("recipe.yaml:",)),
    ],
)
def test_a_wrong_recipe_is_exit_2_with_its_line(tmp_path: Path, added: str, parts: tuple[str, ...]) -> None:
    project = simple(tmp_path)
    with project.recipe.open("a") as file:
        file.write(added)
    failed(project.call("run"), 2, *parts)
    assert not project.runs.exists()


def test_a_missing_recipe_is_exit_2(tmp_path: Path) -> None:
    failed(call("run", str(tmp_path / "none.yaml")), 2, "none.yaml")
    failed(call("run", str(tmp_path)), 2, str(tmp_path))


def test_a_batch_that_cannot_be_divided_is_exit_2(finished: Project) -> None:
    result = finished.call(
        "train", "--set", "name=x", "--set", "train.global_batch_size=4", "--set", "train.micro_batch_size=3"
    )
    failed(result, 2, "recipe.yaml:", "train: micro_batch_size 3")


def test_a_bug_in_a_training_process_is_exit_1(finished: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project = prepared(finished)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.methods.batch_plan.plan_steps", lambda *_, **__: 1 / 0)
        result = project.call("train", worker=True)
    assert result.code == 1 and "ZeroDivisionError" in result.err
    assert json.loads((project.run / "train/exit.json").read_text())["exit_code"] == 1
    # what the launcher makes of it
    from trainer.methods import launch
    from trainer.methods.processes import Ended

    exit_path = project.run / "train/exit.json"
    monkeypatch.setattr(launch, "run", lambda *_: (exit_path.write_text(EXIT_1), Ended(1))[1])
    result = project.call("train")
    assert result.code == 1 and "a bug" in result.err and "Traceback" not in result.err
    monkeypatch.setattr(launch, "run", lambda *_: (exit_path.write_text(EXIT_1), Ended(137))[1])
    failed(project.call("train"), 5, "was killed by signal 9")
    assert json.loads(exit_path.read_text())["exit_code"] == 5


EXIT_1 = json.dumps({"exit_code": 1, "message": "a bug", "hint": "report it"})
