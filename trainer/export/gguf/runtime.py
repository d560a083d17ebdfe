"""Call llama.cpp through the C interface of `llama-cpp-python`.

Shapes: S tokens of a row, V words.
"""

from __future__ import annotations

import ctypes
import importlib
import re
from collections import deque
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.errors import HardwareError

INSTALL = (
    "python -m pip install -c constraints.txt 'recipe-trainer[llama-cpp]'; it is compiled, which takes minutes and "
    "needs a C++ compiler; or leave gguf out of export.formats"
)
CHUNK = 256
"""Tokens decoded at once; bounds the memory of their logits, V float32 each."""
LOG_LINES = 200


class _Log:
    """The last lines that llama.cpp logged, which say why something failed."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=LOG_LINES)
        self.callback: Any = None

    def take(self, level: int, text: bytes, data: Any) -> None:
        self.lines.append(text.decode("utf-8", "replace").strip())

    def reason(self) -> str:
        """Return the line that names an error, else the last one."""
        lines = [line for line in self.lines if line]
        errors = [line for line in lines if re.search(r"error|fail|invalid|unknown|nan|inf\b", line, re.IGNORECASE)]
        return (errors or lines or ["no reason given"])[0]


_LOG = _Log()


@cache
def llama_cpp() -> Any:
    """Return the C interface of llama.cpp; it logs nothing to the terminal.

    Raises:
        HardwareError: `llama-cpp-python` is not installed, or its library cannot be loaded.
    """
    try:
        library: Any = importlib.import_module("llama_cpp.llama_cpp")
    except (ImportError, OSError, RuntimeError) as error:
        raise HardwareError(f"gguf: llama.cpp's runtime cannot be loaded: {error}", hint=INSTALL) from error
    _LOG.callback = library.llama_log_callback(_LOG.take)  # kept: C holds only its address
    library.llama_log_set(_LOG.callback, ctypes.c_void_p(0))
    library.llama_backend_init()
    return library


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
    settings = library.llama_model_quantize_default_params()
    settings.ftype = getattr(library, f"LLAMA_FTYPE_MOSTLY_{quantisation.upper()}")
    settings.nthread = torch.get_num_threads()
    _LOG.lines.clear()
    if library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)):
        target.unlink(missing_ok=True)
        raise HardwareError(
            f"gguf: llama.cpp cannot write {quantisation}: {_LOG.reason()}",
            hint=f"leave {quantisation} out of export.gguf.quantisations",
        )
    matches = [re.search(r"(\d+) of \d+ tensor\(s\) required fallback", line) for line in _LOG.lines]
    return next((int(match.group(1)) for match in matches if match), 0)


class GgufRunner:
    """A GGUF file in llama.cpp. `close` gives its memory back.

    Raises:
        HardwareError: The file cannot be opened: damaged, cut off, or with weights that are not finite.
    """

    def __init__(self, path: Path, *, vocabulary_only: bool = False) -> None:
        self.path = path
        self._c = llama_cpp()
        settings = self._c.llama_model_default_params()
        settings.vocab_only, settings.check_tensors = vocabulary_only, not vocabulary_only
        _LOG.lines.clear()
        self._model = self._c.llama_model_load_from_file(str(path).encode(), settings)
        if not self._model:
            raise HardwareError(
                f"{path.name} cannot be opened by llama.cpp: {_LOG.reason()}",
                hint="export again: trainer export RECIPE --force",
            )
        self._vocab = self._c.llama_model_get_vocab(self._model)
        self._context: Any = None
        self._capacity = 0
        self.num_words = int(self._c.llama_vocab_n_tokens(self._vocab))

    def close(self) -> None:
        """Give the memory back; the runner is of no use afterwards."""
        if self._context:
            self._c.llama_free(self._context)
        if self._model:
            self._c.llama_model_free(self._model)
        self._context = self._model = None

    # The tokenizer of the file

    @property
    def template(self) -> str | None:
        """The chat template of the file."""
        text = self._c.llama_model_chat_template(self._model, None)
        return text.decode("utf-8") if text else None

    @property
    def adds_bos(self) -> bool:
        """Whether llama.cpp puts the begin token before every prompt."""
        return bool(self._c.llama_vocab_get_add_bos(self._vocab))

    @property
    def special_tokens(self) -> dict[str, str]:
        """Begin and end token as a template names them."""
        ids = {"bos_token": self._c.llama_vocab_bos(self._vocab), "eos_token": self._c.llama_vocab_eos(self._vocab)}
        return {name: self.piece(token) for name, token in ids.items() if token >= 0}

    def is_end(self, token: int) -> bool:
        """Tell whether llama.cpp ends an answer at this token."""
        return bool(self._c.llama_vocab_is_eog(self._vocab, token))

    def ids(self, text: str, *, add_special: bool = False) -> list[int]:
        """Return token ids; text such as `<|im_end|>` becomes the special token."""
        data = text.encode("utf-8")
        room = len(data) + 16  # a token is at least one byte; begin and end tokens come on top
        tokens = (self._c.llama_token * room)()
        count = self._c.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, True)
        assert count >= 0, "a token is at least a byte"
        return list(tokens[:count])

    def piece(self, token: int) -> str:
        """Return a token as the vocabulary writes it, such as `<|im_end|>`."""
        return str(self._c.llama_vocab_get_text(self._vocab, token).decode("utf-8"))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        tokens = (self._c.llama_token * len(ids))(*ids)
        room = 64 * (len(ids) + 1)
        while True:  # a negative count is the room that is needed
            buffer = ctypes.create_string_buffer(room)
            count = self._c.llama_detokenize(self._vocab, tokens, len(ids), buffer, room, True, False)
            if count >= 0:
                return buffer.raw[:count].decode("utf-8", "replace")
            room = -count

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
        if self._context and length <= self._capacity:
            self._c.llama_memory_clear(self._c.llama_get_memory(self._context), True)
            return
        if self._context:
            self._c.llama_free(self._context)
        self._capacity = -(-length // CHUNK) * CHUNK
        settings = self._c.llama_context_default_params()
        # n_ubatch as n_batch: one graph for each chunk, so that results do not depend on how chunks are cut
        settings.n_ctx, settings.n_batch, settings.n_ubatch, settings.n_seq_max = self._capacity, CHUNK, CHUNK, 1
        settings.n_threads = settings.n_threads_batch = torch.get_num_threads()
        _LOG.lines.clear()
        self._context = self._c.llama_init_from_model(self._model, settings)
        if not self._context:
            raise HardwareError(
                f"{self.path.name}: llama.cpp has no room for {self._capacity} tokens: {_LOG.reason()}",
                hint="free some memory, or compare less: --set export.verify.num_rows=4",
            )

    def _decode(self, tokens: Sequence[int], start: int, logit_positions: range) -> None:
        """Read tokens that stand at `start`; logits are kept at the wanted positions of the row."""
        batch = self._c.llama_batch_init(len(tokens), 0, 1)
        try:
            batch.n_tokens = len(tokens)
            for index, token in enumerate(tokens):
                batch.token[index], batch.pos[index] = token, start + index
                # one sequence, number 0; the logits of a position are kept where they are asked for
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, 0
                batch.logits[index] = start + index in logit_positions
            if code := self._c.llama_decode(self._context, batch):
                raise HardwareError(
                    f"{self.path.name}: llama.cpp could not read {len(tokens)} tokens: {_LOG.reason()} ({code})",
                    hint="free some memory, or compare less: --set export.verify.num_rows=4",
                )
        finally:
            self._c.llama_batch_free(batch)

    def _logits(self, index: int) -> np.ndarray:
        """Return a copy of the logits at a place of the last batch, (V,) float32."""
        pointer = self._c.llama_get_logits_ith(self._context, index)
        return np.ctypeslib.as_array(pointer, (self.num_words,)).copy()
