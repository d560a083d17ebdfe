"""Define `export`: the delivered formats, and the limits of the proof that follows."""

from __future__ import annotations

from typing import Literal, assert_never, get_args

from pydantic import Field, model_validator

from trainer.recipe.base import Section

Format = Literal["adapter", "merged", "gguf", "bnb4", "fp8", "awq", "gptq"]
FORMATS: tuple[Format, ...] = get_args(Format)
Quantisation = Literal[
    "f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "q5_0", "q5_1",
    "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs",
]  # fmt: skip
"""What llama.cpp writes without a sample of text; the smaller iq types need one."""


class Quantised(Section):
    """Limits for formats with fewer than 16 bits a weight: gguf below f16, bnb4, fp8, awq and gptq."""

    max_mean_kl: float = Field(default=0.1, gt=0)
    """Largest mean divergence from the trained model, in nats a token."""
    min_top1_agreement: float = Field(default=0.85, ge=0, le=1)
    """Smallest share of positions with the same best token."""
    min_same_answers: float = Field(default=0.0, ge=0, le=1)
    """Smallest share of greedy answers that are word for word the same; 0 leaves it to the scores."""
    max_score_drop: float = Field(default=0.02, ge=0, le=1)
    """Most that the deciding metric may lose against the tuned answers of eval."""


class Verify(Section):
    """Limits of the proof that follows every export; beyond them nothing is published."""

    num_rows: int = Field(default=16, ge=1)
    """Held-out rows whose logits are compared."""
    num_answers: int = Field(default=32, ge=0)
    """Held-out questions that each format answers greedily."""
    max_logit_diff: float = Field(default=1e-4, gt=0)
    """Largest difference between the logits of adapter or float32 merge and those of the trained model.

    Models over 500M weights are compared in float32 arithmetic, where a tenth of the largest logit multiplies it.
    """
    max_mean_kl: float = Field(default=0.01, gt=0)
    """Largest mean divergence, in nats a token, that rounding to a 16-bit type may add."""
    max_kl: float | None = Field(default=None, gt=0)
    """Largest divergence at any one position; no limit by default."""
    min_top1_agreement: float = Field(default=0.95, ge=0, le=1)
    """Smallest share of positions with the same best token, of a 16-bit format."""
    min_same_answers: float = Field(default=0.75, ge=0, le=1)
    """Smallest share of greedy answers that are word for word the same, of a 16-bit format; of float32 all but one."""
    max_score_drop: float = Field(default=0.02, ge=0, le=1)
    """Most that the deciding metric may lose against the tuned answers of eval; one answer always may differ."""
    quantised: Quantised = Quantised()
    """Limits for formats with fewer than 16 bits a weight."""


class Merge(Section):
    """How the update gets into the weights."""

    base: Literal["auto", "plain", "dequantised"] = "auto"
    """What a qlora update is added to: the 16-bit base, or that base after its round trip through 4 bits.

    auto: both are made and compared with the model as it was trained, and the one that is nearer stays.
    """
    rounding: Literal["auto", "nearest", "stochastic"] = "auto"
    """auto: to nearest, and seeded stochastic where less than 0.9 of the update would survive that."""


class Gguf(Section):
    """Files for llama.cpp and Ollama."""

    quantisations: list[Quantisation] = Field(default=["q8_0"], min_length=1)
    """Types of the weights, one file each."""
    converter: str | None = None
    """Path of llama.cpp's convert_hf_to_gguf.py; by default the isolated package."""


class Compress(Section):
    """llm-compressor, which writes fp8, awq and gptq."""

    python: str | None = None
    """Interpreter of an environment with llm-compressor; by default the one that scripts/compress.sh makes."""
    num_rows: int = Field(default=128, ge=1)
    """Training rows that awq and gptq are calibrated on, chosen with the recipe's seed; never held-out ones."""
    max_length: int = Field(default=512, ge=1)
    """Tokens of each of them that are read, from its beginning."""


class Push(Section):
    """Upload to the hub, after every proof has passed; the token comes from HF_TOKEN."""

    repo_id: str = Field(pattern=r"^[\w.-]+/[\w.-]+$")
    """USER/NAME."""
    private: bool = True
    """Whether a new repository is private."""
    format: Format | None = None
    """What is uploaded; by default the first of `export.formats`."""


class ExportSection(Section):
    """What is delivered."""

    formats: list[Format] | Literal["auto"] = "auto"
    """auto: adapter, or merged for full fine-tuning."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the merged weights; auto: the one trained with."""
    max_shard_gb: float = Field(default=4.0, gt=0)
    """Largest file of merged weights, in GB."""
    merge: Merge = Merge()
    """How the update gets into the weights."""
    gguf: Gguf = Gguf()
    """Files for llama.cpp and Ollama."""
    compress: Compress = Compress()
    """llm-compressor, which writes fp8, awq and gptq."""
    verify: Verify = Verify()
    """Limits of the proof."""
    push: Push | None = None
    """Upload to the hub; never without this section."""

    @model_validator(mode="after")
    def what_is_pushed_is_exported(self) -> ExportSection:
        wanted = self.push.format if self.push else None
        if wanted is not None and self.formats != "auto" and wanted not in self.formats:
            raise ValueError(f"push.format is {wanted}, which `formats` leaves out")
        return self


def format_named(name: str) -> Format:
    """Return the format of an entry of verify.json: gguf of `gguf/q8_0`."""
    return next(format for format in FORMATS if format == name.partition("/")[0])


def library_of(format: Format) -> str:
    """Return the library that opens a format, as the hub names it."""
    match format:
        case "adapter":
            return "peft"
        case "gguf":
            return "gguf"
        case "merged" | "bnb4" | "fp8" | "awq" | "gptq":
            return "transformers"
        case _:
            assert_never(format)
