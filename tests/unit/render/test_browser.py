"""The report in a real browser, where one is installed: nothing sticks out at phone width, and the filters work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.render.facts import data_report, prediction, report_facts
from tests.unit.render.test_decide import arm, decision
from trainer.render.decide.page import render_decide_page
from trainer.render.report.answers import select_answers
from trainer.render.report.page import render_report

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: the pages are not laid out")

URL = "https://docs.example.com/" + "a-very-long-address" * 12
PROBE = """<iframe id="page" src="page.html" style="border:0;width:WIDTHpx;height:2000px"></iframe><pre id="out"></pre>
<script>
const pause = () => new Promise((done) => setTimeout(done, 300));
page.onload = async () => {
  await pause();
  const inner = page.contentDocument;
  inner.querySelectorAll("details").forEach((part) => (part.open = true));
  await pause();
  const isOut = (part) => part.getBoundingClientRect().right > WIDTH + 0.5 && !part.closest("thead, .u-over");
  const counts = {};
  for (const button of inner.querySelectorAll("#answer-controls button")) {
    button.click();
    counts[button.value] = [...inner.querySelectorAll(".row")].filter((row) => !row.hidden).length;
  }
  const search = inner.querySelector("input[type=search]");
  if (search) {
    inner.querySelector("#answer-controls button").click();
    search.value = "Needle HAY";
    search.dispatchEvent(new Event("input"));
    await pause();
    counts.search = [...inner.querySelectorAll(".row")].filter((row) => !row.hidden).length;
  }
  out.textContent = JSON.stringify({
    width: inner.documentElement.scrollWidth,
    out: [...inner.querySelectorAll("body *")].filter(isOut).map((part) => part.outerHTML.slice(0, 90)),
    scrolling: [...inner.querySelectorAll(".scroll, figure")].filter((p) => p.scrollWidth > p.clientWidth).length,
    charts: inner.querySelectorAll(".uplot canvas").length,
    counts,
  });
};
</script>"""


def laid_out(page: str, width: int, folder: Path) -> dict[str, Any]:
    """Return what a browser makes of a page in a frame of this width."""
    assert CHROMIUM is not None
    (folder / "page.html").write_text(page, encoding="utf-8")
    (folder / "probe.html").write_text(PROBE.replace("WIDTH", str(width)), encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--disable-web-security",
    ]
    options += [f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000", "--window-size=1400,2000"]
    command = [CHROMIUM, *options, "--enable-logging=stderr", "--dump-dom", (folder / "probe.html").as_uri()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in process.stderr, process.stderr[-2000:]
    match = re.search(r'<pre id="out">(.+?)</pre>', process.stdout)
    assert match is not None, process.stdout[:500]
    return dict(json.loads(match[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")))


def long_report() -> str:
    lines = [prediction(f"question {index} {URL}", "right", base="right", tuned=URL) for index in range(3)]
    lines += [prediction(f"hay needle {index}", '{"a": 1}', base="x", tuned='{"a": 1}') for index in range(2)]
    facts = replace(report_facts(), name="n" * 90, answers=select_answers(lines), env={"path": URL})
    return render_report(replace(facts, data_report=data_report(rejected={URL: 3}, stats={"classes": {URL: 4}})))


def long_decision() -> str:
    value = decision(because=[f"See {URL}."])
    value["arms"]["an_arm_with_a_very_long_name_indeed_so_long"] = arm(0.7)
    value["providers"]["openai"]["requirements"]["note"] = URL
    return render_decide_page(value, name="x", trainer_version="0")


@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_of_the_report_sticks_out_and_the_filters_work(width: int, tmp_path: Path) -> None:
    report = laid_out(long_report(), width, tmp_path)
    assert report["width"] <= width and report["out"] == [] and report["scrolling"] == 0, report
    assert report["charts"] == 2  # loss and tokens per second
    assert report["counts"] == {"all": 5, "failed": 3, "won": 2, "lost": 3, "differ": 5, "search": 2}


@pytest.mark.parametrize("width", [390, 600, 768, 1024])
def test_nothing_of_the_decide_page_sticks_out(width: int, tmp_path: Path) -> None:
    boxes = laid_out(long_decision(), width, tmp_path)
    assert boxes["width"] <= width and boxes["out"] == [] and boxes["scrolling"] == 0, boxes
    assert boxes["charts"] == 1
