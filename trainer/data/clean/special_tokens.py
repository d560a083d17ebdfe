"""Cut chat-template tokens from the ends of texts: the template writes them again, and they would be trained twice."""

from __future__ import annotations

import re
from collections.abc import Iterable

END_TOKENS = (
    *("###eos_token###", "</s>", "<eos>", "[EOS]", "<|im_end|>", "<|endoftext|>", "<|end_of_text|>"),
    *("<|end_of_turn|>", "<end_of_turn>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>", "<|return|>"),
    *("<|endofprompt|>", "<｜end▁of▁sentence｜>", "<|END_OF_TURN_TOKEN|>", "<pad>", "<|pad|>", "[PAD]"),
)
BEGIN_TOKENS = (
    *("<s>", "<bos>", "[BOS]", "<|begin_of_text|>", "<|startoftext|>", "<｜begin▁of▁sentence｜>"),
    *("<|im_start|>assistant\n", "<|im_start|>user\n", "<start_of_turn>model\n", "<start_of_turn>user\n"),
)
INSIDE_TOKENS = ("<|im_start|>", "<start_of_turn>", "<|start_header_id|>", "<|end_header_id|>", "[INST]", "[/INST]")
"""Cut at the end of a text behind a sentence; in the middle nothing tells where their turn would begin."""
SENTENCE_ENDS = ".!?:;\u2026\u3002\uff01\uff1f\"'`)]}\n"
INSTRUCTION = re.compile(r"\s*\[INST\](?P<inner>(?:(?!\[/?INST\]).)*\S(?:(?!\[/?INST\]).)*)\[/INST\]\s*", re.DOTALL)
"""A whole prompt as the templates of Llama 2 and Mistral write it."""
TURN_BEGINS = (
    r"<\|im_start\|>\s?(?:system|user|assistant|tool|developer)\b|<\|start_header_id\|>"
    r"|<start_of_turn>(?:user|model)\b|<\|(?:system|user|assistant)\|>|<\uff5c(?:User|Assistant)\uff5c>"
    r"|<\|start\|>(?:system|developer|user|assistant)\b|<\|START_OF_TURN_TOKEN\|>|<s>\s*\[INST\]|\[INST\]"
)


class SpecialTokens:
    """What is cut from the ends of a text, and what is only counted inside."""

    def __init__(self, extra: Iterable[str] = ()) -> None:
        more = tuple(token for token in extra if token.strip())
        self.ends, self.begins = (*END_TOKENS, *more), (*BEGIN_TOKENS, *more)
        all_tokens = (*END_TOKENS, *BEGIN_TOKENS, *INSIDE_TOKENS, *more)
        tokens = {token.strip() for token in all_tokens}
        self.signs = "".join(sorted({token[0] for token in tokens}))
        """With what tokens begin: most texts hold none of these signs, which costs a tenth of a search."""
        self.mark = re.compile(_any_of(tokens))
        # One turn ends and the next begins, inside of a text: a template has written it.
        self.rendered = re.compile(rf"(?:{_any_of(END_TOKENS)})\s*(?:{TURN_BEGINS})")

    def strip(self, text: str) -> str:
        """Remove tokens at both ends, and the space around them.

        A `</s>` whose `<s>` stands inside the text is HTML's strike-through and stays.
        """
        if not self.is_inside(text):
            return text
        if instruction := INSTRUCTION.fullmatch(text):
            return instruction["inner"].strip()
        start = self._start(text)
        end = self._end(text, start)
        if "</s>" in text[end:] and "<s>" in text[start:end]:
            end = len(text)
        return text[start:end]

    def _start(self, text: str) -> int:
        """Return where the text begins after its begin tokens; 0 where it has none."""
        begin = 0
        while True:
            start = _past_space(text, begin)
            token = next((token for token in self.begins if text.startswith(token, start)), None)
            if token is None:
                return start if begin else 0
            begin = start + len(token)

    def _end(self, text: str, start: int) -> int:
        """Return where the text ends before its end tokens; its length where it has none."""
        end, has_token = len(text), False
        while True:
            while end > start and text[end - 1].isspace():
                end -= 1
            token = next((token for token in self.ends if text.endswith(token, start, end)), None)
            token = token or self._opening(text, start, end)
            if token is None:
                return end if has_token else len(text)
            end, has_token = end - len(token), True

    def _opening(self, text: str, start: int, end: int) -> str | None:
        """Return the token that would open another turn, where a sentence or a token ends before it."""
        token = next((token for token in INSIDE_TOKENS if text.endswith(token, start, end)), None)
        before = text[start : end - len(token)].rstrip(" ") if token else ""
        return token if before.endswith((*SENTENCE_ENDS, *self.ends)) else None

    def is_left_over(self, text: str) -> bool:
        """Whether a text has tokens at its ends, or inside of it the seam of two turns: more than a mention."""
        return self.is_inside(text) and (self.strip(text) != text or self.rendered.search(text) is not None)

    def is_inside(self, text: str) -> bool:
        """Whether a token stands in a text whose ends were cut."""
        for sign in self.signs:  # a loop costs half of what a generator does
            if sign in text:
                return self.mark.search(text) is not None
        return False


def _past_space(text: str, start: int) -> int:
    while start < len(text) and text[start].isspace():
        start += 1
    return start


def _any_of(tokens: Iterable[str]) -> str:
    # The longest first, so that none is taken for the opening of another.
    return "|".join(re.escape(token) for token in sorted(tokens, key=lambda token: (-len(token), token)))
