from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from rich.console import Console

from tests.unit.render.test_report import parse
from trainer.render.decide.cost_chart import cost_chart
from trainer.render.decide.page import decide_fragment, render_decide_page
from trainer.render.decide.terminal import decide_summary
from trainer.shapes.decision import Decision

EVIL = '<script>alert(1)</script><img src="x">'


def arm(value: float | None = 0.6, **changes: Any) -> Any:
    quality = None if value is None else {"value": value, "low": value - 0.05, "high": value + 0.05}
    against = {"value": 0.2, "low": 0.1, "high": 0.3}
    cost = {"per_1000": 1.04, "per_accepted": 0.0011}
    measured = {"prompt_tokens": 200.0, "answer_tokens": 20.0, "latency_p50_s": 0.4, "latency_p95_s": 0.5}
    facts = {"failures": {"format": 4}, "cost": cost, "retriever": None}
    return {"quality": quality, "against_best_prompted": against, **measured, **facts, **changes}


HOSTING = {"gpus_per_replica": 1, "utilisation": 0.6, "hours_per_day": 24.0, "requests_per_second": "auto"}
PRICES = {"as_of": "2026-11-01", "currency": "USD", "gpu_hour": 0.8}
CURVE = {"volumes": [1e3, 1e4, 1e5], "arms": {"few_shot": [1.0, 10.0, 100.0], "tuned": [20.0, 20.0, 40.0]}}


def decision(**changes: Any) -> Any:
    document: dict[str, Any] = {
        "verdict": "tune",
        "headline": "Tune: tuned beats few_shot.",
        "because": ["One reason."],
        "would_change": ["Another price."],
        "price": [],
        "price_measured": True,
        "confidence_covers": "which rows were held out",
        "confidence": 0.93,
        "confidence_by_verdict": {"tune": 0.93, "do_not_tune": 0.07},
        "metric": "exact_match",
        "target": 0.95,
        "heldout_rows": 300,
        "best_prompted": "few_shot",
        "best_tuned": "tuned",
        "arms": {"few_shot": arm(against_best_prompted=None), "tuned": arm(0.8)},
        "assumed_tuned": None,
        "break_even_requests_per_day": 2e4,
        "break_even_by_arm": {"few_shot": {"requests_per_day": 2e4, "first": 2e4, "replicas": 1}},
        "sensitivity": [{"price": "gpu_hour", "x0.5": 1e4, "x2": 4e4, "x10": None}],
        "curve": CURVE,
        "assumptions": {
            "prices": PRICES,
            "hosting": HOSTING,
            "requests_per_day": 2e4,
            "lifetime_days": 90.0,
            "cache_prompts": True,
            "batch_discount": 0.0,
            "fallback": None,
            "training_hours": 0.5,
        },
        "providers": {
            "openai": {
                "verdict": "usable",
                "sentence": "12 rows.",
                "failing": {"too_long": 2},
                "first": {"too_long": ["a:1", "a:2"]},
                "requirements": {"title": "OpenAI", "note": "A note.", "as_of": "2026-05-29", "source": "x"},
            }
        },
    }
    return copy.deepcopy({**document, **changes})


def page_of(value: Decision) -> str:
    return render_decide_page(value, name="demo", trainer_version="0")


def terminal_of(value: Decision, width: int = 140) -> str:
    console = Console(width=width, highlight=False)
    with console.capture() as rendered:
        console.print(decide_summary(value))
    return rendered.get()


NO_PRICES = decision(curve={"volumes": [], "arms": {}}, break_even_by_arm={}, break_even_requests_per_day=None)
NO_PRICES["assumptions"]["prices"] = None
for inputs in NO_PRICES["arms"].values():
    inputs["cost"] = {"missing": "no prices in the recipe"}


@pytest.mark.parametrize("value", [decision(), NO_PRICES], ids=["full", "no prices"])
def test_the_page_is_well_formed_and_asks_for_nothing(value: Decision) -> None:
    for text in (page_of(value), str(decide_fragment(value))):
        parsed = parse(text)
        assert parsed.open == [] and parsed.requests == []
        assert not parsed.tags & {"link", "iframe", "img", "object"}


