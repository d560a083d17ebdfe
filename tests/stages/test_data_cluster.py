"""The data stage over several tasks: the same bytes as on one machine, and the same errors."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.stages.test_data import qa, run_stage, word, written
from trainer.data.cluster import launch
from trainer.errors import DataError, HardwareError, StageError

FILES = ("train.jsonl", "validation.jsonl", "heldout.jsonl", "rejected.jsonl", "report.json")


@pytest.fixture
def two_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let two processes of datatrove read the rows."""
    pytest.importorskip("datatrove")
    settings = tmp_path / "cluster.yaml"
    settings.write_text("executor: local\ntasks: 2\noptions: {workers: 2}\n")
    monkeypatch.setenv(launch.VARIABLE, str(settings))


def rows(count: int) -> list[Any]:
    """Return rows with exact and near copies, conflicts, faults and personal data among them."""
    raw_rows: list[Any] = [qa(n, customer=f"c{n % 50}") for n in range(count)]
    sentence = " ".join(word(n) for n in range(60))
    raw_rows += [
        {"prompt": f"{sentence} {word(n)}", "completion": f"the answer {word(n % 3)} in words"} for n in range(30)
    ]
    raw_rows += [qa(3), "{broken", {"prompt": "", "completion": "x"}, {"prompt": "ask", "completion": "a@b-mail.com"}]
    return [*raw_rows, *({**qa(n), "completion": "another one"} for n in range(5))]


def digests(out: Path) -> dict[str, str]:
    return {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in FILES}


def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *paths: str, **section: Any) -> tuple[Path, Path]:
    """Run the stage on two tasks and on one machine."""
    apart, alone = tmp_path / "apart", tmp_path / "alone"
    run_stage(apart, *paths, **section)
    monkeypatch.delenv(launch.VARIABLE)
    run_stage(alone, *paths, **section)
    return apart, alone


def noted_jobs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that takes in the name of the function of each job on the cluster."""
    steps, jobs = importlib.import_module("trainer.data.cluster.steps"), []
    run_job = steps.run_job

    def noted(settings: launch.ClusterSettings, job: list[Any], folder: Path) -> None:
        jobs.append(job[1].function.__name__)
        run_job(settings, job, folder)

    monkeypatch.setattr(steps, "run_job", noted)
    return jobs


SECTION = {
    "split": {"validation": 0.1, "heldout": 0.2, "by": None},
    "pii": {"types": {"email": "redact"}},
    "max_rejected": 0.5,
}


def test_parts_of_one_file_give_the_bytes_of_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_tasks: None
) -> None:
    monkeypatch.setattr(launch, "FEW_CHUNKS", 1)  # near copies and word runs too
    jobs = noted_jobs(monkeypatch)
    prompt = "Please tell me how the old river town kept its stone bridge standing through so many winters"
    answer_text = (
        "The masons of the town packed the piers with gravel each autumn and cleared the ice before it could press."
    )
    copies = [
        {"prompt": prompt, "completion": answer_text},
        {"prompt": prompt + "??", "completion": "- " + answer_text + " -"},
    ]
    path = written(tmp_path / "a.jsonl", [*rows(3300), *copies])
    apart, alone = both(tmp_path, monkeypatch, path, **SECTION)
    assert {"prepare", "compare_chunk"} <= set(jobs)
    assert digests(apart) == digests(alone)
    reasons = json.loads((alone / "report.json").read_text())["rejected"]
    assert reasons["exact_duplicate"] and reasons["near_duplicate"] and reasons["invalid_json"]
    assert sorted(path.name for path in apart.iterdir()) == sorted(path.name for path in alone.iterdir())


def test_many_files_and_a_benchmark_give_the_bytes_of_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_tasks: None
) -> None:
    paths = [written(tmp_path / f"part{n}.jsonl", rows(300 + n)[n:]) for n in range(3)]
    bench = written(tmp_path / "bench.jsonl", [qa(9000)])
    section = SECTION | {"contamination": {"files": [bench], "action": "drop"}}
    apart, alone = both(tmp_path, monkeypatch, *paths, **section)
    assert digests(apart) == digests(alone)


def test_an_error_of_a_task_is_that_of_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_tasks: None
) -> None:
    path = written(tmp_path / "a.jsonl", rows(10))
    messages = []
    for name in ("apart", "alone"):
        with pytest.raises(DataError) as caught:
            run_stage(tmp_path / name, path, pii={"types": {"email": "error"}}, max_rejected=0.5)
        messages.append((str(caught.value), caught.value.hint))
        monkeypatch.delenv(launch.VARIABLE, raising=False)
    assert messages[0] == messages[1]
    assert not (tmp_path / "apart/cluster.partial").exists()


def test_pseudonyms_need_a_key_that_all_machines_know(tmp_path: Path, two_tasks: None) -> None:
    path = written(tmp_path / "a.jsonl", rows(10))
    with pytest.raises(StageError, match="pseudonymise"):
        run_stage(tmp_path / "out", path, pii={"action": "pseudonymise"})


def test_pseudonyms_of_one_key_are_the_same_in_all_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_tasks: None
) -> None:
    monkeypatch.setenv("DATA_KEY", "0123456789abcdef0123456789abcdef")
    # Not by the server that other tests have started: it does not know the key.
    Path(os.environ[launch.VARIABLE]).write_text("tasks: 2\noptions: {workers: 2, start_method: spawn}\n")
    paths = [written(tmp_path / f"part{n}.jsonl", rows(20 * n)) for n in (1, 2)]
    apart, alone = both(
        tmp_path, monkeypatch, *paths, pii={"action": "pseudonymise", "key_env": "DATA_KEY"}, max_rejected=0.5
    )
    assert digests(apart) == digests(alone)


def test_a_fault_of_the_program_in_a_task_is_told_without_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("datatrove")
    monkeypatch.setattr(launch, "FEW_CHUNKS", 1)
    workers = launch.ClusterWorkers(launch.ClusterSettings(tasks=2, options={"workers": 2}), None, tmp_path / "c")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="ZeroDivisionError"), workers:
        list(workers.map(one_over, [2, 1, 0]))


def one_over(number: int) -> float:
    return 1 / number


def test_results_that_are_missing_are_an_error(tmp_path: Path) -> None:
    pytest.importorskip("datatrove")
    steps = importlib.import_module("trainer.data.cluster.steps")
    expected_groups = [(0, "a"), (0, "c"), (1, "e")], [(0, "b"), (0, "d")]
    for rank, items in enumerate(expected_groups):
        list(steps.Keep(tmp_path).run(iter(items), rank, 2))
    results = steps.Results(tmp_path, 2)
    assert [list(results.of(number)) for number in range(3)] == [["a", "b", "c", "d"], ["e"], []]
    cut = tmp_path / "000000-000001.pickles"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    with pytest.raises(StageError, match="1 results are missing"):
        list(results.of(0))
    (tmp_path / "counts-000001.pickle").unlink()
    with pytest.raises(FileNotFoundError):
        steps.Results(tmp_path, 2)


def test_few_chunks_stay_on_this_machine(tmp_path: Path) -> None:
    pytest.importorskip("datatrove")
    settings = launch.ClusterSettings(tasks=2)
    with launch.ClusterWorkers(settings, None, tmp_path / "c") as workers:  # type: ignore[arg-type]
        assert list(workers.map(one_over, [2, 1])) == [0.5, 1.0]
        assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("text", ["tasks: 0", "executor: mainframe\ntasks: 2", "tasks: [", "- tasks"])
def test_a_wrong_file_of_settings_is_told_with_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(text)
    with pytest.raises(StageError, match=str(path)):
        launch.read_settings(path)


def test_without_the_extra_the_error_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name=name)

    monkeypatch.setattr(launch.importlib, "import_module", missing)
    with pytest.raises(HardwareError) as caught:
        launch.ClusterWorkers(launch.ClusterSettings(tasks=2), None, tmp_path)  # type: ignore[arg-type]
    assert "recipe-trainer[cluster]" in caught.value.hint


COMMANDS = {
    # The script is gone once sbatch has returned.
    "sbatch": """here=$(dirname "$0"); cp "${@: -1}" "$here/script"; touch "$here/running"
