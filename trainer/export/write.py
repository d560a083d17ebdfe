"""Write every format of an export from the results of training."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, assert_never

import torch
from transformers import GenerationConfig

from trainer.export.compress.compressor import DTYPES, Compressed, calibration_rows, write_compressed
from trainer.export.gguf.write import write_gguf, write_prompts
from trainer.export.merge import SURVIVAL_LIMIT, FourBit, MergePlan, MergeReport, merge_streaming
from trainer.export.request import Export
from trainer.export.sidecar import ServedPrompt
from trainer.export.write_transformers import plan_values, write_adapter, write_bnb4, write_full
from trainer.model.load import device
from trainer.recipe import Recipe
from trainer.recipe.export import Format
from trainer.recipe.model import LoraAdapter, NoAdapter, QloraAdapter, four_bit_of
from trainer.tokens.store import TokenStore

Base = Literal["plain", "dequantised"]


@dataclass
class WrittenExport:
    """A format as it was written."""

    export: Export
    dtype: str
    facts: dict[str, object] = field(default_factory=dict)
    """What writing it measured."""

    @property
    def name(self) -> str:
        """Return the name of the format, such as `gguf/q8_0`."""
        return self.export.name


@dataclass(frozen=True)
class Writer:
    """Writes formats, each into a folder of its name.

    Every method that writes raises HardwareError where this machine cannot: a library is missing or memory runs out.
    """

    recipe: Recipe
    base: Path
    """Folder of the base model."""
    trained: Path
    """Folder with the trained adapter, or the trained model."""
    adapter_facts: dict[str, object]
    """What was measured of the trained adapter; empty where all weights were trained."""
    folder: Path
    """Where the folders of the formats go."""
    merging: Path
    """Where merged weights are written, so that a killed merge goes on where it was."""
    train_tokens: Path
    """Token file of the training rows."""
    cache: Path
    """Folder for converted models."""
    weights_dtype: str
    """Type that the weights had while training."""
    base_hashes: dict[str, str]
    """Of the base's weight files as training saw them; empty where they are not known."""
    stop_id: int
    prompt: ServedPrompt
    """What prompt.json says."""
    has_tools: Callable[[], bool]
    """Tells whether held-out questions offer tools."""
    fingerprint: str
    say: Callable[[str], None]

    @property
    def dtype(self) -> str:
        """Return the type of merged weights."""
        configured = self.recipe.export.dtype
        return self.weights_dtype if configured == "auto" else configured

    def adapter(self) -> list[WrittenExport]:
        """Copy the trained adapter."""
        write_adapter(self.trained, self.folder / "adapter")
        return [WrittenExport(self._export("adapter", "plain"), "float32", dict(self.adapter_facts))]

    def merged(self) -> list[WrittenExport]:
        """Write merged weights; for qlora with `merge.base: auto` on both bases."""
        adapter, base = self.recipe.adapter, self.recipe.export.merge.base
        both: list[Base] = ["plain", "dequantised"]
        match adapter:
            case NoAdapter():
                return [self._full()]
            case QloraAdapter() if base == "auto":
                return [self._merged_on(base, f"merged-{base}") for base in both]
            case LoraAdapter():
                return [self._merged_on("plain" if base == "auto" else base, "merged")]
            case _:
                assert_never(adapter)

    def gguf(self, merged: WrittenExport) -> list[WrittenExport]:
        """Write a file for each quantisation, and what Ollama reads."""
        source, folder = Path(merged.export.folder), self.folder / "gguf"
        facts = write_gguf(source, folder, self.recipe.name, self.recipe.export.gguf, self.say)
        settings = GenerationConfig.from_pretrained(str(source))
        modelfile = write_prompts(folder, list(facts), self.prompt, settings, has_tools=self.has_tools())
        self.say(f"export: gguf/Modelfile {modelfile}")
        return [
            WrittenExport(
                Export(f"gguf/{quantisation}", "gguf", str(folder), merged.export.base, None, self.fingerprint),
                quantisation,
                file_facts | {"modelfile": modelfile},
            )
            for quantisation, file_facts in facts.items()
        ]

    def bnb4(self, merged: WrittenExport) -> list[WrittenExport]:
        """Write 4-bit weights of bitsandbytes, with the settings of qlora."""
        adapter = four_bit_of(self.recipe.adapter) or QloraAdapter(kind="qlora")
        limit = self.recipe.export.max_shard_gb
        wide = write_bnb4(Path(merged.export.folder), self.folder / "bnb4", adapter, max_shard_gb=limit)
        if wide:
            self.say(f"export: bnb4: {wide} stacks of experts are not in 4 bits, transformers reads no such files")
        return [WrittenExport(self._export("bnb4", merged.export.base), adapter.bnb_4bit_quant_type)]

    def compressed(self, name: Compressed, merged: WrittenExport) -> list[WrittenExport]:
        """Write what llm-compressor makes of merged weights."""
        source, section = Path(merged.export.folder), self.recipe.export
        rows = calibration_rows(TokenStore.load(self.train_tokens), section.compress, self.recipe.seed)
        limit = section.max_shard_gb
        facts = write_compressed(name, source, self.folder / name, section.compress, rows, max_shard_gb=limit)
        return [WrittenExport(self._export(name, merged.export.base), DTYPES[name], facts)]

    def _export(self, name: Format, base: str) -> Export:
        return Export(name, name, str(self.folder / name), base, None, self.fingerprint)

    def _full(self) -> WrittenExport:
        section = self.recipe.model.model_copy(update={"name_or_path": str(self.trained.absolute())})
        limit = self.recipe.export.max_shard_gb
        write_full(section, self.cache, self.folder / "merged", dtype=self.dtype, max_shard_gb=limit)
        return WrittenExport(self._export("merged", "plain"), self.dtype)

    def _merged_on(self, base: Base, name: str) -> WrittenExport:
        plan = self._plan(base)
        folder, aside = self.folder / name, self.merging / name
        shutil.rmtree(aside, ignore_errors=True)  # whole, but of another export
        report = merge_streaming(self.base, [(self.trained, 1.0)], aside, plan, lambda _: None)
        aside.rename(folder)
        self.say(survived(name, report))
        facts = {"base": base, "rounding": report.rounding, "survival": report.survival, "streamed": report.streamed}
        export = Export(name, "merged", str(folder), base, plan_values(plan), self.fingerprint)
        return WrittenExport(export, report.dtype, facts)

    def _plan(self, base: Base) -> MergePlan:
        adapter, settings = four_bit_of(self.recipe.adapter), None
        if adapter:
            kind = getattr(torch, self.weights_dtype)
            settings = FourBit(adapter.bnb_4bit_quant_type, adapter.bnb_4bit_use_double_quant, kind)
        return MergePlan(
            dtype=self.dtype,  # type: ignore[arg-type]
            rounding=self.recipe.export.merge.rounding,
            seed=self.recipe.seed,
            max_shard_gb=self.recipe.export.max_shard_gb,
            base=base,
            four_bit=settings,
            base_sha256=self.base_hashes or None,
            stop_id=self.stop_id,
            device=str(device()),
        )


def survived(name: str, report: MergeReport) -> str:
    """Return what the terminal says about a merge."""
    if not report.survival:
        return f"export: {name} written in {report.dtype}"
    share = report.survival["median"]
    low = "" if share >= SURVIVAL_LIMIT else f"; below {SURVIVAL_LIMIT}: set export.merge.rounding: stochastic"
    return (
        f"export: {name} in {report.dtype}, rounding {report.rounding}: {share:.3f} of the update survives (median), "
        f"lowest {report.survival['lowest']:.3f}{low}"
    )
