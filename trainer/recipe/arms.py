"""Define what is compared: a model together with the way it is prompted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from trainer.recipe.base import Section

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Endpoint(Section):
    """A model behind an OpenAI-compatible address."""

    base_url: str
    """Address up to and including the version, for example http://127.0.0.1:8000/v1."""
    name: str
    """Name of the model there."""
    api_key_env: str | None = None
    """Environment variable that holds the key; the key itself never stands in a recipe."""
    timeout_s: float = Field(default=60.0, gt=0)
    """Longest wait for one answer."""
    max_retries: int = Field(default=4, ge=0, le=20)
    """Further attempts after a refused, failed or timed-out request, with growing pauses."""
    max_context_tokens: PositiveInt | None = None
    """Longest prompt that it takes, where it is known."""


class Prompt(Section):
    """The best prompt that the user has, in place of the rows' own system prompt."""

    text: str | None = None
    """The prompt itself."""
    path: str | None = None
    """File that holds the prompt: role, constraints, output format, examples."""
    reasoning_tag: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    """Tag around reasoning, for example `thinking`: what stands in it is cut off before grading."""

    @model_validator(mode="after")
    def text_or_path(self) -> Prompt:
        if (self.text is None) == (self.path is None):
            raise ValueError("give exactly one of `text` and `path`")
        return self


class Shots(Section):
    """Training rows shown as examples before the question."""

    fixed: int = Field(default=0, ge=0, le=200)
    """Examples that are the same for all questions: a prefix that servers can cache."""
    dynamic: int = Field(default=0, ge=0, le=200)
    """Examples most similar to the question, the most similar one last."""
    path: str | None = None
    """File of rows to take fixed examples from, in its order; otherwise a seeded choice of training rows."""
    retriever: Literal["auto", "embeddings", "bm25"] = "auto"
    """What similarity means; auto: sentence embeddings where installed, else BM25."""

    @model_validator(mode="after")
    def at_least_one(self) -> Shots:
        if not self.fixed and not self.dynamic:
            raise ValueError("give `fixed`, `dynamic` or both")
        return self


class Documents(Section):
    """Passages of a folder that are put before the question."""

    path: str
    """File or folder of .txt, .md and .jsonl (`text` key) documents."""
    num_passages: int = Field(default=3, ge=1, le=50)
    """Passages shown to each question."""
    passage_words: int = Field(default=120, ge=20, le=2000)
    """Longest passage, in words."""
    retriever: Literal["auto", "embeddings", "bm25"] = "auto"
    """What similarity means; auto: sentence embeddings where installed, else BM25."""


class Arm(Section):
    """One way to answer."""

    name: str = Field(pattern=NAME_PATTERN, max_length=60)
    """Its name in tables and gates."""
    model: Literal["base", "start", "tuned"] | Endpoint = "base"
    """base; start: with the adapter of `adapter.init_from`; tuned; or an endpoint."""
    prompt: Prompt | None = None
    """System prompt in place of the rows' own."""
    shots: Shots | None = None
    """Examples before the question."""
    documents: Documents | None = None
    """Retrieved passages before the question."""
    repair: bool = False
    """One second attempt for an answer that breaks the format, shown what is wrong."""

    @property
    def is_plain(self) -> bool:
        """Tell whether it asks as the rows do, with nothing added."""
        return self.prompt is None and self.shots is None and self.documents is None

    @property
    def retriever(self) -> Literal["auto", "embeddings", "bm25"] | None:
        """Return how it looks for examples or passages; None where it looks for none."""
        if self.documents is not None:
            return self.documents.retriever
        return self.shots.retriever if self.shots and self.shots.dynamic else None

    @property
    def is_prompted(self) -> bool:
        """Tell whether it is an alternative to tuning: untuned weights with more than the rows' own prompt."""
        return self.model not in ("tuned", "start") and (not self.is_plain or isinstance(self.model, Endpoint))


ArmName = Literal["base", "start", "tuned", "few_shot", "dynamic_few_shot", "tuned_few_shot"]

_SHORT = {
    "few_shot": Arm(name="few_shot", shots=Shots(fixed=4)),
    "dynamic_few_shot": Arm(name="dynamic_few_shot", shots=Shots(dynamic=4)),
    "tuned_few_shot": Arm(name="tuned_few_shot", model="tuned", shots=Shots(dynamic=4)),
    "base": Arm(name="base"),
    "start": Arm(name="start", model="start"),
    "tuned": Arm(name="tuned", model="tuned"),
}


def written_out(arm: ArmName | Arm) -> Arm:
    """Return the arm that a bare name stands for."""
    return arm if isinstance(arm, Arm) else _SHORT[arm]