last=$(sed -n 's/#SBATCH --array=0-//p' "$here/script")
(for n in $(seq 0 "$last"); do
    SLURM_ARRAY_TASK_ID=$n RUN_OFFSET=0 SLURM_NODELIST=here bash "$here/script"
done; rm "$here/running") >"$here/out" 2>&1 &
echo Submitted batch job 7""",
    "srun": 'exec "${@: -2}"',
    "squeue": 'if [ -e "$(dirname "$0")/running" ]; then echo 7; fi',
    "scontrol": "echo here",
}


def put_on_path(folder: Path, monkeypatch: pytest.MonkeyPatch, **commands: str) -> None:
    folder.mkdir()
    for name, body in commands.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let datatrove find commands of Slurm's names, that run a job's tasks one after the other on this machine."""
    pytest.importorskip("datatrove")
    steps = importlib.import_module("trainer.data.cluster.steps")
    settings = tmp_path / "cluster.yaml"
    settings.write_text("executor: slurm\ntasks: 2\noptions: {partition: cpu, time: '00:10:00'}\n")
    monkeypatch.setenv(launch.VARIABLE, str(settings))
    monkeypatch.setattr(steps, "POLL_SECONDS", 0.2)
    put_on_path(tmp_path / "bin", monkeypatch, **COMMANDS)


def test_a_slurm_job_gives_the_bytes_of_one_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: None
) -> None:
    path = written(tmp_path / "a.jsonl", rows(1500))
    apart, alone = both(tmp_path, monkeypatch, path, **SECTION)
    assert digests(apart) == digests(alone)


def test_a_slurm_job_that_leaves_the_queue_without_a_result_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: None
) -> None:
    put_on_path(tmp_path / "dead", monkeypatch, sbatch="echo Submitted batch job 8", squeue="")
    path = written(tmp_path / "a.jsonl", rows(10))
    with pytest.raises(StageError, match="2 of 2 tasks"):
        run_stage(tmp_path / "out", path)
    assert (tmp_path / "out/cluster.partial/job-0/logs").is_dir()
    assert not (tmp_path / "out/cluster.partial/job-0/results").exists()


def test_options_that_an_executor_does_not_know_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slurm: None
) -> None:
    Path(os.environ[launch.VARIABLE]).write_text("tasks: 2\noptions: {partition: cpu}\n")
    path = written(tmp_path / "a.jsonl", rows(10))
    with pytest.raises(StageError, match="partition"):
        run_stage(tmp_path / "out", path)