def test_whatever_a_name_or_sentence_holds_is_escaped() -> None:
    value = decision(headline=EVIL, because=[EVIL], would_change=[EVIL], best_tuned=EVIL, metric=EVIL)
    value["arms"][EVIL] = arm(0.9)
    value["curve"]["arms"][EVIL] = [1.0, 2.0, 3.0]
    value["break_even_by_arm"][EVIL] = {"requests_per_day": None, "first": 5.0, "replicas": None}
    value["assumptions"]["prices"]["currency"] = EVIL
    value["providers"]["openai"]["first"]["too_long"] = [EVIL]
    for text in (page_of(value), str(decide_fragment(value))):
        assert "img" not in parse(text).tags and text.count("<script") <= 1 and "&lt;script&gt;" in text


@pytest.mark.parametrize("width", [80, 120])
def test_no_figure_is_cut_however_long_the_names_of_arms_are(width: int) -> None:
    value = decision()
    value["arms"]["dynamic_few_shot_with_a_long_name"] = arm(0.7) | {"retriever": "embeddings, all-MiniLM-L6-v2"}
    rendered, wide = terminal_of(value, width), terminal_of(value, 200)
    figures = re.findall(r"[\d.,]+(?:%| s)?(?= |\]|$)", wide.split("\n\n")[0])
    assert "…" not in rendered and len(figures) > 20 and all(figure in rendered for figure in figures)


def test_no_prices_is_said_and_leaves_no_empty_columns() -> None:
    page = page_of(NO_PRICES)
    assert "No prices in the recipe" in page and "per accepted" not in page and "<figure>" not in page


def test_the_break_even_is_marked_and_the_utilisation_stated() -> None:
    page = page_of(decision())
    assert "break-even 20,000" in page and "stated volume 20,000" in page and "60% of its throughput" in page
    assert "tuned is cheaper than few_shot from 20,000 requests a day on, with 1 replica." in page
    assert ">never<" in page and "halved" in page


def test_a_break_even_that_a_replica_undoes_says_both_volumes() -> None:
    results = {"requests_per_day": 22_260.0, "first": 3975.0, "replicas": 6}
    page = page_of(decision(break_even_by_arm={"few_shot": results}))
    assert "22,260" in page and "for the first time at 3,975" in page


def test_the_terminal_shows_each_arm_and_the_verdict_in_one_line() -> None:
    rendered = terminal_of(decision())
    assert "Tune: tuned beats few_shot.\n" in rendered and "prices of 2026-11-01" in rendered
    assert re.search(r"tuned +80.0% \[75.0 to 85.0\] +200 +20 +0.40 s +0.50 s +1.04 +0.0011", rendered)


def test_what_is_no_number_is_a_dash() -> None:
    value = decision(confidence=None)
    value["arms"]["few_shot"] = arm(None, prompt_tokens=None, latency_p50_s=None, against_best_prompted=None)
    value["curve"]["arms"]["tuned"] = [float("nan"), float("inf"), 0.0]
    for text in (page_of(value).split("</style>")[1].split("<script>")[0], terminal_of(value)):
        assert not re.search(r"\b(nan|inf|None)\b", text)


def test_a_plot_without_costs_is_empty() -> None:
    none = cost_chart({"volumes": [], "arms": {}}, tuned=None, prompted=None, break_even=None, volume=None, currency="")
    assert none.chart == "" and none.table == []


def test_a_mark_outside_the_plot_is_left_out() -> None:
    drawn = cost_chart(CURVE, tuned="tuned", prompted="few_shot", break_even=1e9, volume=None, currency="USD")
    assert "break-even" not in drawn.chart and drawn.chart.count("&#34;role&#34;") == 2
    assert drawn.table == [
        ["requests a day", "few_shot", "tuned"],
        ["1,000", "1", "20"],
        ["10,000", "10", "20"],
        ["100,000", "100", "40"],
    ]
