"""The data stage on copies, leaks, personal data and junk: any number of processes, the same bytes."""

from __future__ import annotations

import gzip
import json
import random
import resource
from pathlib import Path
from typing import Any

import pytest

from tests.stages.test_data import Context, lines, qa, run_stage, word, written
from trainer.errors import DataError

WORDS = [word(n)[:6] for n in range(2000)]
EMAIL, CARD, PHONE = "maria.lopez@acme-widgets.com", "4539 5787 6362 1486", "+49 30 901820"


def prose(seed: int, num_words: int = 50) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


def changed(text: str, seed: int) -> str:
    words, rng = text.split(), random.Random(seed)
    words[rng.randrange(len(words))] = "another"
    return " ".join(words)


def row(number: int, **more: object) -> dict[str, Any]:
    return {"prompt": prose(number, 20), "completion": prose(10**6 + number), **more}


def report(out: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "report.json").read_text())
    return result


def rejected(out: Path) -> list[tuple[int, str, str | None]]:
    return [(line["line"], line["reason"], line["of"]) for line in lines(out / "rejected.jsonl")]


def everything(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())}


def mixed_rows() -> list[Any]:
    rows: list[Any] = [row(n, customer=n % 50) for n in range(2600)]
    rows += [{**rows[n], "completion": f"Well, {rows[n]['completion']}"} for n in range(0, 300, 3)]
    rows += [rows[5], "{broken", {**row(9000), "prompt": f"write to {EMAIL} or {PHONE}"}]
    rows += [{**row(9001), "completion": f"pay with card {CARD}"}, {"prompt": rows[7]["prompt"], "completion": "no"}]
    return rows


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "a.jsonl", mixed_rows())
    for count in ("1", "3"):
        monkeypatch.setenv("TRAINER_WORKERS", count)
        run_stage(tmp_path / count, path, split={"validation": 0.1, "heldout": 0.2}, pii={"action": "redact"})
    assert everything(tmp_path / "1") == everything(tmp_path / "3")
    assert report(tmp_path / "1")["duplicates"]["near"] == 100


def test_the_output_of_the_stage_passes_through_it_unchanged(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", mixed_rows()[-205:])
    run_stage(tmp_path / "one", path, split={"heldout": 0.0}, pii={"action": "redact"})
    run_stage(tmp_path / "two", str(tmp_path / "one/train.jsonl"), split={"heldout": 0.0}, pii={"action": "redact"})
    first, second = (lines(tmp_path / name / "train.jsonl") for name in ("one", "two"))
    assert [line["messages"] for line in first] == [line["messages"] for line in second]
    assert not rejected(tmp_path / "two") and not report(tmp_path / "two")["clean"]


# Copies and conflicts


def test_the_longer_copy_stays_and_is_named(tmp_path: Path) -> None:
    rows = [row(n) for n in range(20)]
    rows.append({**rows[3], "completion": rows[3]["completion"] + " and so then"})
    run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows), split={"heldout": 0.0})
    assert rejected(tmp_path / "out") == [(4, "near_duplicate", "a.jsonl:21")]
    assert report(tmp_path / "out")["duplicates"]["samples"][0]["similarity"] > 0.9


def test_a_long_shared_system_prompt_makes_no_row_a_copy(tmp_path: Path) -> None:
    rows = [qa(n) for n in range(60)]
    path = written(tmp_path / "a.jsonl", rows)
    context = run_stage(tmp_path / "out", path, system_prompt={"text": prose(0, 120)})
    assert context.numbers["near_duplicates"] == 0


TEMPLATE = "Below is an instruction that describes a task. Write a response that completes the request.\n\n"


def test_a_template_around_all_prompts_makes_them_neither_copies_nor_conflicts(tmp_path: Path) -> None:
    questions = [" ".join(WORDS[3 * n : 3 * n + 3]) for n in range(60)]
    labelled = [{"prompt": TEMPLATE + question, "completion": "yes"} for question in questions[:30]]
    answered = [{"prompt": TEMPLATE + question, "completion": prose(n)} for n, question in enumerate(questions[30:])]
    out = tmp_path / "out"
    run_stage(out, written(tmp_path / "a.jsonl", labelled + answered))
    assert not rejected(out) and not report(out)["conflicts"]["places"]


def test_a_template_hides_no_conflict_and_no_copy(tmp_path: Path) -> None:
    rows = [{"prompt": TEMPLATE + prose(n, 12), "completion": prose(100 + n)} for n in range(20)]
    rows += [{"prompt": rows[0]["prompt"] + " s", "completion": prose(999)}]
    rows += [{"prompt": rows[1]["prompt"] + " please", "completion": rows[1]["completion"]}]
    out = tmp_path / "out"
    run_stage(out, written(tmp_path / "a.jsonl", rows))
    assert [reason for _, reason, _ in rejected(out)] == ["near_duplicate"]
    assert len(report(out)["conflicts"]["places"]) == 1


