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
    "exclude_modules",
    "experts",
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
    exclude_modules: list[str] = Field(default_factory=list)
    """Layers of `target_modules` that get none: ends of their names, or regular expressions of whole names."""
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
