"""Take the columns of one row, renamed by a mapping; keep unused columns as metadata."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from trainer.data.records.reasons import RowError, mark_text

TURN_COLUMNS = ("messages", "conversations", "conversation")
PROMPT_COLUMNS = ("prompt", "question", "query", "input")
COMPLETION_COLUMNS = ("completion", "response", "answer", "output")
RARE_PROMPTS, RARE_COMPLETIONS = ("inputs",), ("targets", "target", "answers")
"""Names that count only where a row has none of the usual ones."""
INPUT_COLUMNS = ("input", "context")
OUTPUT_COLUMNS = ("output", "response")
LABEL_COLUMNS = ("label", "kto_tag")
REJECTED_COLUMNS = ("rejected_response", "rejected_messages")
"""ms-swift's worse answer, beside a conversation that ends with the better one."""
SYSTEM_COLUMNS = ("system", "system_prompt", "system_message", "system_instruction", "systemInstruction")
REASONING_COLUMNS = ("reasoning_content", "reasoning", "thinking", "chain_of_thought", "cot", "rationale")
TOOL_COLUMNS = ("tools", "functions")
CONTEXT_COLUMNS = (
    *("context", "passages", "documents", "contexts", "passage", "document", "ctxs", "chunks", "evidence", "knowledge"),
    *("retrieved_contexts", "retrieved_documents", "retrieved_passages", "paragraphs", "paragraph", "article"),
)
"""What a question is asked about, the plainest names first."""
DIALOG_COLUMNS = ("dialog", "dialogue", "utterances", "turns")
IMAGE_COLUMNS = (
    *("image", "images", "image_path", "image_paths", "image_url", "image_urls", "img", "picture", "pictures"),
    *("video", "videos", "audio", "audios", "pixel_values"),
)
LABELS = (
    *("label", "labels", "label_text", "intent", "intents", "class", "class_label", "sentiment"),
    *("gold", "gold_label"),
)
OPTION_COLUMNS = ("choices", "options", "endings", "candidates", "option_a", "option_b", "option_c", "option_d")
"""What a question lets choose from: without it an answer such as `2` or `B` says nothing."""
TARGETS = ("target", "targets", "summary", "summaries", "highlights", "translation", "translations", "ground_truth")
MAPPABLE = frozenset(
    {*TURN_COLUMNS, *PROMPT_COLUMNS, *COMPLETION_COLUMNS, *INPUT_COLUMNS, *LABEL_COLUMNS, *RARE_PROMPTS}
    | {*RARE_COMPLETIONS, *SYSTEM_COLUMNS, *REASONING_COLUMNS, *TOOL_COLUMNS, *CONTEXT_COLUMNS, *DIALOG_COLUMNS}
    | {"instruction", "history", "chosen", "rejected", *REJECTED_COLUMNS, "text", "contents", "winner"}
    | {"preferred_output", "non_preferred_output", "response_a", "response_b", "responses", "scores", "ranks"}
    | {"chat_template_kwargs", "input_ids", "labels", "attention_mask"}
)
"""Names that `data.sources[].mapping` may give a column."""
OURS = ("metadata", "source", "line", "repeat")
"""Columns of the files that `trainer data` writes."""
MEANINGS: dict[str, str] = {
    **dict.fromkeys(TARGETS, "target"),
    **dict.fromkeys(LABELS, "label"),
    **dict.fromkeys((*TOOL_COLUMNS, "available_tools", "tool_calls"), "tools"),
    **dict.fromkeys(IMAGE_COLUMNS, "image"),
    **dict.fromkeys((*REASONING_COLUMNS, "thought", "thoughts", "reasoning_details"), "reasoning"),
    **dict.fromkeys(SYSTEM_COLUMNS, "system"),
    **dict.fromkeys(OPTION_COLUMNS, "options"),
    **dict.fromkeys(REJECTED_COLUMNS, "rejected answer"),
    **dict.fromkeys(CONTEXT_COLUMNS, "context"),
}
"""Name of a column -> what it means to a reader, and so to a model that never sees it."""


_CLASS_WORDS = (
    "label|class|category|subcategory|code|intent|emotion|sentiment|polarity|topic|tag|rating|score|star|grade|genre|type"
    "|diagnosis|diagnose|verdict|stance|severity|priority|urgency|department|outcome|annotation|toxicity|toxic|spam|icd|icd10"
)
_OF_CLASSES = re.compile(rf"(?:.*_)?(?:is_)?(?:{_CLASS_WORDS})(?:s|es)?(?:_(?:id|name|label|code|text|value))?")
_OF_PLACES = re.compile(
    r"(?:.*_)?(?:lang|language|country|zip|postal|post|mime|content|file|media|hash|http|status)_\w+"
)


