"""Call llama.cpp through the wheel `cyllama`, which compiles nothing.

Shapes: S tokens of a row, V words.
"""

from __future__ import annotations

import importlib
import re
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import LlamaFileType

from trainer.errors import HardwareError

INSTALL = (
    "python -m pip install -c constraints.txt 'recipe-trainer[gguf]' (a wheel for Linux on x86-64); "
    "or leave gguf out of export.formats"
)
CHUNK = 256
"""Tokens decoded at once; bounds the memory of their logits, V float32 each."""
LOG_LINES = 200
ROOM = 64
"""Bytes of text that one token is expected to have at most; llama.cpp asks for more where that is too few."""
GUARD = "."
ADDS_SPACE = (1, 4)
"""llama.cpp's numbers of SentencePiece vocabularies (BPE and unigram), whose first token carries a space."""


class _Log:
    """The last lines that llama.cpp logged, which say why something failed."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=LOG_LINES)

    def take(self, level: int, text: str) -> None:
        self.lines.append(text.strip())

    def reason(self, error: Exception | None = None) -> str:
        """Return the line that names an error, else what was raised, else the last line."""
        lines = [line for line in self.lines if line]
        errors = [line for line in lines if re.search(r"error|fail|invalid|unknown|nan|inf\b", line, re.IGNORECASE)]
        return (errors or ([str(error)] if error else lines[-1:]) or ["no reason given"])[0]


_LOG = _Log()


@cache
def llama_cpp() -> Any:
    """Return the module that calls llama.cpp; it logs nothing to the terminal.

    Raises:
        HardwareError: `cyllama` is not installed, or its library cannot be loaded.
    """
    try:
        library: Any = importlib.import_module("cyllama.llama.llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        raise HardwareError(f"gguf: llama.cpp's runtime cannot be loaded: {error}", hint=INSTALL) from error
    library.set_log_callback(_LOG.take)
    return library


@cache
def _model_class() -> Any:
    """Return the class of models, with the name that `get_logits_ith` looks up and cyllama 0.2.18 lacks."""

    class Model(llama_cpp().LlamaModel):  # type: ignore[misc]  # cyllama has no types
        @property
        def n_vocab(self) -> int:
            return int(self.get_vocab().n_vocab)

    return Model


def quantise(source: Path, target: Path, quantisation: str) -> int:
    """Write a quantised copy of a GGUF file, as llama.cpp's own `llama-quantize` does.

    Args:
        source: File in f32, f16 or bf16.
        target: File to write.
        quantisation: Such as q8_0 or q4_k_m.

    Returns:
        How many tensors got another type, because their rows are no multiple of its block.

    Raises:
        HardwareError: llama.cpp cannot.
    """
    library = llama_cpp()
    settings = library.LlamaModelQuantizeParams()
    settings.ftype = int(LlamaFileType[f"MOSTLY_{quantisation.upper()}"])
    settings.nthread = torch.get_num_threads()
    _LOG.lines.clear()
    try:
        library.model_quantize(str(source), str(target), settings)
    except (OSError, RuntimeError, ValueError) as error:
        target.unlink(missing_ok=True)
        raise HardwareError(
            f"gguf: llama.cpp cannot write {quantisation}: {_LOG.reason(error)}",
            hint=f"leave {quantisation} out of export.gguf.quantisations",
        ) from error
    matches = [re.search(r"(\d+) of \d+ tensor\(s\) required fallback", line) for line in _LOG.lines]
    return next((int(match.group(1)) for match in matches if match), 0)


class GgufRunner:
    """A GGUF file in llama.cpp. `close` gives its memory back.

    Args:
        path: The file.
        check_weights: Read every weight once and refuse what is not finite; off where only the tokenizer is asked.

    Raises:
        HardwareError: The file cannot be opened: damaged, cut off, or with weights that are not finite.
    """

    def __init__(self, path: Path, *, check_weights: bool = True) -> None:
        self.path = path
        self._library = llama_cpp()
        settings = self._library.LlamaModelParams()
        settings.check_tensors = settings.use_extra_bufts = check_weights  # the latter repacks weights for speed
        settings.n_gpu_layers = 0
        _LOG.lines.clear()
        try:
            self._model = _model_class()(str(path), settings)
        except (OSError, RuntimeError, ValueError) as error:
            raise HardwareError(
                f"{path.name} cannot be opened by llama.cpp: {_LOG.reason(error)}",
                hint="export again: trainer export RECIPE --force",
            ) from error
        self._vocab = self._model.get_vocab()
        self._context: Any = None
        self._batch: Any = None
        self._capacity = 0
        self._guard = self.ids(GUARD)
        self.num_words = int(self._vocab.n_vocab)

    def close(self) -> None:
        """Give the memory back; the runner is of no use afterwards."""
        self._close_context()
        if self._model:
            self._model.close()
        self._model = self._vocab = None

    def _close_context(self) -> None:
        for part in (self._batch, self._context):
            if part is not None:
                part.close()
        self._batch = self._context = None

    # The tokenizer of the file

    @property
    def template(self) -> str | None:
        """The chat template of the file."""
        return self._model.get_default_chat_template() or None

    @property
    def adds_bos(self) -> bool:
        """Whether llama.cpp puts the begin token before every prompt."""
        return bool(self._vocab.get_add_bos())

    @property
    def special_tokens(self) -> dict[str, str]:
        """Begin and end token as a template names them."""
        ids = {"bos_token": self._vocab.token_bos(), "eos_token": self._vocab.token_eos()}
        return {name: self.piece(token) for name, token in ids.items() if token >= 0}

    def is_end(self, token: int) -> bool:
        """Tell whether llama.cpp ends an answer at this token."""
        return bool(self._vocab.is_eog(token))

    def ids(self, text: str, *, add_special: bool = False) -> list[int]:
        """Return token ids; text such as `<|im_end|>` becomes the special token."""
        return list(self._vocab.tokenize(text, add_special, True))

    def piece(self, token: int) -> str:
        """Return a token as the vocabulary writes it, such as `<|im_end|>`."""
        return str(self._vocab.get_text(token))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        # cyllama cuts white space off the front of what it decodes, so a full stop stands there
        decoded = self._vocab.detokenize([*self._guard, *ids], ROOM * (len(ids) + 1), True, False)
        text = str(decoded).removeprefix(GUARD)
        return text.removeprefix(" ") if self._vocab.vocab_type in ADDS_SPACE else text

    # The model

    def log_probs(self, ids: Sequence[int], *, last: int | None = None) -> np.ndarray:
        """Return log-probabilities of the next token at every position.

        Args:
            ids: Token ids of a row.
            last: Only so many positions at the end; None for all.

        Returns:
            (S, V), or (last, V), float32.
        """
        self._begin(len(ids))
        # row after row in chunks: llama.cpp keeps the cache, so each chunk sees all tokens before it
        first = max(0, len(ids) - last) if last is not None else 0
        rows = []
        for start in range(0, len(ids), CHUNK):
            positions = range(max(first, start), min(start + CHUNK, len(ids)))
            self._decode(ids[start : start + CHUNK], start, positions)
            rows += [self._logits(position - start) for position in positions]
        logits = torch.from_numpy(np.stack(rows))  # (S, V)
        return logits.log_softmax(-1).numpy()

    def generate(self, ids: Sequence[int], max_new_tokens: int, stop_ids: Sequence[int] = ()) -> list[int]:
        """Return the most likely continuation, without the token that ends it.

        Args:
            ids: Token ids of the prompt.
            max_new_tokens: Longest continuation.
            stop_ids: Tokens that end it, beside those of the file.
        """
        self._begin(len(ids) + max_new_tokens)
        for start in range(0, len(ids), CHUNK):
            self._decode(ids[start : start + CHUNK], start, range(len(ids) - 1, len(ids)))
        tokens: list[int] = []
        index = (len(ids) - 1) % CHUNK  # logits are indexed by the position within the last batch
        while len(tokens) < max_new_tokens:
            token = int(self._logits(index).argmax())
            if token in stop_ids or self.is_end(token):
                break
            tokens.append(token)
            position = len(ids) + len(tokens) - 1
            self._decode([token], position, range(position, position + 1))
            index = 0
        return tokens

    def _begin(self, length: int) -> None:
        """Forget what was read before, and make room for a row."""
        if self._context is not None and length <= self._capacity:
            self._context.kv_cache_clear()
            return
        self._close_context()
        self._capacity = -(-length // CHUNK) * CHUNK
        settings = self._library.LlamaContextParams()
        # n_ubatch as n_batch: one graph for each chunk, so that results do not depend on how chunks are cut
        settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = self._capacity, CHUNK, CHUNK, 1
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        _LOG.lines.clear()
        try:
            self._context = self._library.LlamaContext(self._model, settings)
            self._batch = self._library.LlamaBatch(n_tokens=CHUNK, embd=0, n_seq_max=1)
        except (MemoryError, RuntimeError, ValueError) as error:
            raise HardwareError(
                f"{self.path.name}: llama.cpp has no room for {self._capacity} tokens: {_LOG.reason(error)}",
                hint="free some memory, or compare less: --set export.verify.num_rows=4",
            ) from error

    def _decode(self, tokens: Sequence[int], start: int, logit_positions: range) -> None:
        """Read tokens that stand at `start`; logits are written at the asked positions of the row."""
        self._batch.reset()
        for position, token in enumerate(tokens, start):
            self._batch.add(token, position, [0], position in logit_positions)  # all in sequence 0
        try:
            self._context.decode(self._batch)
        except (RuntimeError, ValueError) as error:
            raise HardwareError(
                f"{self.path.name}: llama.cpp could not read {len(tokens)} tokens: {_LOG.reason(error)}",
                hint="free some memory, or compare less: --set export.verify.num_rows=4",
            ) from error

    def _logits(self, index: int) -> np.ndarray:
        """Return the logits at an index of the last batch, (V,) float32."""
        return np.asarray(self._context.get_logits_ith(index), dtype=np.float32)
