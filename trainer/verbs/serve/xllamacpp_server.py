"""Run llama.cpp's own HTTP server from the package xllamacpp; started by path, in any Python with the package.

    python xllamacpp_server.py --model FILE --alias NAME --host H --port N [--chat-template-kwargs JSON] [--NAME VALUE]

Other flags set the fields of xllamacpp's CommonParams, such as `--n-ctx 8192`. SIGTERM and SIGINT end it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import signal
import sys
from typing import Any

SLOTS = 4
"""Questions answered at once, as llama-server does by itself."""
TRUE, FALSE = ("true", "on", "1"), ("false", "off", "0")


def main(arguments: list[str]) -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("model", "alias", "host", "chat-template-kwargs"):
        parser.add_argument(f"--{name}", required=name != "chat-template-kwargs")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--jinja", action="store_true", help="llama-server's flag; always on here")
    options, extra_flags = parser.parse_known_args(arguments)
    xllamacpp: Any = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.hostnames, params.port = [options.host], options.port
    params.use_jinja, params.n_parallel, params.kv_unified = True, SLOTS, True
    if options.chat_template_kwargs:
        values = json.loads(options.chat_template_kwargs)
        params.default_template_kwargs = {name: json.dumps(value) for name, value in values.items()}
    for name, value in _pairs(extra_flags):
        _set(params, name, value)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})  # its threads too: only the wait ends
    server = xllamacpp.Server(params)
    sys.stdout.write(f"listening on {server.listening_address}\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})


def _pairs(flags: list[str]) -> list[tuple[str, str]]:
    """Return the other flags as name and value."""
    names, values = flags[::2], flags[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        sys.exit(f"xllamacpp: flags come as --NAME VALUE, not as {' '.join(flags)}")
    return [(name[2:].replace("-", "_"), value) for name, value in zip(names, values, strict=True)]


def _set(params: Any, name: str, text: str) -> None:
    """Set a field of CommonParams from text, in the type that it has; `cpuparams.n_threads` is a field of a field."""
    *folders, last = name.split(".")
    for folder in folders:
        params = getattr(params, folder, None)
    current = getattr(params, last, None)
    value: Any
    match current:
        case bool() if text.lower() in (*TRUE, *FALSE):
            value = text.lower() in TRUE
        case bool():
            sys.exit(f"xllamacpp: --{name} is true or false, not {text!r}")
        case int() | float() | str():
            value = type(current)(text)
        case _:
            sys.exit(f"xllamacpp: no field of CommonParams that takes text is named {name!r}")
    setattr(params, last, value)


if __name__ == "__main__":
    main(sys.argv[1:])