def test_questions_about_two_values_are_no_copies(tmp_path: Path) -> None:
    query = "select distinct name , number from course where department = eecs and number = {0} and has_lab = n"
    rows = [{"prompt": f"What is the size of course {n} ?", "completion": query.format(n)} for n in range(300, 330)]
    run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows))
    assert not rejected(tmp_path / "out")


def test_conflicts_are_listed_and_stay(tmp_path: Path) -> None:
    rows = [row(n) for n in range(20)]
    rows += [{**rows[2], "completion": "something else"}, {"prompt": changed(rows[4]["prompt"], 0), "completion": "no"}]
    context = run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows), split={"heldout": 0.0})
    assert context.numbers["rows_train"] == 22 and not rejected(tmp_path / "out")
    pairs = {(sample["row"], sample["of"]) for sample in report(tmp_path / "out")["conflicts"]["samples"]}
    assert pairs == {("a.jsonl:3", "a.jsonl:21"), ("a.jsonl:5", "a.jsonl:22")}


# Leaks


def test_similar_rows_that_stay_are_on_one_side(tmp_path: Path) -> None:
    rows = [row(n) for n in range(60)]
    rows += [{**rows[n], "completion": prose(n + 5000)} for n in range(30)]  # conflicts: the same prompt
    rows += [{"prompt": changed(rows[n]["prompt"], n), "completion": prose(n + 7000)} for n in range(30)]
    run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows), split={"heldout": 0.3})
    side_of = {
        line["line"]: side for side in ("train", "heldout") for line in lines(tmp_path / "out" / f"{side}.jsonl")
    }
    assert len(side_of) == 120 and set(side_of.values()) == {"train", "heldout"}
    assert all(side_of[n] == side_of[n + 60] == side_of[n + 90] for n in range(1, 31))


def test_stratified_sides_have_the_same_shares(tmp_path: Path) -> None:
    rows = [row(n, kind="rare" if n % 10 == 0 else "common") for n in range(200)]
    run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows), split={"heldout": 0.2, "stratify": "kind"})
    kinds = [line["metadata"]["kind"] for line in lines(tmp_path / "out/heldout.jsonl")]
    assert (kinds.count("rare"), kinds.count("common")) == (4, 36)


BENCHMARK = [
    ("exact", {"question": prose(3, 20), "choices": ["a", "b"], "answer": "b"}),
    ("near", {"question": changed(prose(3, 20), 1)}),
    ("ngram", {"passage": prose(900, 30) + " " + " ".join(prose(10**6 + 3).split()[:20]) + " " + prose(901, 30)}),
]


@pytest.mark.parametrize(("kind", "item"), BENCHMARK, ids=[kind for kind, _ in BENCHMARK])
def test_a_row_of_a_benchmark_is_an_error_that_shows_both(tmp_path: Path, kind: str, item: dict[str, Any]) -> None:
    path = written(tmp_path / "a.jsonl", [row(n) for n in range(30)])
    benchmark = written(tmp_path / "bench.jsonl", [{"question": prose(800, 20), "answer": "x"}, item])
    with pytest.raises(DataError, match=r"a\.jsonl:4 \(.* bench\.jsonl:2\)") as caught:
        run_stage(tmp_path / "error", path, contamination={"files": [benchmark]})
    assert "train: " in caught.value.message and "action: drop" in caught.value.hint
    run_stage(tmp_path / "drop", path, contamination={"files": [benchmark], "action": "drop"})
    assert rejected(tmp_path / "drop") == [(4, "contaminated", "bench.jsonl:2")]
    assert report(tmp_path / "drop")["contamination"]["hits"] == {kind: 1}
    run_stage(
        tmp_path / "off",
        path,
        contamination={"files": [benchmark], kind: 0 if kind == "ngram" else False, "action": "drop"},
    )
    assert kind not in report(tmp_path / "off")["contamination"]["hits"]


def test_a_near_copy_of_a_held_out_row_is_found(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [row(n) for n in range(30)])
    copy = {"prompt": changed(prose(3, 20), 1), "completion": changed(prose(10**6 + 3), 1)}
    heldout = written(tmp_path / "h.jsonl", [row(500), copy])
    split = {"heldout_path": heldout, "heldout": 0.0}
    with pytest.raises(DataError, match=r"a\.jsonl:4 \(similarity 0\.\d+ with h\.jsonl:2\)"):
        run_stage(tmp_path / "out", path, split=split)
    context = run_stage(tmp_path / "drop", path, split=split, contamination={"action": "drop"})
    assert context.numbers["rows_train"] == 29


# Personal data


@pytest.mark.parametrize("action", ["redact", "pseudonymise", "mask", "drop"])
def test_no_output_file_holds_a_found_value(tmp_path: Path, action: str) -> None:
    rows = [row(n) for n in range(40)] + [{**row(n), "prompt": f"{prose(n, 8)} {EMAIL}"} for n in range(100, 110)]
    rows += [{**row(200), "completion": f"card {CARD} and again {EMAIL}"}, {**row(201), "note": f"call {PHONE}"}]
    rows += [{"messages": [{"role": f"{EMAIL}", "content": "x"}]}, {**rows[41], "completion": "conflict"}]
    path = written(tmp_path / "a.jsonl", rows)
    context = run_stage(tmp_path / "out", path, pii={"action": action}, max_rejected=0.5)
    text = b"".join(everything(tmp_path / "out").values()).decode() + "\n".join(context.said)
    for value in (EMAIL, CARD, PHONE, CARD.replace(" ", ""), "maria.lopez"):
        assert value not in text
    assert report(tmp_path / "out")["pii"]["email"]["rows"] >= 11


