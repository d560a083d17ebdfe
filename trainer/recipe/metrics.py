"""Define the metrics that mark answers: what `eval.metrics` and the items of a suite may name.

`higher_is_better`, `is_share` (marks are 0 or 1) and `is_format` (form, not content) are facts of a kind of metric.
"""

from __future__ import annotations

import re
import warnings
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, PositiveInt, TypeAdapter, field_validator, model_validator

from trainer.recipe.executed import Code, MathAnswer, Sql
from trainer.recipe.json_schema import check_schema, read_schema
from trainer.recipe.metric import Keyed, Metric, compiled

Comparator = Literal["auto", "exact", "normalised", "numeric", "set", "list", "ignore"]
Expected = Literal["refuse", "answer", "clarify"]


class ExactMatch(Keyed):
    """The answer is the expected text, outer white space aside."""

    kind: Literal["exact_match"] = "exact_match"


class NormalisedMatch(Keyed):
    """Equal after NFKC, case and white space are made one."""

    kind: Literal["normalised_match"] = "normalised_match"
    punctuation: bool = False
    """Leave punctuation out."""
    articles: bool = False
    """Leave a, an and the out."""
    numbers: bool = False
    """Write numbers in one way: 1,000.0 equals 1000."""


class OneOf(Metric):
    """The answer is one of several accepted texts."""

    kind: Literal["one_of"] = "one_of"
    values: list[str] | None = Field(default=None, min_length=1)
    """Accepted texts."""
    key: str = "accepted"
    """Field of the row with the accepted texts, where `values` is not given."""
    normalise: bool = True
    """Compare after NFKC, case, white space and outer punctuation are made one."""


class _Parts(Keyed):
    values: list[str] | None = Field(default=None, min_length=1)
    """Texts to look for; otherwise the expected value of the row."""
    mode: Literal["any", "all"] = "any"
    """Whether one of several texts counts, or only all of them together."""
    ignore_case: bool = True
    """Compare without regard to case."""
    whole: bool = True
    """Only whole words and numbers count: 18 does not stand in 180, nor cat in concatenate; false: parts count too."""


class Contains(_Parts):
    """The answer contains a text."""

    kind: Literal["contains"] = "contains"


class NotContains(_Parts):
    """The answer contains none of the texts; mode all: not all of them together."""

    kind: Literal["not_contains"] = "not_contains"


class Regex(Keyed):
    """A pattern is found in the answer; with `group`, what it captured is compared."""

    kind: Literal["regex"] = "regex"
    pattern: str
    """Regular expression of Python, searched for in the answer."""
    group: int | str | None = None
    """Group whose text must equal `expected`, or else the expected value of the row."""
    expected: str | None = None
    """Text that the group must equal."""
    ignore_case: bool = False
    """Search and compare without regard to case."""

    @field_validator("pattern")
    @classmethod
    def compiles(cls, pattern: str) -> str:
        return compiled(pattern)

    @model_validator(mode="after")
    def has_the_group(self) -> Regex:
        pattern = re.compile(self.pattern)
        groups = {*range(pattern.groups + 1), *pattern.groupindex}
        if self.group is not None and self.group not in groups:
            raise ValueError(f"`pattern` has no group {self.group!r}")
        if self.expected is not None and self.group is None:
            raise ValueError("`expected` needs `group`: 0 is the whole match")
        return self


class MultipleChoice(Keyed):
    """The right choice has the highest log-probability; nothing is generated for it."""

    kind: Literal["multiple_choice"] = "multiple_choice"
    choices: str = "choices"
    """Field of the row that lists the choices. The expected value is a text, an index from 0, or a letter from A."""
    normalise: Literal["none", "characters", "bytes"] = "none"
    """Divide each log-probability by the length of its choice, so that long choices are not at a loss."""


class Numeric(Keyed):
    """The number that the answer ends up with is the expected one."""

    kind: Literal["numeric"] = "numeric"
    expected: float | None = None
    """Number expected of every row."""
    abs_tolerance: float = Field(default=0.0, ge=0)
    """Largest absolute difference."""
    rel_tolerance: float = Field(default=1e-9, ge=0)
    """Largest difference relative to the expected number; whole numbers must be equal unless it is given."""
    pattern: str | None = None
    r"""Expression whose first group is the number, for example '####\s*(.+)'; also for the expected text."""

    @field_validator("pattern")
    @classmethod
    def compiles(cls, pattern: str | None) -> str | None:
        if pattern is not None and not re.compile(compiled(pattern)).groups:
            raise ValueError("the pattern needs a group around the number")
        return pattern


