"""The data stage: three files, a line for every row left out, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import TypeAdapter

from trainer.data.first_rows import check_first_rows
from trainer.errors import DataError
from trainer.recipe.data import DataSection
from trainer.recipe.evaluate import EvalSection
from trainer.recipe.method import Method
from trainer.stages import data as stage

SIDES = ("train", "validation", "heldout")


@dataclass
class Context:
    dir: Path
    numbers: dict[str, Any] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def input(self, stage: str, name: str) -> Path:
        return self.dir.with_name(f"{self.dir.name}-before") / name

    def say(self, text: str) -> None:
        self.said.append(text)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def written(path: Path, rows: list[Any]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def word(number: int) -> str:
    """Return a word that resembles no other."""
    return hashlib.blake2b(str(number).encode(), digest_size=8).hexdigest()


def qa(number: int, **more: object) -> dict[str, Any]:
    return {"prompt": f"question {word(number)}", "completion": f"answer {word(-1 - number)}", **more}


def run_stage(out: Path, *paths: str, kind: str = "sft", repeat: float = 1.0, **section: Any) -> Context:
    out.mkdir()
    context = Context(out)
    stage.run(recipe_of(*paths, kind=kind, repeat=repeat, **section), context)  # type: ignore[arg-type]
    return context


def recipe_of(
    *paths: str, kind: str = "sft", repeat: float = 1.0, evaluation: dict[str, Any] | None = None, **section: Any
) -> Any:
    sources = [{"path": path, "repeat": repeat} for path in paths]
    method: Method = TypeAdapter(Method).validate_python({"kind": kind})
    data, evaluated = DataSection(**{"sources": sources, **section}), EvalSection(**(evaluation or {}))
    return SimpleNamespace(name="x", seed=1, method=method, data=data, eval=evaluated)


def test_every_row_is_on_one_side_or_in_rejected(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [qa(n) for n in range(100)] + [qa(3), "{broken", qa(7)])
    context = run_stage(tmp_path / "out", path, split={"validation": 0.1, "heldout": 0.2})
    sides = {side: lines(tmp_path / "out" / f"{side}.jsonl") for side in SIDES}
    assert {side: len(rows) for side, rows in sides.items()} == {"train": 70, "validation": 10, "heldout": 20}
    assert lines(tmp_path / "out/rejected.jsonl") == [
        {"source": "a.jsonl", "line": 102, "reason": "invalid_json", "of": None, "detail": context_detail(tmp_path)},
        {"source": "a.jsonl", "line": 101, "reason": "exact_duplicate", "of": "a.jsonl:4", "detail": ""},
        {"source": "a.jsonl", "line": 103, "reason": "exact_duplicate", "of": "a.jsonl:8", "detail": ""},
    ]
    assert context.numbers == {
        "rows_read": 103,
        "rows_train": 70,
        "rows_validation": 10,
        "rows_heldout": 20,
        "rows_rejected": 3,
        "duplicates": 2,
        "near_duplicates": 0,
        "conflicts": 0,
    }
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["rejected"] == {"exact_duplicate": 2, "invalid_json": 1}
    assert report["formats"] == {"a.jsonl": {"prompt_completion": 102}} and report["turns"] == {"2": 100}
    assert report["rows_read"] == 103 and report["most_frequent_answer"]["share"] == pytest.approx(1 / 70)


def context_detail(tmp_path: Path) -> str:
    return str(lines(tmp_path / "out/rejected.jsonl")[0]["detail"])


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [qa(n, note={"z": 1, "a": 2}) for n in range(50)] + [qa(1)])
    for name in ("one", "two"):
        run_stage(tmp_path / name, path, split={"validation": 0.1, "heldout": 0.2})
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_one_broken_row_of_ten_stops_the_stage_and_is_named(tmp_path: Path) -> None:
    rows: list[Any] = [qa(n) for n in range(10)]
    rows[6] = "{broken"
    path = written(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match="invalid_json") as caught:
        run_stage(tmp_path / "out", path)
    assert f"{path}:7: invalid_json" in caught.value.message and "1 of 10" in caught.value.message
    assert "data.max_rejected" in caught.value.hint
    run_stage(tmp_path / "again", path, max_rejected=0.1)


def test_duplicates_do_not_count_as_malformed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [qa(n % 10) for n in range(50)])
    assert run_stage(tmp_path / "out", path, max_rejected=0.0).numbers["duplicates"] == 40


def test_dedupe_can_be_left_off(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [qa(n % 10) for n in range(50)])
    assert run_stage(tmp_path / "out", path, dedupe={"exact": False}).numbers["duplicates"] == 0


def test_training_rows_that_stand_in_given_files_are_left_out(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [qa(n) for n in range(20)])
    heldout = written(tmp_path / "h.jsonl", [qa(100), {**qa(3), "completion": "another"}])
    validation = written(tmp_path / "v.jsonl", [qa(200), qa(4), qa(100)])
    split = {"heldout_path": heldout, "validation_path": validation, "heldout": 0.2}
    context = run_stage(tmp_path / "out", path, split=split)
    assert [(row["line"], row["reason"], row["of"]) for row in lines(tmp_path / "out/rejected.jsonl")] == [
        (4, "in_heldout", "h.jsonl:2"),
        (3, "in_heldout", "h.jsonl:1"),
        (5, "in_validation", "v.jsonl:2"),
    ]
    assert [context.numbers[f"rows_{side}"] for side in SIDES] == [18, 2, 2]


def test_repeat_is_kept_on_training_rows_alone(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [qa(n) for n in range(20)])
    run_stage(tmp_path / "out", path, repeat=3.0)
    assert all(row["repeat"] == 3.0 for row in lines(tmp_path / "out/train.jsonl"))
    assert not any("repeat" in row for row in lines(tmp_path / "out/heldout.jsonl"))


def test_files_of_one_name_are_told_apart_without_absolute_paths(tmp_path: Path) -> None:
    paths = [
        written(tmp_path / part / "train.jsonl", [qa(n + start) for n in range(5)])
        for part, start in (("x", 0), ("y", 5))
    ]
    run_stage(tmp_path / "out", *paths, split={"heldout": 0.0})
    assert {row["source"] for row in lines(tmp_path / "out/train.jsonl")} == {"x/train.jsonl", "y/train.jsonl"}


def test_the_system_prompt_of_a_file_is_put_in_front(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [qa(n) for n in range(5)])
    (tmp_path / "system.txt").write_text("\ufeffbe kind\n")
    run_stage(tmp_path / "out", path, system_prompt={"path": str(tmp_path / "system.txt")})
    rows = lines(tmp_path / "out/train.jsonl")
    assert all(row["messages"][0] == {"role": "system", "content": "be kind"} for row in rows)


def test_the_most_frequent_answer_and_its_share(tmp_path: Path) -> None:
    rows = [{"text": f"query {word(n)}", "label": "yes" if n % 4 else "x" * 201} for n in range(40)]
    source = {"path": written(tmp_path / "a.jsonl", rows), "mapping": {"prompt": "text", "completion": "label"}}
    run_stage(tmp_path / "out", sources=[source], split={"heldout": 0.0})
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["most_frequent_answer"] == {"text": "yes", "share": 0.75}


PAIR = {"prompt": "p", "chosen": "good", "rejected": "bad"}
UNFIT = [
    ([qa(1), qa(2), PAIR], "sft", "a.jsonl:3 is a preference pair, a.jsonl:1 is not"),
    ([PAIR], "sft", "a.jsonl:1: a preference pair, but method.kind is sft"),
    ([{"instruction": "p", "output": ["good", "bad"]}], "dpo", "a.jsonl:1: no preference pair, but method.kind is dpo"),
    (
        [{**qa(1), "rejected_messages": [{"role": "assistant", "content": "bad"}]}],
        "sft",
        "a.jsonl:1: a preference pair",
    ),
    ([qa(1)], "dpo", "a.jsonl:1: no preference pair, but method.kind is dpo"),
]


@pytest.mark.parametrize(("rows", "kind", "message"), UNFIT)
def test_rows_that_do_not_fit_the_method_are_named(tmp_path: Path, rows: list[Any], kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows), kind=kind)
    assert caught.value.hint


def test_pairs_go_through_for_dpo(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{**PAIR, "prompt": word(n)} for n in range(10)])
    assert run_stage(tmp_path / "out", path, kind="dpo").numbers["rows_heldout"] == 2
    assert set(lines(tmp_path / "out/train.jsonl")[0]) == {"prompt", "chosen", "rejected", "source", "line"}


@pytest.mark.parametrize(
    ("content", "section", "message"),
    [
        ("[]", {}, "no rows"),
        ("{}\n", {"max_rejected": 1.0}, "no usable rows"),
        ('{"text": "a"}\n', {"system_prompt": {"text": "s"}}, "no place for data.system_prompt"),
        ('{"text": "a"}\n', {"system_prompt": {"path": "/nowhere/s.txt"}}, "/nowhere/s.txt"),
    ],
)
def test_nothing_to_train_on_is_an_error(tmp_path: Path, content: str, section: dict[str, Any], message: str) -> None:
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(DataError, match=message):
        run_stage(tmp_path / "out", str(tmp_path / "a.jsonl"), **section)


def test_a_misspelt_mapping_name_is_refused(tmp_path: Path) -> None:
    source = {"path": written(tmp_path / "a.jsonl", [qa(1)]), "mapping": {"promt": "q"}}
    with pytest.raises(DataError, match="promt"):
        run_stage(tmp_path / "out", sources=[source])


# Before any time is spent


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"prompt": "a", "completion": "b", "label": True}, "sft", "a.jsonl:1: an answer with a true/false label"),
        ({"prompt": "a", "completion": "b", "label": True}, "dpo", "a.jsonl:1: an answer with a true/false label"),
        ({"prompt": "a", "chosen": "b", "rejected": "c"}, "sft", "a.jsonl:1: a preference pair"),
        ({"prompt": "a", "completion": "b"}, "dpo", "a.jsonl:1: no preference pair"),
    ],
)
def test_rows_that_do_not_fit_the_method_are_known_beforehand(
    tmp_path: Path, row: dict[str, Any], kind: str, message: str
) -> None:
    path = written(tmp_path / "a.jsonl", [row, "{broken"])
    with pytest.raises(DataError, match=re.escape(message)):
        check_first_rows(recipe_of(path, kind=kind))


def test_rows_that_fit_or_cannot_be_known_pass(tmp_path: Path) -> None:
    assert check_first_rows(recipe_of(written(tmp_path / "a.jsonl", [qa(1)]))) == ([], None)
    assert check_first_rows(recipe_of("hub:owner/name")).refusal is None
    partly = check_first_rows(recipe_of(written(tmp_path / "a.jsonl", ["{broken", qa(1)])))
    assert "1 of 2 rows" in partly.lines[0] and partly.refusal is not None


@pytest.mark.parametrize(
    "section", [{"slices": ["topik"]}, {"metrics": [{"kind": "contains", "when": {"topik": "x"}}]}]
)
def test_a_field_that_no_row_has_is_refused_before_anything_is_evaluated(
    tmp_path: Path, section: dict[str, Any]
) -> None:
    path = written(tmp_path / "a.jsonl", [qa(n, topic="x") for n in range(8)])
    with pytest.raises(DataError, match="no row has the field 'topik', which eval"):
        check_first_rows(recipe_of(path, evaluation=section))
    path = written(tmp_path / "b.jsonl", [qa(n, topic="x") for n in range(90)])
    (line,) = check_first_rows(recipe_of(path, evaluation=section)).lines
    assert line.startswith("among the first rows no row has the field 'topik'")


def test_why_no_row_is_usable_is_said(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"left": "a", "right": "b"}] * 3)
    with pytest.raises(DataError, match=r"no usable rows: 3 unknown_format \(a\.jsonl:1\)"):
        run_stage(tmp_path / "out", path, max_rejected=1.0)


def test_the_page_is_written_and_holds_no_personal_data(tmp_path: Path) -> None:
    rows = [qa(n, note="x") for n in range(40)] + [{"prompt": "who?", "completion": "ask maria.lopez@acme-widgets.com"}]
    context = run_stage(tmp_path / "data.partial", written(tmp_path / "a.jsonl", rows))
    page = (tmp_path / "data.partial/index.html").read_text()
    assert "e-mail addresses" in page and "m***@a***.com" in page and "maria.lopez" not in page
    assert context.said[-1] == f"page: {tmp_path / 'data' / 'index.html'}"


# Columns and numbers


def test_each_source_is_told_in_one_line_and_in_the_report(tmp_path: Path) -> None:
    first = written(tmp_path / "a.jsonl", [qa(n, id=n, system_prompt="be kind") for n in range(30)])
    (tmp_path / "b.csv").write_text("question;answer;topic\n" + "".join(f"q {word(n)};a {n};t\n" for n in range(9)))
    context = run_stage(tmp_path / "out", first, str(tmp_path / "b.csv"))
    notices = [
        "a.jsonl: 30 rows; format prompt_completion; columns used: completion, prompt, system_prompt; not used: id",
        "b.csv: 9 rows; separated by semicolons; format prompt_completion; columns used: answer, "
        "question; not used: topic",
    ]
    assert [text for text in context.said if "columns used" in text] == notices
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["sources"]["a.jsonl"]["unused"] == {"id": 30}
    assert report["sources"]["b.csv"]["read_as"] == ["separated by semicolons"]


def test_sources_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = [written(tmp_path / f"{name}/rows.jsonl", [qa(n) for n in range(20)]) for name in ("one", "two")]
    run_stage(tmp_path / "out", sources=[{"path": path} for path in paths])
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert list(report["sources"]) == ["one/rows.jsonl", "two/rows.jsonl"]


def findings(out: Path, rule: str) -> list[dict[str, Any]]:
    return [each for each in json.loads((out / "report.json").read_text())["lint"] if each["rule"] == rule]


def test_a_telling_column_that_is_not_used_is_a_warning_unless_the_recipe_says_so(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": f"q {word(n)}"}, {"role": "assistant", "content": f"a {word(-n)}"}]}
        | {"documents": [word(n)], "label": "x", "id": n}
        for n in range(30)
    ]
    path = written(tmp_path / "a.jsonl", rows)
    run_stage(tmp_path / "one", path)
    listed = findings(tmp_path / "one", "F021")
    assert [each["detail"] for each in listed] == ["a.jsonl: documents (context)", "a.jsonl: label (label)"]
    assert all(each["severity"] == "warning" and each["count"] == 30 and "mapping" in each["fix"] for each in listed)
    source = {"path": path, "mapping": {"documents": ""}}
    run_stage(tmp_path / "two", sources=[source], split={"stratify": "label"})
    assert findings(tmp_path / "two", "F021") == []


def test_the_options_of_a_question_are_not_left_out_without_a_warning(tmp_path: Path) -> None:
    rows = [{"question": f"q {word(n)}", "choices": ["a", word(n)], "answer": n % 2} for n in range(30)]
    path = written(tmp_path / "a.jsonl", rows)
    run_stage(tmp_path / "one", path)
    assert [each["detail"] for each in findings(tmp_path / "one", "F021")] == ["a.jsonl: choices (options)"]


def test_text_beside_a_label_stops_the_stage_with_the_mapping_to_set(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", [{"text": f"t {word(n)}", "intent": "x"} for n in range(30)])
    with pytest.raises(DataError, match="prompt: text, completion: intent") as caught:
        run_stage(tmp_path / "out", path)
    assert caught.value.hint == "set data.sources[].mapping or format, as the message says, or raise data.max_rejected"
    source = {"path": path, "mapping": {"prompt": "text", "completion": "intent"}}
    assert run_stage(tmp_path / "two", sources=[source]).numbers["rows_read"] == 30


@pytest.mark.parametrize(
    "name", ["category", "code", "icd10_code", "Star Rating", "topicName", "tags", "is_spam", "score"]
)
def test_text_beside_what_may_be_its_class_is_a_warning(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.jsonl", [{"text": f"t {word(n)}", name: "x", "url": "u"} for n in range(30)])
    run_stage(tmp_path / "out", path)
    assert [each["detail"] for each in findings(tmp_path / "out", "F021")] == [f"a.jsonl: {name} (label)"]


@pytest.mark.parametrize(
    "name", ["url", "language_code", "lang", "source", "title", "file_type", "author", "timestamp"]
)
def test_what_describes_a_text_is_no_class(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "a.jsonl", [{"text": f"t {word(n)}", name: "x"} for n in range(30)])
    run_stage(tmp_path / "out", path)
    assert findings(tmp_path / "out", "F021") == []


def test_a_class_beside_a_question_and_its_answer_only_describes_them(tmp_path: Path) -> None:
    run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", [qa(n, category="x") for n in range(30)]))
    assert findings(tmp_path / "out", "F021") == []


def test_missing_values_in_a_table_are_a_warning_with_their_number(tmp_path: Path) -> None:
    lines = [f"q {word(n)},{'NaN' if n < 3 else 'a ' + word(-n)}" for n in range(30)]
    run_stage(tmp_path / "out", written(tmp_path / "a.csv", ["prompt,completion", *lines]), split={"heldout": 0})
    (each,) = findings(tmp_path / "out", "Q029")
    assert each["severity"] == "warning" and each["count"] == 3


def test_customers_of_long_numbers_are_groups_of_their_own(tmp_path: Path) -> None:
    rows = [json.dumps(qa(n, customer=0)).replace("0}", f"94001102008812345670{n % 20:02d}}}") for n in range(60)]
    run_stage(tmp_path / "out", written(tmp_path / "a.jsonl", rows), split={"by": "customer", "heldout": 0.2})
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["split"]["groups"] == 20
    assert "94001102008812345670" in (tmp_path / "out/train.jsonl").read_text()


def test_why_nothing_could_be_set_aside_is_true(tmp_path: Path) -> None:
    same = [{"prompt": "q", "completion": f"answer {word(n)}"} for n in range(8)]
    cases = [
        (same, "8 rows, and all of them ask the same prompt"),
        ([qa(1)] * 4, "1 row is left after 3 copies were removed"),
    ]
    for number, (rows, message) in enumerate(cases):
        with pytest.raises(DataError, match=message):
            run_stage(tmp_path / f"out{number}", written(tmp_path / f"{number}.jsonl", rows))


def test_a_folder_of_texts_is_told_with_what_is_passed_over(tmp_path: Path) -> None:
    for n in range(12):
        written(tmp_path / f"docs/{n}.md", [f"chapter {word(n)}"])
    context = run_stage(tmp_path / "out", str(tmp_path / "docs"))
    [line] = [text for text in context.said if "columns used" in text]
    assert line == "docs (12 files): 12 rows; one document; format text; columns used: text; not used: none"
    written(tmp_path / "docs/rows.jsonl", [qa(n) for n in range(12)])
    context = run_stage(tmp_path / "two", str(tmp_path / "docs"))
    assert any("12 files that could hold rows are not read: 0.md, 1.md" in text for text in context.said)
