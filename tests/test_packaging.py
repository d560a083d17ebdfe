"""Check the parts of a clone, an image and a release: pins, scripts, Dockerfile, licence, unsafe calls."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = [ROOT / ".ci/run", *sorted((ROOT / "scripts").glob("*.sh"))]
# Older releases have a known vulnerability (CVE-2025-27516, CVE-2026-24747, CVE-2026-4372).
SECURITY_FLOORS = {"jinja2": "3.1.6", "torch": "2.10", "transformers": "5.3"}
# Optional, and not part of any tested install.
UNPINNED_EXTRAS = {"tensorboard"}


def constraint_lines() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def pins() -> dict[str, Version]:
    requirements = [Requirement(line) for line in constraint_lines()]
    return {canonicalize_name(r.name): Version(str(r.specifier).removeprefix("==")) for r in requirements}


def declared_requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    texts = [*PROJECT["dependencies"], *(t for name in extras if name not in UNPINNED_EXTRAS for t in extras[name])]
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    return [Requirement(text) for text in [*texts, *build]]


def project_files() -> list[Path]:
    """Return the files that git tracks or would add; without git, those of the project's folders."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True) if shutil.which("git") else None
    if listed is not None and listed.returncode == 0:
        paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    else:
        folders = [ROOT / name for name in ("trainer", "tests", "scripts", "recipes", "docs", ".ci")]
        paths = [*ROOT.glob("*"), *(path for folder in folders for path in folder.rglob("*"))]
    return sorted(path for path in paths if path.is_file() and "__pycache__" not in path.parts)


def is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def unsafe_calls(path: Path) -> list[str]:
    """Return `line: call` for each call that could run code from a file or a shell."""
    calls = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            keywords = {keyword.arg: keyword.value for keyword in node.keywords}
            if ast.unparse(node.func) == "torch.load" and not is_true(keywords.get("weights_only", ast.Constant(None))):
                calls.append(f"{node.lineno}: torch.load without weights_only=True")
            for name in ("trust_remote_code", "shell"):
                if is_true(keywords.get(name, ast.Constant(None))):
                    calls.append(f"{node.lineno}: {name}=True")
        if isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "trust_remote_code" and is_true(value):
                    calls.append(f"{node.lineno}: trust_remote_code: True")
    return calls