class Label(Keyed):
    """The answer is the expected label of a closed set; any other text is a failure of format."""

    kind: Literal["label"] = "label"
    labels: list[str] | None = Field(default=None, min_length=1)
    """The closed set; by default the expected values of all rows."""
    ignore_case: bool = False
    """Compare without regard to case."""


class ValidJson(Metric):
    """The whole answer is one JSON object or list."""

    is_format: ClassVar[bool] = True
    kind: Literal["valid_json"] = "valid_json"


with warnings.catch_warnings():  # BaseModel.schema is a deprecated method of pydantic's
    warnings.filterwarnings("ignore", message='Field name "schema"')

    class JsonSchema(Metric):
        """The whole answer is JSON that a JSON Schema allows."""

        is_format: ClassVar[bool] = True
        kind: Literal["json_schema"] = "json_schema"
        schema: str | dict[str, Any]  # type: ignore[assignment]
        """The schema itself, or a file that holds it."""

        @field_validator("schema")
        @classmethod
        def is_json_schema(cls, schema: str | dict[str, Any]) -> str | dict[str, Any]:
            check_schema(read_schema(schema) if isinstance(schema, str) else schema)
            return schema

        @property
        def definition(self) -> Any:
            """The schema, read from its file where it stands in one."""
            written: str | dict[str, Any] = self.schema
            return read_schema(written) if isinstance(written, str) else written


class JsonFields(Keyed):
    """F1 over the fields of a JSON answer; the items of a list count one by one, objects field by field."""

    is_share: ClassVar[bool] = False
    kind: Literal["json_fields"] = "json_fields"
    fields: dict[str, Comparator] | None = None
    """How a field is compared, nested ones by dotted names (`items.code` in each object of the list `items`).
    set and list: item by item, in any order or in order; ignore: not at all."""
    default: Comparator = "auto"
    """How other fields are compared; auto: lists as sets, numbers by value, all else exactly; ignore: only `fields`."""
    rel_tolerance: float = Field(default=1e-9, ge=0)
    """Largest relative difference of numbers."""
    measure: Literal["f1", "precision", "recall"] = "f1"
    """What a row's mark is."""
    average: Literal["micro", "row"] = "micro"
    """micro: over the fields of all rows together; row: mean of the rows' marks."""
    find: bool = False
    """Take the JSON out of text around it; otherwise such an answer has no right field."""


class ToolCallMatch(Keyed):
    """The answer makes the expected calls, by name and arguments; none where none is expected."""

    kind: Literal["tool_call"] = "tool_call"
    arguments: Literal["auto", "exact", "normalised", "ignore"] = "auto"
    """How arguments are compared; auto: numbers by value, all else exactly."""
    ignore: list[str] = Field(default_factory=list)
    """Arguments that are not compared."""
    ordered: bool = False
    """The calls must come in the expected order."""


class Refusal(Metric):
    """The answer refuses, answers, or asks back, as expected."""

    kind: Literal["refusal"] = "refusal"
    expected: Expected | None = None
    """What is expected of every row."""
    key: str = "expected"
    """Field of the row with refuse, answer or clarify, where `expected` is not given."""
    patterns: list[str] = Field(default_factory=list)
    """Further regular expressions that mark a refusal; English, German, French and Spanish are known."""

    @field_validator("patterns")
    @classmethod
    def compile_all(cls, patterns: list[str]) -> list[str]:
        return [compiled(pattern) for pattern in patterns]


class IfEval(Metric):
    """Verifiable instructions of IFEval: the row's `instruction_id_list` and `kwargs`."""

    is_format: ClassVar[bool] = True
    kind: Literal["ifeval"] = "ifeval"
    mode: Literal["strict", "loose"] = "strict"
    """loose: also without the first line, the last line or asterisks."""
    level: Literal["prompt", "instruction"] = "prompt"
    """prompt: 1 where all instructions are followed; instruction: share of the row's instructions followed."""

    @property
    def is_share(self) -> bool:  # type: ignore[override]
        """Marks are 0 or 1 where all instructions of a prompt count together."""
        return self.level == "prompt"


class RougeL(Keyed):
    """ROUGE-L: F1 over the longest common subsequence of words."""

    is_share: ClassVar[bool] = False
    kind: Literal["rouge_l"] = "rouge_l"
    stemmer: bool = False
    """Compare the stems of English words."""


class ChrF(Keyed):
    """chrF: F-score over character n-grams, from 0 to 1."""

    is_share: ClassVar[bool] = False
    kind: Literal["chrf"] = "chrf"
    word_order: int = Field(default=0, ge=0, le=4)
    """Longest word n-gram; 2 is chrF++."""


