"""Describe a server and the run that it serves; look for packages in another Python."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.errors import HardwareError
from trainer.recipe import Recipe
from trainer.rundir import RunFolder

PYTHON_TIMEOUT_S = 60


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Return how a client on this machine reaches it.

        Example:
            >>> Address("0.0.0.0", 8000).url, Address("::", 8000).url
            ('http://127.0.0.1:8000', 'http://[::1]:8000')
        """
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"


@dataclass(frozen=True)
class Server:
    """A command that serves a run's model."""

    engine: str
    command: list[str]
    serves: str
    """What of the run it was given."""
    model: str
    """Name by which clients ask for the tuned model."""
    base: str | None = None
    """Name of the untuned model at the same address, where it is served too."""
    follows_schema: bool = True
    """It can hold answers to a JSON Schema (`response_format`)."""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServerContext:
    """What a server is made for."""

    recipe: Recipe
    run: RunFolder
    address: Address
    folder: Path
    """A folder for this server alone, which it is started in."""
    arguments: str
    """The recipe, as a fix repeats it."""
    passed: Sequence[str] = ()
    """Arguments for the server itself, after `--` on the command line; they stand last, so that they win."""

    @property
    def listen(self) -> list[str]:
        """The flags that every server knows."""
        return ["--host", self.address.host, "--port", str(self.address.port)]

    @property
    def template_kwargs(self) -> str | None:
        """Settings of the chat template as JSON; None where there are none."""
        kwargs = self.recipe.model.chat_template_kwargs
        return json.dumps(kwargs) if kwargs else None

    def passes(self, flag: str) -> bool:
        """Tell whether the user gives a flag of the server."""
        return any(argument == flag or argument.startswith(f"{flag}=") for argument in self.passed)


def has(package: str) -> bool:
    """Tell whether this Python can import a package."""
    return importlib.util.find_spec(package) is not None


_LOOK = """
import importlib.metadata as metadata, importlib.util as util, sys
spec = util.find_spec(sys.argv[1])
if not (spec and spec.origin):
    sys.exit(1)
for name in metadata.packages_distributions().get(sys.argv[1], [])[:1]:
    print(name, metadata.version(name))
"""


@dataclass(frozen=True)
class Package:
    """A module that a Python can import, and the distribution that brings it."""

    distribution: str
    version: str


def package_in(python: str, module: str, hint: str) -> Package | None:
    """Return what brings a module to another Python; None where it cannot be imported there.

    Raises:
        HardwareError: That Python cannot be started.
    """
    command = [python, "-I", "-c", _LOOK, module]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=PYTHON_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HardwareError(f"{python} cannot be started: {error}", hint=hint) from error
    if process.returncode:
        return None
    name, _, version = process.stdout.strip().partition(" ")
    return Package(name or module, version)


def json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
