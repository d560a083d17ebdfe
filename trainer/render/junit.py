"""Gates as JUnit XML, which CI systems show as tests."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

# what XML 1.0 cannot hold even when escaped
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
Case = tuple[str, str, str, str]
"""Class name, name, verdict, sentence."""


def render_junit(gates: Sequence[Mapping[str, Any]], *, name: str) -> str:
    """Return JUnit XML: one test case a gate, and one for each must-pass item.

    Insufficient evidence and not_run are failures too: a skipped test would let the pipeline go on.

    Args:
        gates: Entries of eval/gates.json.
        name: Name of the run.
    """
    cases = list(_cases(gates))
    failures = sum(verdict != "pass" for _, _, verdict, _ in cases)
    totals = {"tests": str(len(cases)), "failures": str(failures), "errors": "0", "time": "0"}
    root = ET.Element("testsuites", {"name": _clean(name), **totals})
    suite = ET.SubElement(root, "testsuite", {"name": _clean(name), **totals, "skipped": "0"})
    for class_name, case_name, verdict, sentence in cases:
        case = ET.SubElement(
            suite, "testcase", {"classname": _clean(class_name), "name": _clean(case_name), "time": "0"}
        )
        if verdict != "pass":
            failure = ET.SubElement(case, "failure", {"type": verdict, "message": _clean(sentence)})
            failure.text = _clean(sentence)
        else:
            ET.SubElement(case, "system-out").text = _clean(sentence)
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def gate_name(gate: Mapping[str, Any]) -> str:
    """Name a gate by what it asks, for example `tuned exact_match min_gain 0.02 over base`."""
    stated = [limit for limit in ("min", "max", "min_gain", "max_drop") if gate.get(limit) is not None]
    limits = [f"{limit} {gate[limit]:g}" for limit in stated]
    versus = f"over {gate.get('vs', 'base')}" if {"min_gain", "max_drop"} & set(stated) else ""
    place = f"on {gate['suite']}" if gate.get("suite") else ""
    place += "".join(f"where {field} is {value}" for field, value in (gate.get("slice") or {}).items())
    return " ".join(part for part in (gate.get("arm", "tuned"), gate["metric"], *limits, versus, place) if part)


def _cases(gates: Sequence[Mapping[str, Any]]) -> Iterator[Case]:
    seen: dict[str, int] = {}
    for entry in gates:
        name, layer = gate_name(entry["gate"]), entry["layer"]
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:  # readers merge cases of the same name
            name += f" ({seen[name]})"
        yield f"gates.{layer}", name, entry["verdict"], entry["sentence"]
        for item in entry.get("items", []):
            sentence = f"{item['id']}: {'right' if item['passed'] else 'not right'} ({entry['gate']['metric']})"
            yield f"gates.{layer}.{name}", item["id"], "pass" if item["passed"] else "fail", sentence


def _clean(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", str(text))
