"""The pack stage: tokens, packs and a report from data/*.jsonl, the same bytes every time."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.rendering import MaskedTokens, PairTokens, Renderer
from trainer.errors import DataError, HardwareError
from trainer.recipe import load_recipe
from trainer.rundir import RunFolder, StageContext, StageRecord
from trainer.stages import pack as stage
from trainer.tokens.pack import PackPlan
from trainer.tokens.repeat import repeated
from trainer.tokens.splits import first_row
from trainer.tokens.store import TokenStore


def rows_with_places(rows: list[dict[str, Any]], source: str = "a.jsonl") -> list[dict[str, Any]]:
    return [{**row, "source": source, "line": line} for line, row in enumerate(rows, start=1)]


def run_stage(
    folder: Path,
    model: Path | dict[str, Any],
    rows: list[dict[str, Any]],
    *,
    heldout: list[dict[str, Any]] | None = None,
    say: Callable[[str], None] = lambda text: None,
    **changes: Any,
) -> StageContext:
    recipe = load_recipe(tiny.write_recipe(folder, model=model, **changes))
    run = RunFolder(folder / "run")
    sides = {"train": rows, "validation": [], "heldout": heldout or []}
    for side, arguments in sides.items():
        tiny.write_rows(run.stage_dir("data") / f"{side}.jsonl", arguments)
    out = run.stage_dir("pack")
    out.mkdir(parents=True, exist_ok=True)
    record = StageRecord("pack", 1, "", {}, {})
    context = StageContext(run=run, dir=out, numbers=record.numbers, say=say, record=record)
    stage.run(recipe, context)
    return context


def report_of(context: StageContext) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((context.dir / "report.json").read_text())
    return value


def bytes_of(context: StageContext) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in context.dir.iterdir()}


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> Path:
    """A folder that is enough for a tokenizer: no weights, no torch."""
    folder = tmp_path_factory.mktemp("tokenizer-only")
    tiny_tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    (folder / "model.safetensors").write_bytes(b"")
    return folder


ROWS = rows_with_places(tiny.rows(16))
HELDOUT = rows_with_places(tiny.rows(24)[16:], "h.jsonl")


def test_the_stage_writes_what_the_renderer_makes(tmp_path: Path, model_dir: Path, tiny_tokenizer: Any) -> None:
    context = run_stage(tmp_path, model_dir, ROWS, heldout=HELDOUT)
    renderer = Renderer(tiny_tokenizer)
    for name, rows in (("train", ROWS), ("heldout", HELDOUT), ("validation", [])):
        store = TokenStore.load(context.dir / f"{name}.safetensors")
        expected = [renderer.tokens(row) for row in rows]
        assert [MaskedTokens(list(ids), list(mask)) for ids, mask in map(store.row, range(len(store)))] == expected
        assert list(store.row_index) == list(range(len(rows)))
    report = report_of(context)
    assert (report["rows"], report["rows_validation"], report["rows_heldout"], report["items"]) == (16, 0, 8, 16)
    assert report["tokens"] == sum(len(renderer.tokens(row).ids) for row in ROWS)
    assert report["trained_tokens"] == sum(sum(renderer.tokens(row).mask) for row in ROWS)
    assert report["stop_token_id"] == tiny_tokenizer.eos_token_id
    assert (report["is_packed"], report["fill"], report["dropped"]) == (False, None, {})
    assert sum(report["histogram"]["counts"]) == 16
    assert context.numbers["rows"] == 16 and "histogram" not in context.numbers


@pytest.mark.parametrize("method", ["sft", "dpo"])
def test_the_same_rows_give_the_same_bytes(tmp_path: Path, model_dir: Path, method: str) -> None:
    rows = rows_with_places(tiny.preference_rows(8) if method == "dpo" else tiny.rows(8))
    rows = [{**row, "repeat": 1.5} for row in rows]
    changes = {"method": {"kind": method}, "pack": {"packing": method == "sft"}}
    first, second = (run_stage(tmp_path / name, model_dir, rows, **changes) for name in ("a", "b"))
    assert bytes_of(first) == bytes_of(second)
    assert set(bytes_of(first)) == {
        "train.safetensors",
        "validation.safetensors",
        "heldout.safetensors",
        "packs.safetensors",
        "report.json",
    }


def test_packs_hold_every_row_once_and_no_more_than_max_length(tmp_path: Path, model_dir: Path) -> None:
    context = run_stage(tmp_path, model_dir, ROWS, pack={"packing": True, "max_length": 128})
    packs = PackPlan.load(context.dir / "packs.safetensors")
    lengths = TokenStore.load(context.dir / "train.safetensors").lengths()
    assert sorted(int(row) for row in packs.rows) == list(range(16))
    assert len(packs) < 16
    assert all(sum(int(lengths[row]) for row in packs[index]) <= 128 for index in range(len(packs)))
    report = report_of(context)
    assert report["is_packed"] is True and report["items"] == len(packs)
    assert report["fill"] == pytest.approx(int(lengths.sum()) / (128 * len(packs)), abs=1e-4)


def test_auto_packs_from_a_thousand_rows_on(tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage.PACK_FROM_ROWS == 1000
    monkeypatch.setattr(stage, "PACK_FROM_ROWS", 17)
    assert report_of(run_stage(tmp_path / "a", model_dir, ROWS))["is_packed"] is False
    monkeypatch.setattr(stage, "PACK_FROM_ROWS", 16)
    assert report_of(run_stage(tmp_path / "b", model_dir, ROWS))["is_packed"] is True


def test_the_fill_counts_repeated_rows(tmp_path: Path, model_dir: Path) -> None:
    rows = [{**row, "repeat": 2.0} for row in ROWS]
    once = report_of(run_stage(tmp_path / "a", model_dir, ROWS, pack={"packing": True}))
    twice = report_of(run_stage(tmp_path / "b", model_dir, rows, pack={"packing": True}))
    assert twice["fill"] * twice["items"] == pytest.approx(2 * once["fill"] * once["items"], abs=1e-3)


def test_pairs_are_stored_in_three_parts_and_never_packed(tmp_path: Path, model_dir: Path, tiny_tokenizer: Any) -> None:
    rows = rows_with_places(tiny.preference_rows(8))
    context = run_stage(tmp_path, model_dir, rows, method={"kind": "dpo"})
    store = TokenStore.load(context.dir / "train.safetensors")
    expected = [Renderer(tiny_tokenizer).pair(row) for row in rows]
    assert [PairTokens(*map(list, store.pair(index))) for index in range(8)] == expected
    assert report_of(context)["items"] == 8


def test_a_first_row_with_a_number_that_no_double_holds_is_read(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(b'{"text":"a","metadata":{"n":1e400}}\n')
    assert str(first_row(path)["metadata"]["n"]) == "1e400"


def test_no_training_rows_is_an_error(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(DataError, match=r"data/train\.jsonl has no rows"):
        run_stage(tmp_path, model_dir, [])


def test_the_template_of_the_recipe_is_used(tmp_path: Path, model_dir: Path) -> None:
    path = tmp_path / "t.jinja"
    turns = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    path.write_text(turns + "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}")
    with pytest.raises(DataError, match="no end token: the model would never learn to stop") as caught:
        run_stage(tmp_path, {"name_or_path": str(model_dir), "chat_template": str(path)}, ROWS)
    assert "model.chat_template" in caught.value.hint


def test_rows_trained_on_all_tokens_still_end_in_the_end_token(tmp_path: Path, model_dir: Path) -> None:
    chat = run_stage(tmp_path / "a", model_dir, ROWS, pack={"loss_on": "all"})
    text = rows_with_places([{"text": f"A text of number {n}."} for n in range(4)])
    plain = run_stage(tmp_path / "b", model_dir, text, pack={"loss_on": "all"})
    assert report_of(chat)["stop_token_id"] == report_of(plain)["stop_token_id"]


# Rows of token ids


def test_rows_of_token_ids_are_packed_as_they_are_and_may_end_anywhere(
    tmp_path: Path, model_dir: Path, tiny_tokenizer: Any
) -> None:
    rows = rows_with_places([{"input_ids": [9, 10, 11 + n], "labels": [-100, 10, 11 + n]} for n in range(4)])
    context = run_stage(tmp_path, model_dir, rows)
    store = TokenStore.load(context.dir / "train.safetensors")
    assert [store.row(index)[0].tolist() for index in range(4)] == [row["input_ids"] for row in rows]
    assert [store.row(index)[1].tolist() for index in range(4)] == [[0, 1, 1]] * 4
    assert report_of(context)["stop_token_id"] == tiny_tokenizer.eos_token_id
    closed = rows_with_places([{"input_ids": [9, 2], "labels": [-100, 2]}])
    assert report_of(run_stage(tmp_path / "closed", model_dir, closed))["stop_token_id"] == 2


# The cache


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRAINER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokens"


def count_tokenized(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    tokenize = stage.tokenize_file

    def counted(source: Path, *arguments: Any, **settings: Any) -> int:
        names.append(source.stem)
        return tokenize(source, *arguments, **settings)

    monkeypatch.setattr(stage, "tokenize_file", counted)
    return names


def test_another_run_takes_the_tokens_of_the_same_rows_and_says_so(
    tmp_path: Path, model_dir: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized = count_tokenized(monkeypatch)
    first = run_stage(tmp_path / "a", model_dir, ROWS, heldout=HELDOUT)
    assert tokenized == ["train", "validation", "heldout"]
    tokenized.clear()
    output: list[str] = []
    second = run_stage(tmp_path / "b", model_dir, ROWS, heldout=HELDOUT, say=output.append)
    assert tokenized == ["validation"]  # which has no rows
    assert output[0] == f"pack: tokens of train, heldout taken from {own_cache}, where an earlier run left them"
    assert bytes_of(first) == bytes_of(second)
    assert all(path.is_file() and not path.is_symlink() for path in second.dir.iterdir())


def test_what_changes_no_token_leaves_the_cache_good_and_what_does_leaves_it_alone(
    tmp_path: Path, model_dir: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenized = count_tokenized(monkeypatch)
    rows = [*ROWS, long_row(200)]
    with pytest.raises(DataError, match="1 of 17 rows are longer"):
        run_stage(tmp_path / "a", model_dir, rows, pack={"max_length": 64})
    tokenized.clear()
    dropped = run_stage(tmp_path / "b", model_dir, rows, pack={"max_length": 64, "overlong": "drop"})
    complete = run_stage(tmp_path / "c", model_dir, rows, pack={"max_length": 1024, "packing": True}, seed=7)
    assert tokenized == ["validation", "heldout"] * 2
    assert (report_of(dropped)["rows"], report_of(complete)["rows"]) == (16, 17)
    run_stage(tmp_path / "d", model_dir, rows, pack={"max_length": 1024, "loss_on": "all"})
    run_stage(tmp_path / "e", model_dir, [*rows, ROWS[0]], pack={"max_length": 1024})
    assert tokenized[4:] == ["train", "validation", "heldout"] * 2


def test_a_damaged_entry_is_made_again(
    tmp_path: Path, model_dir: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_stage(tmp_path / "a", model_dir, ROWS)
    expected = bytes_of(first)
    [entry] = own_cache.iterdir()
    damaged = bytearray(entry.read_bytes())
    damaged[-1] ^= 1
    entry.unlink()
    entry.write_bytes(damaged)
    tokenized = count_tokenized(monkeypatch)
    assert bytes_of(run_stage(tmp_path / "b", model_dir, ROWS)) == expected
    assert "train" in tokenized and [path.name for path in own_cache.iterdir()] == [entry.name]
    tokenized.clear()
    run_stage(tmp_path / "c", model_dir, ROWS)
    assert "train" not in tokenized


def test_the_cache_can_be_turned_off(
    tmp_path: Path, model_dir: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(stage.CACHE_GIB, "0")
    run_stage(tmp_path / "a", model_dir, ROWS)
    assert not own_cache.exists()
    monkeypatch.setenv(stage.CACHE_GIB, "much")
    with pytest.raises(HardwareError, match="TRAINER_TOKEN_CACHE_GIB is 'much'"):
        run_stage(tmp_path / "b", model_dir, ROWS)


# Rows over max_length


def long_row(number_of_words: int, **message: Any) -> dict[str, Any]:
    words = " ".join(["word"] * number_of_words)
    return {
        "messages": [{"role": "user", "content": words}, {"role": "assistant", "content": "Yes.", **message}],
        "source": "long.jsonl",
        "line": number_of_words,
    }


def test_overlong_rows_are_an_error_with_a_histogram_and_the_length_that_keeps_them(
    tmp_path: Path, model_dir: Path, tiny_tokenizer: Any
) -> None:
    rows = [long_row(number) for number in range(1, 101)]
    lengths = sorted(len(Renderer(tiny_tokenizer).tokens(row).ids) for row in rows)
    with pytest.raises(DataError) as caught:
        run_stage(tmp_path, model_dir, rows, pack={"max_length": lengths[89]})
    message = caught.value.message.splitlines()
    assert message[0] == (
        f"10 of 100 rows are longer than pack.max_length {lengths[89]} tokens, the first is long.jsonl:91"
    )
    assert len(message) == 12 and sum(int(line.split()[3]) for line in message[1:11]) == 100
    assert message[11] == f"max_length that keeps 95 %: {lengths[94]}, 99 %: {lengths[98]}, 100 %: {lengths[99]}"
    assert f"--set pack.max_length={lengths[99]}" in caught.value.hint
    run_stage(tmp_path, model_dir, rows, pack={"max_length": lengths[99]})


def test_drop_leaves_out_overlong_rows_and_names_them(tmp_path: Path, model_dir: Path) -> None:
    rows = [*ROWS, long_row(200), long_row(300)]
    context = run_stage(
        tmp_path, model_dir, rows, heldout=[*HELDOUT, long_row(400)], pack={"max_length": 64, "overlong": "drop"}
    )
    report = report_of(context)
    assert report["dropped"] == {"train": ["long.jsonl:200", "long.jsonl:300"], "heldout": ["long.jsonl:400"]}
    assert (report["rows"], report["rows_heldout"]) == (16, 8)


def test_truncate_prompt_cuts_the_oldest_tokens_and_keeps_the_answer(
    tmp_path: Path, model_dir: Path, tiny_tokenizer: Any
) -> None:
    context = run_stage(tmp_path, model_dir, [long_row(200)], pack={"max_length": 32, "overlong": "truncate_prompt"})
    complete = Renderer(tiny_tokenizer).tokens(long_row(200))
    ids, mask = TokenStore.load(context.dir / "train.safetensors").row(0)
    assert (list(ids), list(mask)) == (complete.ids[-32:], complete.mask[-32:])
    assert sum(mask) == sum(complete.mask)


def test_every_row_too_long_is_an_error(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(DataError, match=r"every training row is over pack\.max_length 8"):
        run_stage(tmp_path, model_dir, ROWS, pack={"max_length": 8, "overlong": "drop"})


# repeat


def counts(rows: list[dict[str, Any]], seed: int = 42) -> list[int]:
    actual = Counter(repeated(rows, seed))
    return [actual[index] for index in range(len(rows))]


def repeated_rows(source: str, repeat: float, count: int) -> list[dict[str, Any]]:
    return [{"source": source, "repeat": repeat} for _ in range(count)]


def test_a_repeat_of_one_half_is_exactly_half_of_the_source() -> None:
    half = counts(repeated_rows("a", 0.5, 10))
    assert sorted(half) == [0] * 5 + [1] * 5
    assert half == counts(repeated_rows("a", 0.5, 10))
    assert half != counts(repeated_rows("a", 0.5, 10), seed=1)


def test_a_whole_repeat_takes_every_row_as_often() -> None:
    assert counts(repeated_rows("a", 2.0, 3)) == [2, 2, 2]
    assert counts([{"source": "a"}, {"source": "a"}]) == [1, 1]
    assert sorted(counts(repeated_rows("a", 2.5, 4))) == [2, 2, 3, 3]


def test_the_half_of_a_source_does_not_depend_on_other_sources() -> None:
    alone = counts(repeated_rows("a", 0.5, 10))
    assert counts(repeated_rows("b", 0.3, 7) + repeated_rows("a", 0.5, 10))[7:] == alone


def test_repeated_rows_become_items(tmp_path: Path, model_dir: Path) -> None:
    rows = [{**row, "repeat": 2.0} for row in ROWS[:4]] + [
        {**row, "repeat": 0.5, "source": "b.jsonl"} for row in ROWS[4:12]
    ]
    context = run_stage(tmp_path, model_dir, rows)
    actual = Counter(int(row) for row in PackPlan.load(context.dir / "packs.safetensors").rows)
    assert [actual[row] for row in range(4)] == [2, 2, 2, 2]
    assert sum(actual[row] for row in range(4, 12)) == 4
    assert report_of(context)["items"] == 12


def test_a_repeat_that_leaves_nothing_is_an_error(tmp_path: Path, model_dir: Path) -> None:
    rows = [{**row, "repeat": 0.01} for row in ROWS]
    with pytest.raises(DataError, match="`repeat` leaves no training rows"):
        run_stage(tmp_path, model_dir, rows)


# Findings


def findings_of(context: StageContext) -> dict[str, dict[str, Any]]:
    return {finding["rule"]: finding for finding in report_of(context)["lint"]}


def test_tokens_and_steps_are_told(tmp_path: Path, model_dir: Path) -> None:
    output: list[str] = []
    train = {"global_batch_size": 5, "num_train_epochs": 2, "max_steps": None}
    context = run_stage(tmp_path, model_dir, ROWS, say=output.append, train=train)
    report, actual = report_of(context), findings_of(context)
    assert set(actual) == {"T001", "T003"}
    assert report["steps"] == actual["T003"]["count"] == 7  # 32 rows, five at a time
    assert actual["T003"]["severity"] == "warning" and "7 of 5 items" in actual["T003"]["detail"]
    assert actual["T001"]["detail"].startswith(f"{report['tokens']:,}, of them {report['trained_tokens']:,} trained")
    assert report["quantiles"][-1] == report["longest"] and report["quantiles"][0] <= report["quantiles"][2]
    assert any("T003" in text and "fix: " in text for text in output)
    enough = run_stage(tmp_path / "b", model_dir, ROWS, train=train, data={"lint": {"min_steps": 7}})
    assert findings_of(enough)["T003"]["severity"] == "info"
    assert report_of(run_stage(tmp_path / "c", model_dir, ROWS, train={"max_steps": 9}))["steps"] == 9


def test_dropped_and_cut_rows_are_counted_with_their_tokens(tmp_path: Path, model_dir: Path) -> None:
    rows = [*ROWS, long_row(200), long_row(300)]
    complete = report_of(run_stage(tmp_path / "a", model_dir, rows, pack={"max_length": 1024}))["tokens"]
    dropped = run_stage(tmp_path / "b", model_dir, rows, pack={"max_length": 64, "overlong": "drop"})
    cut = run_stage(tmp_path / "c", model_dir, rows, pack={"max_length": 64, "overlong": "truncate_prompt"})
    for context, kind in ((dropped, "2 dropped"), (cut, "2 cut")):
        lost, actual = complete - report_of(context)["tokens"], findings_of(context)
        assert (actual["Q010"]["count"], actual["Q010"]["rows"]) == (2, ["long.jsonl:200", "long.jsonl:300"])
        assert f"{kind}, {lost:,} tokens lost" in actual["Q010"]["detail"]
        assert actual["Q010"]["severity"] == "warning" and actual["Q011"]["count"] == 2
    lenient = {"lint": {"max_overlong_share": 0.2, "ignore": ["Q011"]}}
    actual = findings_of(
        run_stage(tmp_path / "d", model_dir, rows, pack={"max_length": 64, "overlong": "drop"}, data=lenient)
    )
    assert actual["Q010"]["severity"] == "info" and "Q011" not in actual


def test_packs_that_stay_half_empty_are_reported(tmp_path: Path, model_dir: Path) -> None:
    longest = report_of(run_stage(tmp_path / "a", model_dir, ROWS))["longest"]
    loose = run_stage(tmp_path / "b", model_dir, ROWS, pack={"packing": True, "max_length": int(1.5 * longest)})
    assert report_of(loose)["fill"] < 0.85 and findings_of(loose)["T002"]["severity"] == "warning"
    tight = run_stage(tmp_path / "c", model_dir, ROWS, pack={"packing": True, "max_length": 6 * longest})
    assert findings_of(tight)["T002"]["severity"] == "info"


def test_a_finding_made_an_error_ends_the_stage_after_its_report(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(DataError, match="T003: optimizer steps: 4 of 4 items") as caught:
        run_stage(tmp_path, model_dir, ROWS, data={"lint": {"severity": {"T003": "error"}}})
    assert "data.lint.severity: {T003: warning}" in caught.value.hint
    assert (tmp_path / "run/pack/report.json").is_file()


def test_rows_that_cannot_be_tokenized_are_counted_by_rule(tmp_path: Path, model_dir: Path) -> None:
    silent = [{**row, "messages": [*row["messages"][:-1], {**row["messages"][-1], "weight": 0}]} for row in ROWS[3:5]]
    with pytest.raises(DataError) as caught:
        run_stage(tmp_path, model_dir, [*ROWS[:3], *silent, *ROWS[5:]])
    last = caught.value.message.splitlines()[-1]
    assert last == "F015: rows that train no token: 2 of the first 16: a.jsonl:4, 5"
    path = tmp_path / "t.jinja"
    path.write_text("{% for m in messages %}{% if m.role != 'system' %}{{ m.content }}</s>{% endif %}{% endfor %}")
    model = {"name_or_path": str(model_dir), "chat_template": str(path)}
    spoken = [{**row, "messages": [{"role": "system", "content": "Be kind."}, *row["messages"]]} for row in ROWS[:2]]
    with pytest.raises(DataError, match=r"F014: .*: 2 of the first 4: a\.jsonl:1, 2") as caught:
        run_stage(tmp_path / "b", model, [*spoken, *ROWS[2:4]])
    assert "drops part of the system turn" in caught.value.message.splitlines()[0]


# Templates


def with_template(folder: Path, model: Path, template: str) -> dict[str, Any]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "own.jinja").write_text(template)
    return {"name_or_path": str(model), "chat_template": "own.jinja"}


OPENS_REASONING = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<|im_start|>{{ m.content }}{% else %}"
    "{% generation %}</s>{{ m.content + eos_token }}{% endgeneration %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}</s><think>\n{% endif %}"
)


def test_marks_around_answers_to_another_prompt_are_refused_with_the_rows(tmp_path: Path, model_dir: Path) -> None:
    with pytest.raises(DataError, match=r"a\.jsonl:1: the chat template opens turn 1 differently") as caught:
        run_stage(tmp_path, with_template(tmp_path, model_dir, OPENS_REASONING), ROWS)
    assert "F014" in caught.value.message and "16 of the first 16" in caught.value.message
    assert r"whose generation prompt does not end in '<think>\n'" in caught.value.hint


PRINTS_DATE = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ '<|im_start|>system\nToday: ' + date_string + '<|im_end|>\n' }}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_a_template_that_prints_todays_date_is_a_finding_with_two_ways_out(tmp_path: Path, model_dir: Path) -> None:
    model = with_template(tmp_path, model_dir, PRINTS_DATE)
    context = run_stage(tmp_path, model, ROWS)
    (finding,) = [entry for entry in report_of(context)["lint"] if entry["rule"] == "T004"]
    assert finding["severity"] == "warning" and finding["count"] == len(ROWS)
    variable, copied = finding["fix"].split(", or ")
    date = variable.removeprefix('set model.chat_template_kwargs: {date_string: "').removesuffix('"}')
    assert repr(date) in finding["detail"] and copied.endswith(
        "set model.chat_template: chat_template.fixed_date.jinja"
    )

    stated = model | {"chat_template_kwargs": {"date_string": date}}
    fixed = with_template(tmp_path / "fixed", model_dir, (context.dir / "chat_template.fixed_date.jinja").read_text())
    for name, changed in (("stated", stated), ("fixed", fixed)):
        folder = tmp_path / name
        with_template(folder, model_dir, (folder / "own.jinja").read_text() if name == "fixed" else PRINTS_DATE)
        second = run_stage(folder, changed, ROWS)
        assert "T004" not in {entry["rule"] for entry in report_of(second)["lint"]}
        assert bytes_of(second)["train.safetensors"] == bytes_of(context)["train.safetensors"]


FORGETS_THOUGHTS = (  # as Qwen3
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_rows_that_are_split_are_counted_and_repeated_whole(tmp_path: Path, model_dir: Path) -> None:
    turns = [
        {**row, "messages": [*row["messages"], *ROWS[0]["messages"][-2:]], "repeat": 2.0} if index < 3 else row
        for index, row in enumerate(ROWS)
    ]
    said: list[str] = []
    context = run_stage(tmp_path, with_template(tmp_path, model_dir, FORGETS_THOUGHTS), turns, say=said.append)
    report = report_of(context)
    assert report["rows"] == len(ROWS) and report["examples"] == len(ROWS) + 3
    assert report["split"]["rows"] == 3 and report["split"]["examples"] == 6
    assert report["split"]["answers"] == {"template": len(ROWS) + 3}
    assert report["split"]["tokens"] > report["split"]["tokens_whole"] > 0
    assert any("3 rows are split into 6 examples" in line for line in said)
    store = TokenStore.load(context.dir / "train.safetensors")
    assert store.row_index.tolist() == [0, 0, 1, 1, 2, 2, *range(3, len(ROWS))]
    plan = PackPlan.load(context.dir / "packs.safetensors")
    counts = Counter(row for index in range(len(plan)) for row in plan[index])
    assert [counts[index] for index in range(len(store))] == [2] * 6 + [1] * (len(ROWS) - 3)
    assert report["stop_token_ids"] == [report["stop_token_id"]]


def test_a_row_that_loses_one_of_its_texts_is_named(tmp_path: Path, model_dir: Path) -> None:
    long = {**ROWS[0], "messages": [*ROWS[0]["messages"], *ROWS[1]["messages"][-2:]]}
    model = with_template(tmp_path, model_dir, FORGETS_THOUGHTS)
    report = report_of(run_stage(tmp_path, model, [long, *ROWS[1:]]))
    kept = run_stage(tmp_path, model, [long, *ROWS[1:]], pack={"max_length": report["longest"] - 1, "overlong": "drop"})
    assert report_of(kept)["dropped"]["train"] == ["a.jsonl:1"] and report_of(kept)["rows"] == len(ROWS)
