"""Refuse rows about an image, a sound or a film: only their text would be trained."""

from __future__ import annotations

import re

from trainer.data.records.kinds import Record, turns_of_row
from trainer.data.records.reasons import RowError
from trainer.data.rows.columns import IMAGE_COLUMNS, Columns

PLACEHOLDER = re.compile(r"<(image|video|audio)(?:_\d+)?>|<\|(?:image|video|audio)(?:_pad|_\d+)?\|>", re.IGNORECASE)
"""What stands in the text for an image. Sources: LLaVA, LLaMA-Factory, Qwen-VL, Phi-3-vision."""


def refuse_images(record: Record, columns: Columns) -> None:
    """Refuse a row whose text points at an image, or that holds the image itself; a path alone is only metadata.

    Raises:
        RowError: naming the column.
    """
    names = [name for name in IMAGE_COLUMNS if columns.has(name) and columns.values[name] not in ("", [], {})]
    for name in names:
        pointed = next((match[0] for text in _texts(record) if (match := PLACEHOLDER.search(text))), None)
        if pointed or _is_data(columns.values[name]):
            why = f"the text points at it ({pointed})" if pointed else "it holds the data themselves"
            raise RowError(
                "unsupported_content", f"column `{name}`: {why}, and only text is trained on; leave such rows out"
            )


def _is_data(value: object) -> bool:
    """Whether a value is an image as `datasets` writes it: bytes, or an object with bytes."""
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, bytes) or (isinstance(item, dict) and "bytes" in item) for item in items)


def _texts(record: Record) -> list[str]:
    return [*(turn["content"] for turn in turns_of_row(record)), *([record["text"]] if "text" in record else [])]
