"""Write gates as JUnit XML, which CI systems show as tests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree import ElementTree as ET

from trainer.shapes.gates import GateCondition, GateResult, GateVerdict

# what XML 1.0 cannot hold even when escaped
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class TestCase(NamedTuple):
    """A gate, or one item of it."""

    class_name: str
    name: str
    verdict: GateVerdict
    sentence: str


def render_junit(gates: Sequence[GateResult], *, name: str) -> str:
    """Return JUnit XML: one test case a gate, and one for each must-pass item.

    Insufficient evidence and not_run are failures too: a skipped test would let the pipeline go on.
    """
    cases = list(_cases(gates))
    failures = sum(case.verdict != "pass" for case in cases)
    totals = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "time": "0"}
    root = ET.Element("testsuites", {"name": _clean(name), **totals})
    suite = ET.SubElement(root, "testsuite", {"name": _clean(name), **totals, "skipped": "0"})
    for case in cases:
        _add_case(suite, case)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _add_case(suite: ET.Element, case: TestCase) -> None:
    names = {"classname": _clean(case.class_name), "name": _clean(case.name), "time": "0"}
    element, sentence = ET.SubElement(suite, "testcase", names), _clean(case.sentence)
    if case.verdict == "pass":
        ET.SubElement(element, "system-out").text = sentence
    else:
        ET.SubElement(element, "failure", {"type": case.verdict, "message": sentence}).text = sentence


def gate_name(gate: GateCondition) -> str:
    """Name a gate by its condition.

    Example:
        >>> gate_name({"metric": "f1", "arm": "tuned", "min_gain": 0.02, "confidence": 0.95, "layer": "auto"})
        'tuned f1 min_gain 0.02 over base'
    """
    limits = [f"{limit} {gate[limit]:g}" for limit in ("min", "max", "min_gain", "max_drop") if limit in gate]
    versus = f"over {gate.get('vs', 'base')}" if "min_gain" in gate or "max_drop" in gate else ""
    suite = f"on {gate['suite']}" if "suite" in gate else ""
    slices = [f"where {field} is {value}" for field, value in gate.get("slice", {}).items()]
    return " ".join(part for part in (gate["arm"], gate["metric"], *limits, versus, suite, *slices) if part)


def _cases(gates: Sequence[GateResult]) -> Iterator[TestCase]:
    counts: Counter[str] = Counter()
    for entry in gates:
        name, layer = gate_name(entry["gate"]), entry["layer"]
        counts[name] += 1
        if counts[name] > 1:  # readers merge cases of the same name
            name += f" ({counts[name]})"
        yield TestCase(f"gates.{layer}", name, entry["verdict"], entry["sentence"])
        for item in entry.get("items", []):
            sentence = f"{item['id']}: {'right' if item['passed'] else 'not right'} ({entry['gate']['metric']})"
            yield TestCase(f"gates.{layer}.{name}", item["id"], "pass" if item["passed"] else "fail", sentence)


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)