class TokenF1(Keyed):
    """F1 over words, without case, punctuation and articles, as in SQuAD."""

    is_share: ClassVar[bool] = False
    kind: Literal["token_f1"] = "token_f1"


class SemanticSimilarity(Keyed):
    """Cosine of sentence embeddings. It is blind to negation and to a single label or number: for free text only."""

    is_share: ClassVar[bool] = False
    kind: Literal["semantic"] = "semantic"
    model: str = "auto"
    """Folder of a sentence-transformers model; auto: the one of the extra `semantic`."""


class Length(Metric):
    """The answer's length lies within limits."""

    is_format: ClassVar[bool] = True
    kind: Literal["length"] = "length"
    unit: Literal["words", "characters", "sentences", "tokens"] = "words"
    """What is counted; tokens: as generated, the model's own."""
    min: PositiveInt | None = None
    """Shortest allowed answer."""
    max: PositiveInt | None = None
    """Longest allowed answer."""

    @model_validator(mode="after")
    def states_a_limit(self) -> Length:
        if self.min is None and self.max is None:
            raise ValueError("give at least one of `min` and `max`")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"`min` {self.min} is above `max` {self.max}")
        return self


class CleanStop(Metric):
    """The answer is not empty and ended by itself, not at the limit."""

    is_format: ClassVar[bool] = True
    kind: Literal["clean_stop"] = "clean_stop"


class Confidence(Keyed):
    """How far the confidence that a JSON answer states, or each object of a list, can be trusted; smaller is better."""

    higher_is_better: ClassVar[bool] = False
    is_share: ClassVar[bool] = False
    kind: Literal["confidence"] = "confidence"
    measure: Literal["ece", "brier"] = "ece"
    """Expected calibration error over all rows, or the mean squared distance of confidence from being right."""
    field: str = "confidence"
    """Field of the answer with the confidence."""
    answer_field: str | None = None
    """Field that is right or wrong; otherwise all fields but the confidence. An object of a list is right where an
    expected one agrees."""
    scale: float = Field(default=1.0, gt=0)
    """Confidence that means certainty: 1, or 100 for percentages."""
    bins: int = Field(default=10, ge=2, le=100)
    """Bins of equal width for the calibration error."""


class LlmJudge(Keyed):
    """A model at `eval.judge` marks the answer: 1 to 5 by a rubric, or against the expected answer."""

    is_share: ClassVar[bool] = False
    kind: Literal["llm_judge"] = "llm_judge"
    mode: Literal["rubric", "pairwise"] = "rubric"
    """pairwise: which of answer and expected answer is better, asked in both orders; 1 won, 0.5 tied, 0 lost."""
    rubric: str = "Judge how correct, complete and helpful the answer is."
    """What makes an answer good, in words."""
    show_reference: bool = True
    """Show the expected answer to a rubric judge, where there is one."""


RowGrader = (
    ExactMatch | NormalisedMatch | OneOf | Contains | NotContains | Regex | Numeric | ValidJson | JsonSchema
    | JsonFields | ToolCallMatch | Refusal | IfEval | RougeL | ChrF | TokenF1 | Length | CleanStop | Confidence
)  # fmt: skip
"""Metrics that mark one answer at a time, with nothing but its row beside it."""
Grader = Annotated[
    ExactMatch | NormalisedMatch | OneOf | Contains | NotContains | Regex | MultipleChoice | Numeric | Label
    | ValidJson | JsonSchema | JsonFields | ToolCallMatch | Refusal | IfEval | RougeL | ChrF | TokenF1
    | SemanticSimilarity | Length | CleanStop | Confidence | LlmJudge | MathAnswer | Sql | Code,
    Field(discriminator="kind"),
]  # fmt: skip

GraderName = Literal[
    "exact_match", "normalised_match", "one_of", "contains", "not_contains", "multiple_choice", "numeric", "label",
    "valid_json", "json_fields", "tool_call", "refusal", "ifeval", "rouge_l", "chrf", "token_f1", "semantic",
    "clean_stop", "confidence", "llm_judge", "math", "sql",
]  # fmt: skip
"""Kinds that need no key of their own, so that their bare name will do."""


def written_out(metric: str | Grader) -> Grader:
    """Return the metric that a bare name, one of `GraderName`, stands for."""
    if not isinstance(metric, str):
        return metric
    adapter: TypeAdapter[Grader] = TypeAdapter(Grader)
    return adapter.validate_python({"kind": metric})
