"""Define `model` and `adapter`: which base model is trained, and which of its weights move."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, assert_never

from pydantic import Field, PositiveFloat, field_validator, model_validator

from trainer.recipe.base import Section

OF_START_ADAPTER = (
    "r",
    "alpha",
    "dropout",
    "target_modules",
    "target_parameters",
    "exclude_modules",
    "layers_to_transform",
    "experts",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "use_rslora",
    "use_dora",
)
"""Settings of an adapter that `init_from` brings along."""


class ModelSection(Section):
    """The base model and its tokenizer."""

    name_or_path: str
    """Hub id, folder, `.gguf` file, or `package:NAME` for a model file that an installed Python package ships."""
    revision: str | None = None
    """Commit, tag or branch on the hub; pin a commit for a run that others can repeat."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights while training; auto: bfloat16 on CUDA, float32 on the CPU."""
    attn_implementation: Literal["auto", "sdpa", "eager", "flex_attention"] = "auto"
    """Attention of transformers; auto: sdpa."""
    chat_template: str | None = None
    """Jinja file that replaces the tokenizer's chat template; travels with every export."""
    chat_template_prefix: str | None = None
    """Jinja file in front of the chat template, such as recipes/templates/tools-as-text.jinja for tools that the
    template does not know; travels with every export."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Extra variables for the chat template, such as `enable_thinking: false`."""
    trust_remote_code: bool = False
    """Run Python code that the model repository ships; pin `revision` when it is on."""


class NoAdapter(Section):
    """Full fine-tuning: every weight of the base model moves."""

    kind: Literal["none"]
    """Full fine-tuning."""


class LoraAdapter(Section):
    """Low-rank adapters on a frozen base model (https://arxiv.org/abs/2106.09685). PEFT's names, less `lora_`."""

    kind: Literal["lora"]
    """Low-rank adapters."""
    r: int = Field(default=16, ge=1, le=1024)
    """Rank of the update."""
    alpha: PositiveFloat | Literal["auto"] = "auto"
    """Scale of the update is alpha / r; auto: twice the rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout in front of the adapter."""
    target_modules: str | list[str] = "all-linear"
    """Layers that get an adapter, as PEFT takes them: `all-linear`, a list of the ends of their names, or a regular
    expression that whole names match, such as `.*\\.layers\\.(1[6-9]|2\\d)\\..*_proj`."""
    target_parameters: list[str] = Field(default_factory=list)
    """Parameters outside linear layers that get an adapter as well, such as stacked experts: ends of their names, for
    example `mlp.experts.down_proj`."""
    exclude_modules: list[str] = Field(default_factory=list)
    """Layers of `target_modules` that get none: ends of their names, or regular expressions of whole names."""
    layers_to_transform: list[Annotated[int, Field(ge=0)]] = Field(default_factory=list)
    """Numbers of the decoder layers that get an adapter, from 0; empty: all of them."""
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(default_factory=dict)
    """Ranks of single layers, by the end of their names or a regular expression: `{down_proj: 64}`. Others have `r`."""
    alpha_pattern: dict[str, PositiveFloat] = Field(default_factory=dict)
    """As `rank_pattern`, for alpha."""
    experts: Literal["auto", "all", "none"] = "auto"
    """Adapters on experts whose matrices are stacked in one parameter, under `all-linear`. auto: on all of them, unless
    dropout or DoRA is on: PEFT has neither for such parameters. Routers never get an adapter by `all-linear`."""
    modules_to_save: list[str] = Field(default_factory=list)
    """Layers trained in full and saved beside the adapter."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(r) instead (https://arxiv.org/abs/2312.03732)."""
    use_dora: bool = False
    """Train magnitude apart from direction (https://arxiv.org/abs/2402.09353)."""
    init_from: str | None = None
    """Run or adapter folder to continue; r, alpha and modules come from it."""

    @field_validator("target_modules")
    @classmethod
    def pattern_compiles(cls, target_modules: str | list[str]) -> str | list[str]:
        if target_modules == "all-linear":
            return target_modules
        if isinstance(target_modules, str):
            if re.fullmatch(r"[\w-]+", target_modules):
                raise ValueError(f"{target_modules!r} alone is a pattern of whole names: write all-linear or a list")
            try:
                re.compile(target_modules)
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from None
        elif not target_modules:
            raise ValueError("names no layer: leave it out for all-linear")
        return target_modules

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def keys_compile(cls, pattern: dict[str, Any]) -> dict[str, Any]:
        for key in pattern:
            try:
                re.compile(key)
            except re.error as error:
                raise ValueError(f"{key!r} is no regular expression: {error}") from None
        return pattern

    @model_validator(mode="after")
    def start_adapter_decides(self) -> LoraAdapter:
        # Defaults pass although they are not used: a resolved recipe states every field.
        default = LoraAdapter.model_construct(kind="lora")
        stated = [name for name in OF_START_ADAPTER if getattr(self, name) != getattr(default, name)]
        if self.init_from is not None and stated:
            raise ValueError(f"{', '.join(stated)}: comes from the adapter in init_from; remove it here")
        return self


class QloraAdapter(LoraAdapter):
    """LoRA on a base model held in 4 bits (https://arxiv.org/abs/2305.14314). bitsandbytes' names for that part."""

    kind: Literal["qlora"]  # type: ignore[assignment]
    """Low-rank adapters on a 4-bit base model."""
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = "nf4"
    """Four-bit code of the frozen weights."""
    bnb_4bit_use_double_quant: bool = True
    """Quantise the scales as well: saves 0.4 bit per weight."""
    bnb_4bit_compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the matrix products; auto: that of `model.dtype`."""


Adapter = Annotated[NoAdapter | LoraAdapter | QloraAdapter, Field(discriminator="kind")]


def low_rank(adapter: Adapter) -> LoraAdapter | None:
    """Return the settings of low-rank weights beside frozen ones; None where all weights move."""
    match adapter:
        case LoraAdapter():
            return adapter
        case NoAdapter():
            return None
        case _:
            assert_never(adapter)


def four_bit_of(adapter: Adapter) -> QloraAdapter | None:
    """Return the settings of frozen weights in 4 bits; None where no weight is held so."""
    match adapter:
        case QloraAdapter():
            return adapter
        case NoAdapter() | LoraAdapter():
            return None
        case _:
            assert_never(adapter)


def start_of(adapter: Adapter) -> str | None:
    """Return the run or adapter folder that training continues."""
    match adapter:
        case LoraAdapter():
            return adapter.init_from
        case NoAdapter():
            return None
        case _:
            assert_never(adapter)
