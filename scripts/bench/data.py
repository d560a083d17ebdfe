"""Measure the data engine in one table: speed, memory, and results on data whose truth is known.

    python scripts/bench/data.py --data DIR [--only PART]... [--rows 1000000]

DIR holds the folders near-duplicates, pii-presidio, mojibake-ftfy, gsm8k, banking77 and dolly-sample. Parts: million,
speed, near, edits, split, pii, gsm8k, mojibake, defects. `speed` compares with those of datasketch, datatrove and
text-dedup that are installed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
from generated import edited, slipped, write_rows
from peers import makers
from truth import pairs_above

from trainer.data.clean.cleaner import Cleaner
from trainer.data.duplicates.shingles import normalise_words
from trainer.data.pii.detectors.presidio import PresidioDetector
from trainer.data.pii.detectors.rule import Match
from trainer.data.pii.find import families, find_all
from trainer.errors import HardwareError
from trainer.recipe.clean import Clean
from trainer.recipe.data import DataSection
from trainer.recipe.method import SftMethod
from trainer.recipe.pii import DEFAULT_REGIONS, Presidio
from trainer.stages import data as stage

Line = tuple[str, str, str]
"""Quantity, measured value, target."""

PII_TYPES = {
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "IP_ADDRESS": "ip",
    "US_SSN": "us_ssn",
}
RUN = "import sys; from trainer.cli import main; sys.exit(main(sys.argv[1:]))"


def read(path: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in path.open("rb")]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows))
    return path


def run_stage(
    folder: Path, *paths: Path, sources: list[Any] | None = None, **section: Any
) -> tuple[Path, dict[str, Any]]:
    """Run `trainer data` in this process; return its folder and report.json."""
    out = Path(tempfile.mkdtemp(dir=folder))
    sources = sources or [{"path": str(path)} for path in paths]
    recipe = SimpleNamespace(name="bench", method=SftMethod(kind="sft"), data=DataSection(sources=sources, **section))
    context = SimpleNamespace(dir=out, numbers={}, say=lambda text: None, input=lambda *_: out / "none")
    stage.run(recipe, context)  # type: ignore[arg-type]
    report: dict[str, Any] = orjson.loads((out / "report.json").read_bytes())
    return out, report


def percent(part: float, total: float) -> str:
    return f"{part / max(total, 1):.2%} ({part:g} of {total:g})"


# Speed and memory


def processes(pid: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield pid
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                yield from processes(int(child))
    except OSError:
        return


def memory(pid: int) -> int:
    """Return the resident memory of a process in KiB; shared pages count in each."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def million(data: Path, folder: Path, num_rows: int) -> Iterator[Line]:
    path = folder / "rows.jsonl"
    planted = write_rows(path, num_rows)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        "recipe_version: 1\nname: bench\nmodel: {name_or_path: none}\n"
        f"data: {{sources: [{{path: {path}}}], pii: {{action: redact}}}}\n"
    )
    began, peak, cpu = time.monotonic(), 0, 0.0
    command = [sys.executable, "-c", RUN, "data", str(recipe), "--run-dir", str(folder / "run")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            members = list(processes(process.pid))
            peak = max(peak, sum(map(memory, members)))
            cpu = max(cpu, sum(map(cpu_seconds, members)))
            time.sleep(0.25)
    seconds = time.monotonic() - began
    assert process.returncode == 0, process.returncode
    report = orjson.loads((folder / "run/data/report.json").read_bytes())
    load = os.getloadavg()[1]
    yield f"{num_rows:,} rows end to end, {os.cpu_count()} cores", f"{seconds:.0f} s (load {load:.1f})", "under 600 s"
    yield "cpu seconds of all processes", f"{cpu:.0f}", ""
    yield "peak memory, summed over processes", f"{peak / 2**20:.2f} GiB", "under 3 GiB"
    num_removed = report["duplicates"]["exact"] + report["duplicates"]["near"]
    yield "rows removed as copies, of those planted", percent(num_removed, len(planted)), ""


def cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def speed(data: Path, folder: Path, num_rows: int) -> Iterator[Line]:
    texts = [normalise_words(f"{prompt} {answer}") for prompt, answer in real_rows(data)]
    for name, sign in makers():
        measured = sign if isinstance(sign, str) else f"{rows_a_second(sign, texts):,.0f}"
        yield f"MinHash signatures, {name}: rows a cpu second", measured, "ours the most" if name == "ours" else ""


def rows_a_second(sign: Callable[[Sequence[str]], object], texts: Sequence[str]) -> float:
    began = time.process_time()
    for begin in range(0, len(texts), 1000):
        sign(texts[begin : begin + 1000])
    return len(texts) / (time.process_time() - began)


# Copies


DECIDING = re.compile(r"[£€$]|\b(?:how|where|when|why|what|pin|us|eu|uk|visa|off|play|option|before|after)\b")
"""Words that make one of a pair another question; read from the pairs at 0.75 of which both rows stayed."""


def asks_other(pair: dict[str, Any]) -> bool:
    left, right = (Counter(DECIDING.findall(pair[f"text_{side}"].casefold())) for side in "ab")
    return bool(left - right and right - left)


def near(data: Path, folder: Path, num_rows: int) -> Iterator[Line]:
    corpus = read(data / "near-duplicates/corpus.jsonl")
    pairs = read(data / "near-duplicates/pairs.jsonl")
    rows = [{"prompt": row["text"], "completion": "Thank you, that is noted."} for row in corpus]
    began = time.process_time()
    out, _ = run_stage(folder, write(folder / "near.jsonl", rows), split={"heldout": 0.0})
    seconds = time.process_time() - began
    removed = {corpus[row["line"] - 1]["id"] for row in read(out / "rejected.jsonl")}
    close = [pair for pair in pairs if pair["jaccard"] >= 0.75 and pair["same_label"] and not asks_other(pair)]
    num_kept = sum(pair["a"] not in removed and pair["b"] not in removed for pair in close)
    twins = {name for pair in pairs for name in (pair["a"], pair["b"])}
    yield "near-duplicates: true copies at 0.75 that keep both sides", percent(num_kept, len(close)), "at most 3%"
    yield (
        "near-duplicates: dropped rows with a twin at 0.6",
        percent(len(removed & twins), len(removed)),
        "at least 98%",
    )
    yield f"near-duplicates: cpu seconds for {len(corpus)} rows", f"{seconds:.1f}", ""


def real_rows(data: Path) -> list[tuple[str, str]]:
    """Return real rows: prompt and answer."""
    rows = [(row["question"], row["answer"]) for row in read(data / "gsm8k/train.jsonl")]
    rows += [
        (row["prompt"], row["completion"]) for row in read(data / "dolly-sample/train.jsonl") if "completion" in row
    ]
    return rows


def planted_rows(data: Path, share: float) -> tuple[list[tuple[str, str]], dict[int, int]]:
    """Return real rows with copies of which 5 % of the words are edited, and copy -> original."""
    rows, rng = real_rows(data), random.Random(0)
    words = sorted({word for pair in rows[:500] for text in pair for word in text.split()})
    originals = rng.sample(range(len(rows)), int(len(rows) * share))
    twins = {}
    for index in originals:
        pair = [edited(text, max(1, round(0.05 * len(text.split()))), words, rng) for text in rows[index]]
        twins[len(rows)] = index
        rows.append((pair[0], pair[1]))
    return rows, twins


NEGATION = re.compile(r"\b(?:not|no|none|never|without|only|except|unless|nothing|nobody)\b|n['’]t\b")


def decides(before: str, after: str) -> bool:
    """Tell whether an exchange makes another question: number for number, name for name, a negation in or out."""
    if NEGATION.search(before.casefold()) or NEGATION.search(after.casefold()):
        return True
    words = [word.strip("\"'([.,;:?!)]") for word in (before, after)]
    is_number = [any(map(str.isdigit, word)) for word in words]
    return all(is_number) or (not any(is_number) and all(word[:1].isupper() for word in words))


def is_other_question(prompt: str, copy: str) -> bool:
    return any(decides(*pair) for pair in zip(prompt.split(), copy.split(), strict=True) if pair[0] != pair[1])


def is_true_copy(row: tuple[str, str], copy: tuple[str, str], counts: Counter[str]) -> bool:
    if row[1] == copy[1] and len(row[0].split()) == len(copy[0].split()):
        return not is_other_question(row[0], copy[0])
    texts = [set(normalise_words(" ".join(pair)).split()) for pair in (row, copy)]
    return not any(counts[word] >= 3 for word in texts[1] - texts[0] - {"just"})


def as_rows(rows: list[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "completion": answer} for prompt, answer in rows]


def edits(data: Path, folder: Path, num_rows: int) -> Iterator[Line]:
    """Plant copies in three ways: the first two keep the meaning of the answer, the last one changes it.

    An edit that makes another question, or a slip that makes another word of these rows, is no true copy.
    """
    rows, rng = real_rows(data), random.Random(0)
    counts = Counter(word for pair in rows for word in set(normalise_words(" ".join(pair)).split()))
    words = sorted({word for pair in rows[:500] for text in pair for word in text.split()})
    ways: dict[str, Callable[[str, str], tuple[str, str]]] = {
        "5% of the prompt's words exchanged, the answer kept": lambda p, a: (edited(p, few(p), words, rng), a),
        "slips, stop words, capitals in 5% of prompt and answer": lambda p, a: (slipped(p, rng), slipped(a, rng)),
        "5% of the words of prompt and answer exchanged": lambda p, a: (
            edited(p, few(p), words, rng),
            edited(a, few(a), words, rng),
        ),
    }
    for way, change in ways.items():
        originals = rng.sample(range(len(rows)), len(rows) // 5)
        planted = [*rows, *(change(*rows[index]) for index in originals)]
        twins = dict(enumerate(originals, start=len(rows)))
        out, _ = run_stage(folder, write(folder / "edits.jsonl", as_rows(planted)), split={"heldout": 0.0})
        removed = {row["line"] - 1 for row in read(out / "rejected.jsonl")}
        num_found = sum(copy in removed or original in removed for copy, original in twins.items())
        num_others = len(removed - set(twins) - set(originals))
        target = "kept: other words in the answer may decide" if "and answer exchanged" in way else ""
        yield f"{way}, {len(planted)} real rows: copies removed", percent(num_found, len(twins)), target
        if "and answer exchanged" not in way:
            true = {copy for copy, row in twins.items() if is_true_copy(rows[row], planted[copy], counts)}
            num_found = sum(copy in removed or twins[copy] in removed for copy in true)
            yield f"{way}: true copies removed", percent(num_found, len(true)), "at least 97%"
        yield f"{way}: other rows removed", str(num_others), ""


def few(text: str) -> int:
    return max(1, round(0.05 * len(text.split())))


def split(data: Path, folder: Path, num_rows: int) -> Iterator[Line]:
    rows, _ = planted_rows(data, 0.2)
    texts = [normalise_words(f"{prompt} {answer}") for prompt, answer in rows]
    close = pairs_above(texts, 0.7)
    rng = random.Random(1)
    heldout = set(rng.sample(range(len(rows)), len(rows) // 5))
    leaked = {row for pair in close for row in pair if row in heldout and not heldout.issuperset(pair)}
    yield "split at random: held-out rows with a copy in train", percent(len(leaked), len(heldout)), "about 29%"
    path = write(folder / "split.jsonl", as_rows(rows))
    for near_on, name in ((True, "this split"), (False, "this split, near copies left in")):
        # A group threshold alone keeps copies together; nothing is dropped below 1.0.
        section: dict[str, Any] = {} if near_on else {"dedupe": {"threshold": 1.0}}
        out, _ = run_stage(folder, path, **section)
        sides = {side: {row["line"] - 1 for row in read(out / f"{side}.jsonl")} for side in ("train", "heldout")}
        leaked = {
            row
            for a, b in close
            for row, copy in ((a, b), (b, a))
            if row in sides["heldout"] and copy in sides["train"]
        }
        yield f"{name}: held-out rows with a copy in train", percent(len(leaked), len(sides["heldout"])), "none"


# Personal data


def pii(data: Path, folder: Path, num_rows: int) -> Iterator[Line]:
    rows = read(data / "pii-presidio/pii.jsonl")
    rules = families(DEFAULT_REGIONS)
    yield from _detector("ours", rows, lambda text: [(m.start, m.end, m.type) for m in find_all(text, rules)])
    presidio = PresidioDetector(Presidio(threshold=0.0))  # all matches: the threshold is its user's choice
    try:
        presidio.find("")
    except HardwareError as error:
        yield "pii-presidio: Presidio's pattern engine", f"not measured: {error}", ""
    else:
        yield from _detector("Presidio", rows, lambda text: list(_spans(presidio.find(text))))
    yield from _removed(rows, folder)


def _spans(matches: Iterable[Match]) -> Iterator[tuple[int, int, str]]:
    for match in matches:
        yield match.start, match.end, PII_TYPES.get(match.type.removeprefix("presidio:"), "")


def _detector(
    name: str, rows: list[dict[str, Any]], find: Callable[[str], list[tuple[int, int, str]]]
) -> Iterator[Line]:
    began = time.process_time()
    detected = [find(row["text"]) for row in rows]
    speed = len(rows) / (time.process_time() - began)
    num_true, num_covered, num_detected, num_right = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for row, spans in zip(rows, detected, strict=True):
        truth = [
            (span["start"], span["end"], PII_TYPES[span["type"]]) for span in row["spans"] if span["type"] in PII_TYPES
        ]
        for begin, end, kind in truth:
            num_true[kind] += 1
            covered = sum(max(0, min(end, e) - max(begin, b)) for b, e, k in spans if k == kind)
            num_covered[kind] += covered >= 0.8 * (end - begin)
        for begin, end, kind in spans:
            num_detected[kind] += 1
            num_right[kind] += any(k == kind and b < end and begin < e for b, e, k in truth)
    for kind in PII_TYPES.values():
        yield (
            f"pii-presidio: {kind}, {name}: recall, precision",
            f"{percent(num_covered[kind], num_true[kind])}, {percent(num_right[kind], num_detected[kind])}",
            "",
        )
    yield (
        f"pii-presidio: {name}: rows a cpu second",
        f"{speed:,.0f}",
        "ours ten times Presidio's" if name == "ours" else "",
    )


def _removed(rows: list[dict[str, Any]], folder: Path) -> Iterator[Line]:
    path = write(folder / "pii.jsonl", [{"prompt": row["text"], "completion": "ok"} for row in rows])
    out, _ = run_stage(folder, path, pii={"action": "redact"}, dedupe={"exact": False, "near": False})
    written = "\n".join(file.read_text() for file in sorted(out.iterdir()))
    values = [
        (PII_TYPES[span["type"]], span["value"]) for row in rows for span in row["spans"] if span["type"] in PII_TYPES
    ]
    num_gone = Counter(kind for kind, value in values if value not in written)
    for kind, count in Counter(kind for kind, _ in values).items():
        yield f"pii-presidio: {kind} values in no output file", percent(num_gone[kind], count), "at least 90%"


def gsm8k(data: Path, folder: Path, num_rows: int) -> Iterator[Line]:
    rows = [row for name in ("train", "test_shared") for row in read(data / f"gsm8k/{name}.jsonl")]
    rules = families(DEFAULT_REGIONS)
    flagged = sum(bool(find_all(f"{row['question']}\n{row['answer']}", rules)) for row in rows)
    yield "gsm8k: rows flagged as personal data", percent(flagged, len(rows)), "under 0.2%"


# Cleaning and the named defects


def mojibake(data: Path, folder: Path, num_rows: int) -> Iterator[Line]:
    rows = [row for row in read(data / "mojibake-ftfy/mojibake.jsonl") if row["expect"] == "pass"]
    clean = Cleaner(Clean())
    exact = 0
    for row in rows:
        cleaned = clean({"text": row["original"], "source": "x", "line": 1}).record
        exact += cleaned is not None and cleaned["text"] == row["fixed"]
    yield "mojibake-ftfy: fixable cases put right exactly", f"{exact} of {len(rows)}", "at least 72 of 90"


def removed_and_conflicting(out: Path, report: dict[str, Any]) -> tuple[set[int], list[set[int]]]:
    """Return the lines of removed rows, and the lines of each conflict."""
    removed = {row["line"] for row in read(out / "rejected.jsonl")}
    return removed, [
        {int(location.rpartition(":")[2]) for location in group} for group in report["conflicts"]["places"]
    ]


def defects(data: Path, folder: Path, num_rows: int) -> Iterator[Line]:
    yield from _banking(data / "banking77", folder)
    corpus = read(data / "near-duplicates/corpus.jsonl")
    path = write(folder / "labelled.jsonl", [{"prompt": row["text"], "completion": row["label"]} for row in corpus])
    line_of = {row["id"]: line for line, row in enumerate(corpus, start=1)}
    out, report = run_stage(folder, path, split={"heldout": 0.0}, dedupe={"threshold": 0.6})
    removed, conflicts = removed_and_conflicting(out, report)
    pairs = [pair for pair in read(data / "near-duplicates/pairs.jsonl") if not pair["same_label"]]
    num_found = 0
    for pair in pairs:
        lines = {line_of[pair["a"]], line_of[pair["b"]]}
        num_found += bool(lines & removed) or any(lines <= group for group in conflicts)
    yield (
        "near-duplicates: near copies with different labels, listed (or one a copy)",
        f"{num_found} of {len(pairs)}",
        "223",
    )
    _, report = run_stage(folder, data / "dolly-sample/train.jsonl", split={"heldout": 0.0})
    cleaned = report["clean"].get("special_tokens", {}).get("count", 0)
    yield "dolly-sample: rows that ended in ###eos_token###", f"{cleaned} of {report['rows_read']}", "all"


def _banking(data: Path, folder: Path) -> Iterator[Line]:
    rows, tests = read(data / "train.jsonl"), read(data / "test_shared.jsonl")
    source = [{"path": str(data / "train.jsonl"), "mapping": {"prompt": "text", "completion": "label"}}]
    out, report = run_stage(folder, sources=source, split={"heldout": 0.0})
    removed, conflicts = removed_and_conflicting(out, report)
    first: dict[str, int] = {}
    pairs = [
        (first[text], line)
        for line, text in enumerate((normalise_words(row["text"]) for row in rows), start=1)
        if first.setdefault(text, line) != line
    ]
    differ = [pair for pair in pairs if rows[pair[0] - 1]["label"] != rows[pair[1] - 1]["label"]]
    num_found = sum(bool({*pair} & removed) or any({*pair} <= group for group in conflicts) for pair in pairs)
    yield "banking77: normalised duplicates in train, found", f"{num_found} of {len(pairs)}", "31"
    rows_listed = sum(2 for pair in differ if any({*pair} <= group for group in conflicts))
    yield "banking77: rows of them with conflicting labels, listed", f"{rows_listed} of {2 * len(differ)}", "2"
    repeated = {line for line, row in enumerate(tests, start=1) if normalise_words(row["text"]) in first}
    split = {"heldout": 0.0, "heldout_path": str(data / "test_shared.jsonl")}
    out, report = run_stage(folder, sources=source, split=split, contamination={"action": "drop"})
    texts = {normalise_words(row["messages"][0]["content"]) for row in read(out / "train.jsonl")}
    left = sum(normalise_words(tests[line - 1]["text"]) in texts for line in repeated)
    # The folder holds 1,536 of the 3,080 test rows; its 25 are counted in all of them.
    target = f"all; 25 in the whole test set, {25 * len(tests) / 3080:.0f} expected in this half of it"
    yield (
        "banking77: test rows that stand in train, taken out of it",
        f"{len(repeated) - left} of {len(repeated)}",
        target,
    )


PARTS: dict[str, Callable[[Path, Path, int], Iterator[Line]]] = {
    part.__name__: part for part in (million, speed, near, edits, split, pii, gsm8k, mojibake, defects)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=PARTS, default=[])
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    print("| what | measured | target |\n|---|---|---|")
    for name in options.only or PARTS:
        with tempfile.TemporaryDirectory() as folder:
            for quantity, measured, target in PARTS[name](options.data, Path(folder), options.rows):
                print(f"| {quantity} | {measured} | {target} |", flush=True)
    print(f"\npeak memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
