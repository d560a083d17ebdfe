"""A fix is what the recipe leaves open: nothing that is set is advised, and nothing where nothing is due."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.unit.data.lint.rows import linted, of_rule
from trainer.data.lint.finding import CountedRows, Finding, LintContext, PersonalData
from trainer.data.lint.findings.tokens import LongRows, TokenFacts, token_findings
from trainer.data.lint.fixes import advised
from trainer.data.lint.rules import RULES
from trainer.data.lint.run import settled, severity_of
from trainer.recipe.data import DataSection
from trainer.recipe.lint import Lint

SOURCE = {"path": "a.jsonl"}


def fix(rule: str, **section: Any) -> str:
    data = DataSection.model_validate({"sources": [SOURCE], **section})
    return str(advised(Finding(rule, ""), data).to_json()["fix"])


@pytest.mark.parametrize(
    ("train", "heldout", "rule"),
    [(34, 9, "S007"), (36, 4, "S005"), (160, 40, None), (159, 41, None), (900, 100, "S005"), (7, 3, "S007")],
)
def test_few_held_out_rows_are_told_by_their_share_or_their_number(train: int, heldout: int, rule: str | None) -> None:
    context = LintContext(rows_read=train + heldout, rows_train=train, rows_heldout=heldout)
    rules = [finding.rule for finding in linted([], context, min_rows=0)]
    assert rules == ([rule] if rule else [])
    for finding in linted([], context, min_rows=0):
        assert ("%" in finding.detail) == (finding.rule == "S005")


@pytest.mark.parametrize(
    ("rule", "section", "advice", "never"),
    [
        ("S005", {"split": {"heldout": 0.1}}, "set data.split.heldout: 0.2", ""),
        ("S005", {"split": {"heldout": 0.2}}, "more different rows", "data.split.heldout: "),
        ("S005", {"split": {"heldout": 0.3, "by": "customer"}}, "'customer'", "data.split.heldout: "),
        ("S005", {"split": {"heldout_path": "b.jsonl"}}, "add rows to data.split.heldout_path", "set "),
        ("S005", {"split": {"heldout": 0.2}, "lint": {"min_heldout_share": 0.3}}, "data.split.heldout: 0.3", ""),
        ("S007", {"split": {"heldout": 0.2}}, "of 50 in all, 10 are held out", "set "),
        ("S007", {"split": {"heldout_path": "b.jsonl"}}, "add rows to data.split.heldout_path", "set "),
        ("F003", {}, "set data.sources[].format or mapping", ""),
        ("F003", {"sources": [SOURCE | {"mapping": {"prompt": "q"}}]}, "correct data.sources[].mapping", "set "),
        ("F003", {"sources": [SOURCE | {"format": "alpaca"}]}, "correct data.sources[].format", "set "),
        ("F019", {}, "take them out of the rows", "data.clean"),
        ("F019", {"clean": {"special_tokens": False}}, "set data.clean.special_tokens: true", ""),
        ("Q004", {}, "read the file as it is coded", "data.clean"),
        ("Q004", {"clean": {"encoding": False}}, "set data.clean.encoding: true", ""),
        ("Q005", {}, "at the source", "data.clean"),
        ("Q005", {"clean": {"unicode": "keep"}}, "set data.clean.unicode: nfc", "invisible"),
        ("Q005", {"clean": {"invisible_characters": False}}, "set data.clean.invisible_characters: true", "nfc"),
        ("Q019", {}, "at the source", "data.clean"),
        ("Q019", {"clean": {"invisible_characters": False}}, "set data.clean.invisible_characters: true", ""),
        ("Q006", {}, "at the source", "data.clean"),
        ("Q006", {"clean": {"html": False}}, "set data.clean.html: true", ""),
        ("Q007", {}, "at the source", "data.clean"),
        ("Q007", {"clean": {"whitespace": False}}, "set data.clean.whitespace: true", ""),
        ("S003", {"contamination": {"action": "report"}}, "data.contamination.action: drop", ""),
        ("B001", {}, "50 good ones", ""),
        ("B001", {"lint": {"min_rows": 500}}, "data.lint.min_rows is 500", "50 good"),
        ("B002", {}, "set data.system_prompt with when: replace", ""),
        ("B002", {"system_prompt": {"text": "a"}}, "set data.system_prompt.when: replace", "with"),
        ("B002", {"system_prompt": {"text": "a", "when": "replace"}}, "serving_system_prompt one text", "set "),
        ("B013", {"system_prompt": {"text": "a"}}, "set data.system_prompt.when: replace", "with"),
        ("Q002", {}, RULES["Q002"].fix, ""),
    ],
)
def test_what_is_set_is_not_advised(rule: str, section: dict[str, Any], advice: str, never: str) -> None:
    text = fix(rule, **section)
    assert advice in text and (not never or never not in text), text


def test_a_fix_that_the_finding_has_is_kept() -> None:
    data = DataSection.model_validate({"sources": [SOURCE]})
    assert advised(Finding("Q007", "", fix=""), data).fix == ""
    assert advised(Finding("F020", "", fix="set it"), data).fix == "set it"


@pytest.mark.parametrize(
    ("kind", "action", "advice"),
    [
        ("email", "report", "set data.pii.types: {email: redact}"),
        ("mac", "report", "set data.pii.types: {mac: redact}"),
        ("de_tax_id", "report", "set data.pii.types: {de_tax_id: redact}"),
        ("crypto", "report", "set data.pii.types: {crypto: redact}"),
        ("jwt", "report", "revoke them, and set data.pii.secrets: redact"),
        ("name:PER", "report", "look at them: what a model recognises is only reported"),
        ("presidio:PERSON", "report", "look at them: what a model recognises is only reported"),
        ("presidio:PHONE_NUMBER", "report", "look at them: what a model recognises is only reported"),
        ("email", "redact", ""),
        ("jwt", "redact", ""),
    ],
)
def test_personal_data_is_advised_by_its_type(kind: str, action: str, advice: str) -> None:
    context = LintContext(rows_read=9, pii={kind: PersonalData(CountedRows(1), action)})
    (finding,) = [finding for finding in linted([], context, min_rows=0) if finding.rule[0] == "P"]
    assert finding.to_json()["fix"] == advice


def _facts(**changes: Any) -> TokenFacts:
    none = CountedRows()
    values = {"max_length": 64, "lengths": np.full(100, 32), "num_trained": 900, "long": LongRows(none, 0, 0, none)}
    values |= {"num_packs": 50, "fill": 0.99, "num_items": 50, "batch_size": 2, "num_steps": 75}
    return TokenFacts(**values | changes)


def _fixes(facts: TokenFacts) -> dict[str, str]:
    return {finding.rule: finding.to_json()["fix"] for finding in token_findings(facts, Lint())}


def test_figures_of_tokens_have_a_fix_only_where_one_is_due() -> None:
    assert _fixes(_facts()) == {"T001": "", "T002": "", "T003": ""}
    loose = _fixes(_facts(fill=0.5))
    assert loose["T002"] == RULES["T002"].fix and loose["T003"] == ""
    assert _fixes(_facts(fill=0.5, num_packs=1))["T002"] == ""


@pytest.mark.parametrize(
    ("changes", "advice"),
    [
        ({}, "lower train.global_batch_size, or raise train.num_train_epochs: the schedule needs steps"),
        (
            {"limit": "train.max_steps"},
            "lower train.global_batch_size, or raise train.max_steps: the schedule needs steps",
        ),
        ({"batch_size": 1}, "raise train.num_train_epochs: the schedule needs steps"),
    ],
    ids=["epochs", "max_steps", "batch of one"],
)
def test_few_steps_are_advised_by_the_key_that_limits_them(changes: dict[str, Any], advice: str) -> None:
    assert _fixes(_facts(num_steps=7, **changes))["T003"] == advice


def test_a_figure_within_bounds_is_no_error_whatever_its_rule_weighs() -> None:

    section = Lint(severity={"T003": "error", "T001": "error"})
    ample, few = (settled(token_findings(_facts(num_steps=count), section), section) for count in (75, 7))
    assert [severity_of(finding) for finding in of_rule(ample, "T003") + of_rule(ample, "T001")] == ["info", "info"]
    assert severity_of(of_rule(few, "T003")[0]) == "error"