def is_missing(value: object) -> bool:
    """Whether a column holds nothing: null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and value != value)


def meaning_of(name: str) -> str:
    """Return what the name of a column (`column`, or `column[].key` inside of turns) says it means, "" for nothing."""
    return MEANINGS.get(name.rpartition("[].")[2].strip().lower(), "")


def is_class_column(name: str) -> bool:
    """Tell a column that may well be what a text is to be sorted by: `category`, `icd_code`, `star_rating`.

    Beside a question and its answer such a column only describes the row.
    """
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])|[\s.-]+", "_", name.strip()).lower().replace("categories", "category")
    return _OF_CLASSES.fullmatch(plain) is not None and _OF_PLACES.fullmatch(plain) is None


def plain_names(raw: Mapping[str, object], mapping: Mapping[str, str]) -> dict[str, str]:
    """Return our name -> column of the file for columns that have it in capitals, as spreadsheets do: `Question`."""
    reserved = {*raw, *mapping}
    names = {name.strip().lower(): name for name in raw if name not in mapping.values()}
    return {plain: name for plain, name in names.items() if plain in MAPPABLE and plain not in reserved}


class Columns:
    """The columns of one row; remembers which were used, so that the others can be kept as metadata."""

    def __init__(self, raw: Mapping[str, object], mapping: Mapping[str, str]) -> None:
        self.paths = {name: path for name, path in mapping.items() if path}
        mapped = {name: _at(raw, path) for name, path in self.paths.items()}
        unmapped = raw
        for path in self.paths.values():
            unmapped = _without(unmapped, path)
        self.hidden = {name for name, path in mapping.items() if not path}
        """Columns that the recipe leaves out on purpose: `context: ""`."""
        self.values: dict[str, object] = {**unmapped, **mapped}
        self.shadowed = {name: value for name, value in unmapped.items() if name in mapped}
        self.used: set[str] = set()
        self.notes: set[str] = set()
        """Ids of what was done to values, see `usage.NOTES`."""
        self.lost_keys: set[str] = set()
        """Keys of turns that are not used, as `messages[].key`."""

    def present(self) -> dict[str, object]:
        """Return the columns that hold something and are not left out on purpose."""
        return {name: value for name, value in self.values.items() if not is_missing(value) and name not in self.hidden}

    def visible(self) -> dict[str, object]:
        """Return all columns that are not left out on purpose, those with nothing in them too."""
        return {name: value for name, value in self.values.items() if name not in self.hidden}

    def has(self, name: str) -> bool:
        return name not in self.hidden and not is_missing(self.values.get(name))

    def take(self, name: str) -> object:
        """Return the column, or None, and mark it as used."""
        if name in self.hidden:
            return None
        self.used.add(name)
        return self.values.get(name) if self.has(name) else None

    def first_of(self, names: Iterable[str]) -> str | None:
        """Return the first of `names` that the row has."""
        if self.values.keys().isdisjoint(names):  # most rows hold none of the names that are asked for
            return None
        return next((name for name in names if self.has(name)), None)

    def one_of(self, names: tuple[str, ...], rare: tuple[str, ...] = ()) -> str:
        """Return the one of `names` that the row has; the first name wins, of the others only one may be there.

        Args:
            names: usual names.
            rare: names that count where none of the usual ones is there, the first one first.

        Raises:
            RowError: none of them, or several.
        """
        present = [name for name in names if self.has(name)] or [name for name in rare if self.has(name)][:1]
        if not present:
            raise self._none_of(names)
        if len(present) > 1 and present[0] != names[0]:
            raise RowError("unknown_format", f"both {' and '.join(present)}; say which by mapping: {{{names[0]}: ...}}")
        return present[0]

    def _none_of(self, names: tuple[str, ...]) -> RowError:
        if empty := [name for name in names if name in self.values and name not in self.hidden]:
            return RowError("empty_content", f"`{empty[0]}` is null")
        return RowError("unknown_format", f"none of {', '.join(names)} in a row with {self.described()}")

    def described(self) -> str:
        return "columns " + mark_text(", ".join(map(str, self.values)), 200)

    def unused(self) -> list[str]:
        """Return the names of columns and keys of turns that hold something and are not used, as the file has them."""
        unused_columns = [
            name
            for name, value in self.values.items()
            if name not in self.used and name not in OURS and _says_something(value)
        ]
        return [*unused_columns, *self.shadowed, *sorted(self.lost_keys)]

    def used_names(self) -> list[str]:
        """Return the names of the columns that are used, as the file has them."""
        return [self.paths.get(name, name) for name in self.values if name in self.used and self.has(name)]

    def metadata(self) -> dict[str, object]:
        """Return the columns that were not used; a `metadata` column is merged in, so that our own files read back."""
        unused = {
            name: value
            for name, value in self.values.items()
            if name not in self.used and not (value is None and name in MAPPABLE)
        }
        nested = unused.get("metadata")
        if isinstance(nested, dict):
            del unused["metadata"]
            unused = {**nested, **unused}
        return {**unused, **self.shadowed}


def _says_something(value: object) -> bool:
    return not is_missing(value) and value != "" and value != [] and value != {}


def _at(raw: Mapping[str, object], path: str) -> object:
    """Return what stands at a path; a column whose name holds the dots itself comes first."""
    if path in raw:
        return raw[path]
    value: object = raw
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise RowError("unknown_format", f"no column {path!r}, which `mapping` names")
    return value


def _without(value: Mapping[str, object], path: str) -> Mapping[str, object]:
    """Return an object without the value at the path; only the objects along the path are new.

    Example:
        >>> _without({"a": [1, {"b": 2, "c": 3}], "d": 4}, "a.1.b")
        {'a': [1, {'c': 3}], 'd': 4}
    """
    if path in value:
        return {name: item for name, item in value.items() if name != path}
    part, _, inner_path = path.partition(".")
    return {**value, part: _without_inside(value[part], inner_path)} if inner_path and part in value else value


def _without_inside(value: object, path: str) -> object:
    if isinstance(value, Mapping):
        return _without(value, path)
    part, _, inner_path = path.partition(".")
    if not isinstance(value, list) or not part.isdecimal() or int(part) >= len(value):
        return value
    inside = [_without_inside(value[int(part)], inner_path)] if inner_path else []
    return [*value[: int(part)], *inside, *value[int(part) + 1 :]]
