"""Shows decide/decision.json as a page of its own, as a part of the report, and as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup
from rich.console import Group
from rich.table import Table
from rich.text import Text

from trainer.render.cost import cost_plot
from trainer.render.format import DASH, MINUS, count_of, finite, write_number
from trainer.render.page import encodable, page_environment

COLUMNS = ("quality", "prompt\ntokens", "answer\ntokens", "p50", "p95")
COST_COLUMNS = ("per\n1,000", "per\naccepted")
VERDICTS = {
    "insufficient_evidence": "Too little evidence",
    "prompt": "Prompt",
    "smaller_tuned_model": "A smaller tuned model",
    "nothing_fits": "Nothing fits",
    "tune": "Tune",
    "rag_first": "Documents first",
    "do_not_tune": "Do not tune",
    "refine_prompt_or_data": "Refine the prompt or add data",
}
READY = {"ready": "ready", "usable": "few rows", "not_ready": "not ready"}
FACTORS = {"x0.5": "halved", "x2": "doubled", "x10": "times ten"}
Json = Mapping[str, Any]


@dataclass(frozen=True)
class ArmRow:
    """One line of the table of arms, written out."""

    name: str
    role: Literal["first", "second", ""]
    """first: the best tuned arm; second: the best prompted one."""
    quality: str
    interval: str
    against: str
    against_interval: str
    standing: Literal["better", "worse", ""]
    tokens: tuple[str, str]
    """Prompt and answer tokens."""
    latency: tuple[str, str]
    """p50 and p95."""
    costs: tuple[str, str]
    """Per 1,000 requests and per accepted answer."""
    missing: str
    """Why there is no cost."""
    retriever: str
    """What found its examples or passages."""


def render_decide_page(decision: Json, *, name: str, trainer_version: str) -> str:
    """Render decide/decision.json as one self-contained HTML page.

    Args:
        decision: decide/decision.json.
        name: name of the run.
        trainer_version: version of this package.
    """
    page = page_environment().get_template("decide_page.html.j2")
    return encodable(page.render(**_context(decision), name=name, trainer_version=trainer_version))


def decide_fragment(decision: Json) -> Markup:
    """Render the same as a part of another page: a style element and sections without a heading of their own."""
    text = page_environment().get_template("decide_fragment.html.j2").render(**_context(decision))
    return Markup(encodable(text))


def _context(decision: Json) -> dict[str, Any]:
    assumptions = decision["assumptions"]
    prices = assumptions.get("prices")
    tuned = decision["best_tuned"] or ("tuned (assumed)" if decision.get("assumed_tuned") else None)
    return {
        "decision": decision,
        "confidence": _confidence(decision),
        "rows": arm_rows(decision),
        "prices": prices,
        "currency": prices["currency"] if prices else "",
        "basis": _basis(decision),
        "plot": cost_plot(
            decision["curve"],
            tuned=tuned,
            prompted=decision["best_prompted"],
            break_even=decision["break_even_requests_per_day"],
            volume=assumptions.get("requests_per_day"),
            currency=prices["currency"] if prices else "",
        ),
        "break_evens": _break_evens(decision, tuned),
        "sensitivity": _sensitivity(decision),
        "caption": _caption(decision),
        "assumptions": _assumptions(decision),
        "failures": _failures(decision),
        "providers": _providers(decision),
    }


def arm_rows(decision: Json) -> list[ArmRow]:
    """Line up the arms, the best first."""
    rows = sorted(decision["arms"].items(), key=lambda item: -_value(item[1]))
    return [_arm_row(name, arm, decision) for name, arm in rows]


def _value(arm: Json) -> float:
    found = finite((arm["quality"] or {}).get("value"))
    return -1.0 if found is None else found


def _arm_row(name: str, arm: Json, decision: Json) -> ArmRow:
    quality, against, cost = arm["quality"], arm["against_best_prompted"], arm["cost"] or {}
    role: Literal["first", "second", ""] = ""
    if name == decision["best_tuned"]:
        role = "first"
    elif name == decision["best_prompted"]:
        role = "second"
    return ArmRow(
        name=name,
        role=role,
        quality=_share(quality["value"]) if quality else DASH,
        interval=_bounds(quality) if quality else "",
        against=_points(against["value"]) if against else "",
        against_interval=f"{_points(against['low'])} to {_points(against['high'])}" if against else "",
        standing=_standing(against),
        tokens=(_tokens(arm.get("prompt_tokens")), _tokens(arm.get("answer_tokens"))),
        latency=(_seconds(arm.get("latency_p50_s")), _seconds(arm.get("latency_p95_s"))),
        costs=(money(cost.get("per_1000")), money(cost.get("per_accepted"))),
        missing=str(cost.get("missing") or ""),
        retriever=str(arm.get("retriever") or ""),
    )


def _standing(against: Json | None) -> Literal["better", "worse", ""]:
    if against is None or against["low"] <= 0 <= against["high"]:
        return ""
    return "better" if against["low"] > 0 else "worse"


def _share(value: object) -> str:
    number = finite(value)
    return DASH if number is None else f"{100 * number:.1f}%"


def _bounds(quality: Json) -> str:
    return f"{100 * quality['low']:.1f} to {100 * quality['high']:.1f}"


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", MINUS)


def _tokens(value: object) -> str:
    number = finite(value)
    return DASH if number is None else f"{number:,.0f}"


def _seconds(value: object) -> str:
    number = finite(value)
    return DASH if number is None else f"{number:.2f} s"


def money(value: object) -> str:
    """Write an amount: cents from one unit on, two significant digits below."""
    number = finite(value)
    if number is None:
        return DASH
    return f"{number:,.2f}" if abs(number) >= 0.1 or number == 0 else f"{number:.2g}"


def _confidence(decision: Json) -> str:
    """Say how often resamples of the rows lead to the same verdict, and which others they lead to."""
    share = finite(decision["confidence"])
    if share is None:
        return "No rows with grades of every arm: how sure this is cannot be said."
    others = [
        f"{VERDICTS[name].lower()} {value:.0%}"
        for name, value in decision["confidence_by_verdict"].items()
        if name != decision["verdict"] and value >= 0.005
    ]
    more = f"; otherwise {', '.join(others)}" if others else ""
    covers = f" This covers {decision['confidence_covers']}." if decision.get("confidence_covers") else ""
    return f"{share:.0%} of 1,000 resamples of the held-out rows lead to the same verdict{more}.{covers}"


def _basis(decision: Json) -> str:
    volume = decision["assumptions"].get("requests_per_day")
    days = decision["assumptions"]["lifetime_days"]
    if volume is None:
        return "Costs are those of fully used replicas, without what is paid once: the recipe states no volume."
    return f"At {volume:,.0f} requests a day, what is paid once spread over {days:g} days."


def _caption(decision: Json) -> str:
    """State what the lines of the plot assume."""
    given = decision["assumptions"]
    hosting = given["hosting"]
    cached = "cached" if given["cache_prompts"] else "not cached"
    discount = f", batch discount {given['batch_discount']:.0%}" if given["batch_discount"] else ""
    return (
        f"Steps are further replicas, each used to {hosting['utilisation']:.0%} of its throughput for "
        f"{hosting['hours_per_day']:g} hours a day; the shared prefix of prompts is {cached} at endpoints{discount}."
    )


def _break_evens(decision: Json, tuned: str | None) -> list[str]:
    """Say for each other arm from which volume tuning is cheaper."""
    sentences = []
    for other, found in decision["break_even_by_arm"].items():
        at, first = found["requests_per_day"], found["first"]
        if at is None:
            early = f", although it is for a while from {first:,.0f} on" if first else ""
            sentences.append(f"{tuned} never stays cheaper than {other}{early}.")
        elif at == 0:
            sentences.append(f"{tuned} is cheaper than {other} at any volume.")
        else:
            replicas = found["replicas"]
            early = f" It is for the first time at {first:,.0f}." if first and first < at * 0.999 else ""
            used = count_of(replicas, "replica")
            sentences.append(f"{tuned} is cheaper than {other} from {at:,.0f} requests a day on, with {used}.{early}")
    return sentences


def _sensitivity(decision: Json) -> list[tuple[str, list[str]]]:
    return [
        (entry["price"], [_volume(entry.get(key)) for key in FACTORS]) for entry in decision["sensitivity"] if entry
    ]


def _volume(value: object) -> str:
    number = finite(value)
    return "never" if number is None else f"{number:,.0f}"


def _assumptions(decision: Json) -> list[tuple[str, str]]:
    given = decision["assumptions"]
    hosting, prices = given["hosting"], given.get("prices")
    rate = hosting["requests_per_second"]
    rates = ", ".join(f"{arm} {value:g}" for arm, value in rate.items()) if isinstance(rate, Mapping) else rate
    facts = {
        "prices as of": prices["as_of"] if prices else None,
        "GPU hour": f"{money(prices['gpu_hour'])} {prices['currency']}" if prices and prices["gpu_hour"] else None,
        "GPUs of a replica": hosting["gpus_per_replica"],
        "requests a second of a replica": "as measured by eval" if rates == "auto" else rates,
        "utilisation": f"{hosting['utilisation']:.0%}",
        "hours a day": hosting["hours_per_day"],
        "GPU hours of the training": round(given["training_hours"], 4),
        "days until tuned again": given["lifetime_days"],
        "shared prefix cached": given["cache_prompts"],
        "batch discount": f"{given['batch_discount']:.0%}",
        "fall-back": given["fallback"],
    }
    return [(key, write_number(value)) for key, value in facts.items() if value is not None]


def _failures(decision: Json) -> list[tuple[str, list[str]]]:
    """Return the failures by kind of each arm that has any, as cells."""
    kinds = ("format", "style", "knowledge", "refusal", "other")
    return [
        (name, [write_number(arm["failures"].get(kind, 0)) for kind in kinds])
        for name, arm in decision["arms"].items()
        if arm["failures"] and any(arm["failures"].values())
    ]


def _providers(decision: Json) -> list[dict[str, Any]]:
    return [
        {
            "title": found["requirements"]["title"],
            "verdict": READY[found["verdict"]],
            "style": {"ready": "good", "not_ready": "bad"}.get(found["verdict"], ""),
            "sentence": found["sentence"],
            "failing": [
                f"{count:,} {reason.replace('_', ' ')}: {', '.join(found['first'][reason])}"
                for reason, count in found["failing"].items()
            ],
            "note": found["requirements"]["note"],
            "as_of": found["requirements"]["as_of"],
            "source": found["requirements"]["source"],
        }
        for found in decision["providers"].values()
    ]


def decide_summary(decision: Json) -> Group:
    """Return the arms as a table, and the verdict in one line with the reasons below it."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    prices = decision["assumptions"].get("prices")
    table.add_column("arm", overflow="fold")  # the only column that gives way: a figure is never cut
    for name in COLUMNS + (COST_COLUMNS if prices else ()):
        table.add_column(name, justify="right", no_wrap=True)
    for row in arm_rows(decision):
        quality = Text.assemble(row.quality, (f" [{row.interval}]" if row.interval else "", "dim"))
        arm = Text.assemble(row.name, (f"\n{row.retriever}" if row.retriever else "", "dim"))
        table.add_row(arm, quality, *row.tokens, *row.latency, *(row.costs if prices else ()))
    parts: list[Table | Text] = [table, Text("")]
    said = f"costs in {prices['currency']}, prices of {prices['as_of']}" if prices else "no prices in the recipe"
    parts += [
        Text(f"{decision['metric']} on {count_of(decision['heldout_rows'], 'row')}; {said}", style="dim"),
        Text(""),
    ]
    parts.append(Text(decision["headline"], style="bold"))
    parts += [Text(f"  {sentence}") for sentence in decision["because"]]
    parts.append(Text(f"  {_confidence(decision)}", style="dim"))
    return Group(*parts)