def test_a_report_shows_values_masked_alone(tmp_path: Path) -> None:
    rows = [{**row(n), "completion": f"{prose(n)} {EMAIL}"} for n in range(40)]
    rows += [{**rows[3], "prompt": changed(rows[3]["prompt"], 0)}, {**rows[5], "completion": f"no, {EMAIL}"}]
    context = run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows))
    contents = [
        content for name, content in everything(tmp_path / "out").items() if name in ("report.json", "rejected.jsonl")
    ]
    assert EMAIL not in b"".join(contents).decode() + "\n".join(context.said)
    assert EMAIL in (tmp_path / "out/train.jsonl").read_text()  # `report` leaves the rows as they are


def test_an_error_about_a_row_hides_its_values(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{**row(n), "completion": f"{prose(n)} {EMAIL}"} for n in range(20)])
    for section in ({"pii": {"types": {"email": "error"}}}, {"contamination": {"files": [path]}}):
        with pytest.raises(DataError) as caught:
            run_stage(tmp_path / next(iter(section)), path, **section)
        assert EMAIL not in caught.value.message + caught.value.hint


# Junk


def good(num_rows: int = 30) -> bytes:
    return b"".join(json.dumps(row(n)).encode() + b"\n" for n in range(num_rows))


JUNK = [
    ("binary.jsonl", good() + bytes(range(256)) * 20 + b"\n" + good(3), ["binary.jsonl:32", "binary data"]),
    (
        "latin.jsonl",
        good() + '{"prompt": "caf\u00e9", "completion": "x"}\n'.encode("latin-1"),
        ["latin.jsonl:31", "UTF-8"],
    ),
    ("noise.jsonl", random.Random(0).randbytes(100_000), ["noise.jsonl:1", "binary data"]),
    ("wider.jsonl", good().decode().encode("utf-32"), ["wider.jsonl:1", "iconv -f UTF-32"]),
    (
        "open.json",
        b"[" + b",\n".join(good(30).splitlines()) + b',\n{"prompt": "a',
        ["open.json:31", "starting at column"],
    ),
    ("wide.jsonl", good().decode().encode("utf-16"), ["wide.jsonl", "UTF-16"]),
    ("cut.jsonl.gz", gzip.compress(good(300), mtime=0)[:-4000], ["cut.jsonl.gz"]),
    ("quote.csv", b"prompt,completion\n" + b"a b,c d\n" * 30 + b'"broken,row\n' + b"e f,g h\n" * 3, ["quote.csv:32"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), JUNK, ids=[name for name, *_ in JUNK])
def test_junk_is_rejected_or_named_with_its_place(tmp_path: Path, name: str, content: bytes, parts: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    try:
        run_stage(tmp_path / "out", str(tmp_path / name), max_rejected=0.1)
    except DataError as error:
        assert all(part in error.message + error.hint for part in parts), error.message
    else:
        assert rejected(tmp_path / "out")[0][0] == 31


def test_a_line_of_100_mb_is_a_rejected_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    with path.open("wb") as file:
        file.write(good() + b'{"text": "')
        for _ in range(100):
            file.write(b"x" * 2**20)
        file.write(b'"}\n' + good(1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    context = run_stage(tmp_path / "out", str(path))
    assert rejected(tmp_path / "out")[0][:2] == (31, "row_too_long") and context.numbers["rows_read"] == 32
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 90 * 1024  # KiB


def test_an_item_of_40_mb_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"[" + b",\n".join(good().splitlines()) + b',\n{"text": "' + b"x" * (40 << 20) + b'"}]')
    with pytest.raises(DataError, match=r"a\.json:31: row_too_long"):
        run_stage(tmp_path / "out", str(path))


def test_json_a_million_deep_is_a_rejected_row(tmp_path: Path) -> None:
    deep = "[" * 1_000_000 + "]" * 1_000_000
    path = written(tmp_path / "a.jsonl", [row(n) for n in range(30)] + [deep, '{"messages": ' + deep + "}"])
    run_stage(tmp_path / "out", path, max_rejected=0.1)
    assert [line[:2] for line in rejected(tmp_path / "out")] == [(31, "invalid_json"), (32, "invalid_json")]


def test_the_report_of_the_previous_data_is_kept_beside_the_new_one(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [row(n) for n in range(30)])
    run_stage(tmp_path / "x-before", path)
    context: Context = run_stage(tmp_path / "x", written(tmp_path / "a.jsonl", [row(n) for n in range(35)]))
    assert json.loads((tmp_path / "x/previous.json").read_text())["rows_read"] == 30
    assert any("since the previous version: rows read +5" in text for text in context.said)
