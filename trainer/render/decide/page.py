"""Render decide/decision.json as a page of its own, and as a part of the report."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from trainer.render.decide.cost_chart import cost_chart
from trainer.render.decide.rows import arm_rows, write_confidence
from trainer.render.html import encodable, page_environment
from trainer.render.numbers import count_of, write_amount, write_number
from trainer.shapes.decision import BreakEvenValues, Decision, Readiness, Sensitivity, ServiceReadiness
from trainer.shapes.scores import FAILURE_KINDS

READY: dict[Readiness, str] = {"ready": "ready", "usable": "few rows", "not_ready": "not ready"}
STYLES: dict[Readiness, str] = {"ready": "good", "usable": "", "not_ready": "bad"}


def render_decide_page(decision: Decision, *, name: str, trainer_version: str) -> str:
    """Render decide/decision.json as one self-contained HTML page."""
    page = page_environment().get_template("decide_page.html.j2")
    return encodable(page.render(**_context(decision), name=name, trainer_version=trainer_version))


def decide_fragment(decision: Decision) -> Markup:
    """Render the same as a part of another page: a style element and sections without a heading of their own."""
    text = page_environment().get_template("decide_fragment.html.j2").render(**_context(decision))
    return Markup(encodable(text))


def _context(decision: Decision) -> dict[str, object]:
    prices = decision["assumptions"]["prices"]
    tuned = decision["best_tuned"] or ("tuned (assumed)" if decision["assumed_tuned"] else None)
    currency = prices["currency"] if prices else ""
    return {
        "decision": decision,
        "confidence": write_confidence(decision),
        "rows": arm_rows(decision),
        "prices": prices,
        "currency": currency,
        "basis": _basis(decision),
        "plot": cost_chart(
            decision["curve"],
            tuned=tuned,
            prompted=decision["best_prompted"],
            break_even=decision["break_even_requests_per_day"],
            volume=decision["assumptions"]["requests_per_day"],
            currency=currency,
        ),
        "break_evens": [_break_even(arm, tuned, entry) for arm, entry in decision["break_even_by_arm"].items()],
        "sensitivity": [(entry["price"], _volumes(entry)) for entry in decision["sensitivity"]],
        "caption": _caption(decision),
        "assumptions": _assumptions(decision),
        "failures": _failures(decision),
        "providers": [_service_row(service) for service in decision["providers"].values()],
    }


def _basis(decision: Decision) -> str:
    volume, days = decision["assumptions"]["requests_per_day"], decision["assumptions"]["lifetime_days"]
    if volume is None:
        return "Costs are those of fully used replicas, without what is paid once: the recipe states no volume."
    return f"At {volume:,.0f} requests a day, what is paid once spread over {days:g} days."


def _caption(decision: Decision) -> str:
    """State what the lines of the plot assume."""
    assumptions, hosting = decision["assumptions"], decision["assumptions"]["hosting"]
    cached = "cached" if assumptions["cache_prompts"] else "not cached"
    discount = f", batch discount {assumptions['batch_discount']:.0%}" if assumptions["batch_discount"] else ""
    return (
        f"Steps are further replicas, each used to {hosting['utilisation']:.0%} of its throughput for "
        f"{hosting['hours_per_day']:g} hours a day; the shared prefix of prompts is {cached} at endpoints{discount}."
    )


def _break_even(arm: str, tuned: str | None, entry: BreakEvenValues) -> str:
    """Say from which volume tuning is cheaper than an arm."""
    volume, first = entry["requests_per_day"], entry["first"]
    if volume is None:
        early = f", although it is for a while from {first:,.0f} on" if first else ""
        return f"{tuned} never stays cheaper than {arm}{early}."
    if volume == 0:
        return f"{tuned} is cheaper than {arm} at any volume."
    replicas = count_of(entry["replicas"] or 0, "replica")
    # volumes come from a search with rounding: a thousandth is no difference
    early = f" It is for the first time at {first:,.0f}." if first and first < volume * 0.999 else ""
    return f"{tuned} is cheaper than {arm} from {volume:,.0f} requests a day on, with {replicas}.{early}"


def _volumes(entry: Sensitivity) -> list[str]:
    volumes = entry["x0.5"], entry["x2"], entry["x10"]
    return ["never" if volume is None else f"{volume:,.0f}" for volume in volumes]


def _assumptions(decision: Decision) -> list[tuple[str, str]]:
    assumptions = decision["assumptions"]
    hosting, prices = assumptions["hosting"], assumptions["prices"]
    rates = hosting["requests_per_second"]
    if isinstance(rates, dict):
        rates_text = ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items())
    else:
        rates_text = "as measured by eval" if rates == "auto" else write_number(rates)
    gpu_hour = f"{write_amount(prices['gpu_hour'])} {prices['currency']}" if prices and prices["gpu_hour"] else None
    facts = {
        "prices as of": prices["as_of"] if prices else None,
        "GPU hour": gpu_hour,
        "GPUs of a replica": hosting["gpus_per_replica"],
        "requests a second of a replica": rates_text,
        "utilisation": f"{hosting['utilisation']:.0%}",
        "hours a day": hosting["hours_per_day"],
        "GPU hours of the training": round(assumptions["training_hours"], 4),
        "days until tuned again": assumptions["lifetime_days"],
        "shared prefix cached": assumptions["cache_prompts"],
        "batch discount": f"{assumptions['batch_discount']:.0%}",
        "fall-back": assumptions["fallback"],
    }
    return [(key, write_number(value)) for key, value in facts.items() if value is not None]


def _failures(decision: Decision) -> list[tuple[str, list[str]]]:
    """Return the failures by kind of each arm that has any, as cells in the order of the template's head."""
    return [
        (name, [write_number(failures.get(kind, 0)) for kind in FAILURE_KINDS])
        for name, arm in decision["arms"].items()
        if (failures := arm["failures"]) and any(failures.values())
    ]


@dataclass(frozen=True)
class ServiceRow:
    """How the rows fit one hosted service, written out."""

    title: str
    verdict: str
    style: str
    sentence: str
    failing: list[str]
    note: str
    as_of: str


def _service_row(service: ServiceReadiness) -> ServiceRow:
    failing, requirements = service["failing"].items(), service["requirements"]
    return ServiceRow(
        title=requirements["title"],
        verdict=READY[service["verdict"]],
        style=STYLES[service["verdict"]],
        sentence=service["sentence"],
        failing=[
            f"{rows:,} {reason.replace('_', ' ')}: {', '.join(service['first'][reason])}" for reason, rows in failing
        ],
        note=requirements["note"],
        as_of=requirements["as_of"],
    )
