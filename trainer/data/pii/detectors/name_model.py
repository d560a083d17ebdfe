"""Find names with a token-classification model in ONNX form: the extra `ner`."""

from __future__ import annotations

import importlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trainer.data.pii.detectors.rule import Match
from trainer.errors import HardwareError
from trainer.recipe.pii import NameModel

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

FILES = ("model.onnx", "tokenizer.json", "config.json")


class GraphInput(Protocol):
    """An input of an ONNX graph."""

    name: str


class Session(Protocol):
    """The part of `onnxruntime.InferenceSession` in use here."""

    def run(self, output_names: None, feeds: dict[str, NDArray[np.int64]]) -> list[NDArray[np.float32]]: ...

    def get_inputs(self) -> list[GraphInput]: ...


class _Loaded(NamedTuple):
    session: Session
    tokenizer: Tokenizer
    labels: dict[int, str]
    inputs: tuple[str, ...]


class NameDetector:
    """Finds what a local model labels, under the type `name:LABEL`. The first text loads the model."""

    def __init__(self, section: NameModel) -> None:
        self._section = section

    def __getstate__(self) -> dict[str, NameModel]:
        return {"_section": self._section}

    def find(self, text: str) -> list[Match]:
        encoded = self._loaded.tokenizer.encode(text)
        pieces = [encoded, *encoded.overflowing]
        return sorted({match for piece in pieces for match in self._of_piece(piece)})

    def _of_piece(self, piece: Encoding) -> list[Match]:
        ids = np.array([piece.ids], dtype=np.int64)  # (1, T)
        feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        feeds = {name: array for name, array in feeds.items() if name in self._loaded.inputs}
        logits = self._loaded.session.run(None, feeds)[0][0]  # (T, L), L labels
        odds = np.exp(logits - logits.max(-1, keepdims=True))
        probabilities = odds / odds.sum(-1, keepdims=True)
        labels = [self._loaded.labels[int(index)] for index in probabilities.argmax(-1)]
        sure = probabilities.max(-1) >= self._section.threshold
        return spans(
            [label if is_sure else "O" for label, is_sure in zip(labels, sure, strict=True)], list(piece.offsets)
        )

    @cached_property
    def _loaded(self) -> _Loaded:
        """Load model, tokenizer and labels.

        Raises:
            HardwareError: A package or a file is missing.
        """
        folder = Path(self._section.model_dir)
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise HardwareError(
                f"data.pii.name_model.model_dir: no {missing[0]} in {folder}",
                hint="export the model with `optimum-cli export onnx --task token-classification`",
            )
        try:
            onnxruntime = importlib.import_module("onnxruntime")
            tokenizers = importlib.import_module("tokenizers")
        except ImportError as error:
            raise HardwareError(
                f"data.pii.name_model needs a package that is not installed: {error.name}",
                hint='pip install -c constraints.txt "recipe-trainer[ner]", or take data.pii.name_model out',
            ) from error
        options = onnxruntime.SessionOptions()
        # One thread in each worker of the pool: results do not depend on the number of cores.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        tokenizer.enable_truncation(self._section.max_tokens, stride=self._section.max_tokens // 8)
        tokenizer.no_padding()
        labels = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
        inputs = tuple(graph_input.name for graph_input in session.get_inputs())
        return _Loaded(session, tokenizer, {int(number): name for number, name in labels.items()}, inputs)


def spans(labels: list[str], offsets: list[tuple[int, int]]) -> list[Match]:
    """Join the labels of tokens into ranges: `B-X` begins one, `I-X` continues it, any other label ends it.

    Args:
        labels: one for each token. Without `B-` and `I-`, neighbours of one label are one range.
        offsets: half-open range of characters of each token, empty for special tokens.

    Example:
        >>> spans(["B-PER", "I-PER", "O"], [(0, 3), (4, 7), (8, 9)])
        [Match(start=0, end=7, type='name:PER')]
    """
    matches: list[Match] = []
    running = "O"
    for label, (start, end) in zip(labels, offsets, strict=True):
        begins, _, name = label.rpartition("-") if label[:2] in ("B-", "I-") else ("I", "", label)
        if start == end or label == "O":
            running = "O" if start != end else running
            continue
        if running == name and begins != "B":
            matches[-1] = matches[-1]._replace(end=end)
        else:
            matches.append(Match(start, end, f"name:{name}"))
        running = name
    return matches
