"""Validate `config.json` of a base model: types and bounds of its fields, and that it names no code to fetch."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from trainer.model.foreign.files import MAX_DEPTH, ForeignFile, Json, shortened, type_name

COUNTS = {
    "num_hidden_layers": 10_000,
    "n_layer": 10_000,
    "n_layers": 10_000,
    "num_layers": 10_000,
    "hidden_size": 1_000_000,
    "n_embd": 1_000_000,
    "d_model": 1_000_000,
    "intermediate_size": 10_000_000,
    "moe_intermediate_size": 10_000_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
    "vocab_size": 100_000_000,
    "num_experts": 100_000,
    "num_local_experts": 100_000,
    "n_routed_experts": 100_000,
    "num_experts_per_tok": 100_000,
    "max_position_embeddings": 10_000_000_000,
}
"""Fields that count something, and far more than any published model has of it."""
NUMBERS = ("rms_norm_eps", "layer_norm_eps", "rope_theta", "initializer_range", "attention_dropout")
TEXTS = ("model_type", "hidden_act", "dtype", "torch_dtype", "transformers_version")
BOOLEANS = ("tie_word_embeddings", "use_cache", "is_encoder_decoder")
TEXT_LISTS = ("architectures", "layer_types")
OBJECTS = ("rope_scaling", "rope_parameters", "auto_map", "quantization_config")
ATTENTION = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal", "experts_implementation")
PLAIN_NAME = re.compile(r"[A-Za-z0-9_|]+")
"""Names of attention inside transformers; a kernel of the hub is `organisation/repository[:function]`."""

Check = Callable[[str, object], str | None]


def check_config(path: Path) -> Json:
    """Return the values of a `config.json` that transformers may be given.

    Raises:
        HardwareError: It is no JSON object, a field has a wrong type or an impossible value, or it names code.
    """
    file = ForeignFile(path)
    values = file.json_object()
    check_values(values, file)
    return values


def check_values(values: Json, file: ForeignFile) -> None:
    """Check the fields of a configuration, and of those inside it.

    Raises:
        HardwareError: A field has a wrong type or an impossible value, or names code of the hub.
    """
    if not isinstance(values.get("model_type"), str):
        raise file.wrong(
            f"model_type is {shortened(values.get('model_type'))}: the type of model is not named",
            "take config.json from the model's source; it names the type, such as llama",
        )
    _check_section(values, file, prefix="", depth=0)


def _check_section(values: Json, file: ForeignFile, *, prefix: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise file.wrong(f"{prefix}: nested deeper than {MAX_DEPTH} levels")
    for name, value in values.items():
        if name in ATTENTION:
            _refuse_kernel(name, value, file, prefix)
        elif (check := _CHECKS.get(name)) and value is not None and (problem := check(name, value)):
            raise file.wrong(f"{prefix}{name}: {problem}")
        if isinstance(value, dict):
            _check_section(value, file, prefix=f"{prefix}{name}.", depth=depth + 1)


def _refuse_kernel(name: str, value: object, file: ForeignFile, prefix: str) -> None:
    names = list(value.values()) if isinstance(value, dict) else [value]
    for entry in names:
        if entry is not None and not (isinstance(entry, str) and PLAIN_NAME.fullmatch(entry)):
            raise file.wrong(
                f"{prefix}{name}: {shortened(entry)} is no attention of transformers; code of the hub is never fetched",
                f"remove {name} from config.json, and set model.attn_implementation in the recipe where it matters",
            )


def _count(name: str, value: object) -> str | None:
    # some types have one number for each layer
    for number in value if isinstance(value, list) else [value]:
        if number is None:
            continue
        if isinstance(number, bool) or not isinstance(number, int):
            return f"a whole number is expected, not {type_name(number)} {shortened(number)}"
        if not -1 <= number <= COUNTS[name]:  # some types write 0 or -1 for "none"
            return f"{number} is impossible: at most {COUNTS[name]}"
    return None


def _number(_name: str, value: object) -> str | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return None if is_number else f"a number is expected, not {type_name(value)} {shortened(value)}"


def _of_type(kind: type, title: str) -> Check:
    def check(_name: str, value: object) -> str | None:
        return None if isinstance(value, kind) else f"{title} is expected, not {type_name(value)} {shortened(value)}"

    return check


def _text_list(_name: str, value: object) -> str | None:
    is_right = isinstance(value, list) and all(isinstance(entry, str) for entry in value)
    return None if is_right else f"a list of texts is expected, not {shortened(value)}"


_CHECKS: dict[str, Check] = {
    **dict.fromkeys(COUNTS, _count),
    **dict.fromkeys(NUMBERS, _number),
    **dict.fromkeys(TEXTS, _of_type(str, "text")),
    **dict.fromkeys(BOOLEANS, _of_type(bool, "a boolean")),
    **dict.fromkeys(TEXT_LISTS, _text_list),
    **dict.fromkeys(OBJECTS, _of_type(dict, "an object")),
}
