"""Find values with Presidio's recognisers: the extra `presidio`."""

from __future__ import annotations

import importlib
from functools import cached_property
from pathlib import Path
from typing import Protocol

from trainer.data.pii.detectors.rule import Match
from trainer.errors import HardwareError
from trainer.recipe.pii import Presidio


class Result(Protocol):
    """The part of `presidio_analyzer.RecognizerResult` in use here."""

    start: int
    end: int
    entity_type: str


class AnalyzerEngine(Protocol):
    """The part of `presidio_analyzer.AnalyzerEngine` in use here."""

    def analyze(
        self, text: str, *, language: str, entities: list[str] | None, score_threshold: float
    ) -> list[Result]: ...


class PresidioDetector:
    """Finds what Presidio recognises, under the type `presidio:NAME`. The first text builds the engine."""

    def __init__(self, section: Presidio) -> None:
        self._section = section

    def __getstate__(self) -> dict[str, Presidio]:
        return {"_section": self._section}

    def find(self, text: str) -> list[Match]:
        entities = self._section.entities or None
        results = self._engine.analyze(
            text, language=self._section.language, entities=entities, score_threshold=self._section.threshold
        )
        return [Match(result.start, result.end, f"presidio:{result.entity_type}") for result in results]

    @cached_property
    def _engine(self) -> AnalyzerEngine:
        """Build Presidio's engine with the language engine of the recipe.

        Raises:
            HardwareError: Presidio is not installed, or the file of its language engine does not exist.
        """
        try:
            analyzer = importlib.import_module("presidio_analyzer")
            nlp_engine = importlib.import_module("presidio_analyzer.nlp_engine")
            tldextract = importlib.import_module("tldextract.tldextract")
        except ImportError as error:
            raise HardwareError(
                f"data.pii.presidio needs a package that is not installed: {error.name}",
                hint='pip install -c constraints.txt "recipe-trainer[presidio]", or take data.pii.presidio out',
            ) from error
        # By default Presidio's rule for e-mails downloads the list of public suffixes; the packaged one is enough.
        setattr(tldextract, "TLD_EXTRACTOR", tldextract.TLDExtract(suffix_list_urls=()))  # noqa: B010
        nlp = nlp_engine.NlpEngineProvider(**self._configuration()).create_engine()
        engine: AnalyzerEngine = analyzer.AnalyzerEngine(nlp_engine=nlp, supported_languages=[self._section.language])
        return engine

    def _configuration(self) -> dict[str, object]:
        if self._section.engine_conf == "no_op":
            # An engine without a model. Presidio's default downloads one.
            model = {"lang_code": self._section.language, "model_name": "no_op"}
            return {"nlp_configuration": {"nlp_engine_name": "no_op", "models": [model]}}
        if not Path(self._section.engine_conf).is_file():
            raise HardwareError(
                f"data.pii.presidio.engine_conf: no file {self._section.engine_conf}",
                hint="give the path of a Presidio engine file, or no_op",
            )
        return {"conf_file": self._section.engine_conf}
