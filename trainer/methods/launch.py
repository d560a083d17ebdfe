"""Start `accelerate launch` with a configuration of its own, and bring the real exit code back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from trainer.errors import HardwareError, InterruptedRunError
from trainer.methods.processes import Ended, run
from trainer.recipe.train import LAUNCHED, LaunchSection


class WorkerExit(TypedDict):
    """Keys of `exit.json`, which the first worker writes."""

    exit_code: int
    message: str
    hint: str


def num_processes(section: LaunchSection) -> int:
    """Return the number of processes on this machine.

    Raises:
        HardwareError: The recipe asks for more than there are cards.
    """
    cards = torch.cuda.device_count()
    if section.num_processes == "auto":
        return max(1, cards)
    if cards and section.num_processes > cards:
        raise HardwareError(
            f"launch.num_processes is {section.num_processes}, {cards} cards are visible",
            hint=f"--set launch.num_processes={cards}, or check CUDA_VISIBLE_DEVICES",
        )
    return section.num_processes


def accelerate_config(section: LaunchSection, processes: int) -> dict[str, object]:
    """Return a configuration for accelerate, in place of the user's default one.

    Raises:
        HardwareError: The strategy does not work here.
    """
    on_cuda = torch.cuda.is_available()
    config: dict[str, object] = {
        "compute_environment": "LOCAL_MACHINE",
        "distributed_type": "MULTI_GPU" if processes > 1 else "NO",
        "num_machines": 1,
        "num_processes": processes,
        "mixed_precision": "no",
        "use_cpu": False,
        "main_training_function": "main",
    }
    if section.strategy in ("fsdp2", "zero3") and not on_cuda:
        raise HardwareError(f"launch.strategy {section.strategy} needs CUDA cards", hint="--set launch.strategy=ddp")
    if section.strategy == "fsdp2":
        config["distributed_type"] = "FSDP"
        config["fsdp_config"] = {
            "fsdp_version": 2,
            "fsdp_auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "fsdp_reshard_after_forward": True,
            "fsdp_state_dict_type": "FULL_STATE_DICT",
            "fsdp_cpu_ram_efficient_loading": True,
        }
    if section.strategy == "zero3":
        config["distributed_type"] = "DEEPSPEED"
        config["deepspeed_config"] = {"zero_stage": 3, "zero3_init_flag": True, "zero3_save_16bit_model": True}
    return config


def launch(
    section: LaunchSection, run_dir: Path, *, accept: list[str], resume_from: str | None, exit_path: Path
) -> WorkerExit:
    """Run `accelerate launch -m trainer train RUN` to its end and return the contents of `exit.json`.

    Raises:
        HardwareError: A process was killed, or the launcher itself failed.
        InterruptedRunError: A signal came before any step was taken.
    """
    processes = num_processes(section)
    config_path = Path(section.accelerate_config) if section.accelerate_config else exit_path.parent / "accelerate.json"
    if section.accelerate_config and not config_path.is_file():
        raise HardwareError(f"launch.accelerate_config: no such file: {config_path}", hint="correct the path")
    if not section.accelerate_config:
        config_path.write_text(json.dumps(accelerate_config(section, processes), indent=2))
    exit_path.unlink(missing_ok=True)
    command = [sys.executable, "-m", "trainer.methods.launch", "--config_file", str(config_path)]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, _cores() // processes))
    command += ["--num_cpu_threads_per_process", threads]
    if processes > 1:
        command += ["--main_process_port", "0"]
    command += ["-m", "trainer", "train", str(run_dir.absolute())]
    command += [part for name in accept for part in ("--accept", name)]
    command += ["--resume-from", resume_from] if resume_from else []
    ended = run(command, _environment(processes, threads))
    facts: WorkerExit | None = json.loads(exit_path.read_text()) if exit_path.is_file() else None
    return _checked(ended, facts)


def _checked(ended: Ended, facts: WorkerExit | None) -> WorkerExit:
    """Return what the first worker wrote, where it is the truth.

    Raises:
        HardwareError: Processes were killed, or the launcher itself failed.
        InterruptedRunError: A signal came before the first worker had begun.
    """
    code = ended.code
    was_killed = code == 128 + signal.SIGKILL or bool(ended.killed)
    # errors of the other processes follow from a killed one
    if facts and not (was_killed and facts["exit_code"] == 1):
        return facts
    if ended.stopped_by and ended.killed:
        why = "a second signal" if ended.is_hurried else f"no answer to signal {ended.stopped_by}"
        raise HardwareError(
            f"the training was killed after {why}: {', '.join(ended.killed)}; steps since the last checkpoint are lost",
            hint="the same command continues from the last checkpoint",
        )
    if ended.stopped_by:
        raise InterruptedRunError(
            f"stopped by signal {ended.stopped_by} before the model was loaded; nothing is lost",
            hint="the same command continues",
            exit_code=128 + ended.stopped_by,
        )
    how = f"was killed by signal {code - 128}" if code > 128 else f"ended with code {code}"
    raise HardwareError(
        f"a training process {how} without a word; signal 9 is often the kernel, out of memory",
        hint="see the lines above; the same command continues from the last checkpoint",
    )


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _environment(processes: int, threads: str) -> dict[str, str]:
    environment = dict(os.environ)
    environment["PYTHONSAFEPATH"] = "1"  # a folder `trainer/` in the working directory would shadow this package
    environment[LAUNCHED] = str(processes)
    environment["OMP_NUM_THREADS"] = threads
    if torch.cuda.is_available():
        environment["CUDA_VISIBLE_DEVICES"] = visible_cards(processes)
    else:
        environment["ACCELERATE_USE_CPU"] = "true"
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    return environment


def visible_cards(processes: int) -> str:
    """Return as many cards as there are processes.

    In a process that sees two cards, transformers would use DataParallel and so multiply the recipe's batch.
    """
    variable = os.environ.get("CUDA_VISIBLE_DEVICES")
    cards = variable.split(",") if variable else [str(index) for index in range(torch.cuda.device_count())]
    return ",".join(cards[:processes])


def accelerate_launch() -> int:
    """Run `accelerate launch` without its tracebacks: the processes report their errors themselves.

    Returns:
        The exit code of the first process that failed, 128 + N when signal N ended it.
    """
    from accelerate.commands.launch import main  # noqa: PLC0415  heavy, and only for the process started here

    try:
        main()
    except subprocess.CalledProcessError as error:
        code = error.returncode
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
    except SignalException as error:
        code = -int(error.sigval)
    except KeyboardInterrupt:
        code = -signal.SIGINT
    else:
        return 0
    return int(code) if code > 0 else 128 - int(code)


if __name__ == "__main__":
    sys.exit(accelerate_launch())