def dockerfile_instruction(name: str) -> str:
    """Return the arguments of the last instruction of that name; only the last one counts."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    return re.findall(rf"^{name}\s+(.*)$", text, flags=re.MULTILINE)[-1]


def test_dockerfile_has_no_lint_findings():
    hadolint = Path(sys.executable).with_name("hadolint")
    assert hadolint.is_file(), 'hadolint is missing: pip install -c constraints.txt -e ".[dev]"'
    result = subprocess.run([str(hadolint), "--no-color", str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_image_starts_under_an_init_as_an_ordinary_user():
    assert json.loads(dockerfile_instruction("ENTRYPOINT")) == ["tini", "--"]
    assert json.loads(dockerfile_instruction("CMD"))[0] == "trainer"
    assert dockerfile_instruction("USER") not in {"root", "0"}
    assert dockerfile_instruction("STOPSIGNAL") == "SIGTERM"


def test_image_writes_only_to_volumes_and_tmp():
    settings = dict(part.split("=", 1) for part in dockerfile_instruction("ENV").split())
    writable = [name for name in settings if name == "HOME" or name.endswith(("_HOME", "_DIR", "_RUNS", "_CACHE"))]
    assert len(writable) >= 7
    assert [n for n in writable if not re.match(r"/(hf|runs|tmp)(/|$)", settings[n])] == []
    assert json.loads(dockerfile_instruction("VOLUME")) == ["/hf", "/runs"]


def test_image_uses_exact_supported_python():
    bases = re.findall(r"^FROM python:(\d+\.\d+\.\d+)-slim", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert bases
    assert len(set(bases)) == 1
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(bases[0])


def test_image_context_names_existing_files():
    names = [n[1:] for n in (ROOT / ".dockerignore").read_text().splitlines() if n.startswith("!")]
    assert {"trainer", "recipes", "pyproject.toml", "constraints.txt"} <= set(names)
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("line", constraint_lines())
def test_constraint_is_an_exact_pin_that_every_index_can_serve(line):
    requirement = Requirement(line)
    assert requirement.url is None
    assert [specifier.operator for specifier in requirement.specifier] == ["=="]
    assert Version(next(iter(requirement.specifier)).version).local is None, "a local label such as +cpu"
    assert not requirement.extras


def test_constraints_hold_no_name_twice_and_no_installer():
    names = [canonicalize_name(Requirement(line).name) for line in constraint_lines()]
    assert sorted(set(names)) == sorted(names)
    assert not {"pip", "recipe-trainer"} & set(names)


@pytest.mark.parametrize("requirement", declared_requirements(), ids=str)
def test_declared_dependency_is_pinned_within_its_range(requirement):
    pinned = pins()
    assert canonicalize_name(requirement.name) in pinned
    assert requirement.specifier.contains(pinned[canonicalize_name(requirement.name)])


@pytest.mark.parametrize(("name", "floor"), SECURITY_FLOORS.items())
def test_range_and_pin_are_above_the_security_floor(name, floor):
    (requirement,) = [r for r in declared_requirements() if canonicalize_name(r.name) == name]
    lower = next(s.version for s in requirement.specifier if s.operator == ">=")
    assert Version(lower) >= Version(floor)
    assert pins()[name] >= Version(floor)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_script_parses_and_is_executable(script):
    subprocess.run(["bash", "-n", str(script)], check=True)
    assert os.access(script, os.X_OK)


@pytest.mark.parametrize("script", [s for s in SCRIPTS if s.name != "env.sh"], ids=lambda path: path.name)
def test_shell_script_stops_at_the_first_failure(script):
    assert "\nset -euo pipefail\n" in script.read_text()


def test_no_file_names_a_folder_of_the_machine_it_was_written_on():
    private = "/" + "work/"
    paths = [p for p in project_files() if private.encode() in p.read_bytes()]
    assert [str(path.relative_to(ROOT)) for path in paths] == []


def test_package_runs_no_code_from_files_or_shells():
    sources = [path for path in project_files() if path.suffix == ".py" and ROOT / "trainer" in path.parents]
    assert sources
    calls = [f"{path.relative_to(ROOT)}:{call}" for path in sources for call in unsafe_calls(path)]
    assert calls == []


@pytest.mark.parametrize(
    ("source", "is_unsafe"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, weights_only=True)", False),
        ("subprocess.run(command, shell=True)", True),
        ("load(path, trust_remote_code=True)", True),
        ("load(path, **{'trust_remote_code': True})", True),
        ("load(path, trust_remote_code=section.trust_remote_code)", False),
    ],
)
def test_unsafe_calls_are_seen(tmp_path, source, is_unsafe):
    path = tmp_path / "module.py"
    path.write_text(source)
    assert bool(unsafe_calls(path)) == is_unsafe


def test_licence_is_apache_2_with_our_name():
    text = (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
    assert "Copyright 2026 The recipe-trainer authors" in text


@pytest.mark.parametrize(("name", "distributed_type"), [("ddp", "MULTI_GPU"), ("fsdp2", "FSDP")])
def test_accelerate_configuration_loads(name, distributed_type):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(ROOT / f"recipes/accelerate/{name}.yaml"))
    assert config.distributed_type.value == distributed_type
    assert config.mixed_precision == "no"


def test_fsdp_options_are_known_to_accelerate():
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    options = vars(launch_command_parser().parse_args(["script.py"]))
    config = load_config_from_file(str(ROOT / "recipes/accelerate/fsdp2.yaml"))
    assert config.fsdp_config["fsdp_version"] == 2
    assert set(config.fsdp_config) <= set(options)
