"""No prompt on two sides, the same sides every time."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from trainer.data import split
from trainer.data.duplicates import exact
from trainer.data.duplicates.keys import prompt_keys
from trainer.data.duplicates.minhash import Edges
from trainer.data.duplicates.texts import keys_of, texts_of_row
from trainer.data.prepare import field_key
from trainer.data.rows.system_prompt import apply_system_prompt
from trainer.data.split import Groups, Prompts, Side, group_rows
from trainer.errors import DataError


def row(*texts: str, line: int = 1, **metadata: object) -> dict[str, Any]:
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return {"messages": turns, **({"metadata": metadata} if metadata else {}), "source": "f", "line": line}


def keys(records: list[dict[str, Any]]) -> Prompts:
    grade = [keys_of(record, texts_of_row(record)).prompts for record in records]
    flat = np.array([key for row in grade for key in row], np.uint64)
    return Prompts(flat, np.array([len(row) for row in grade], np.int64))


def values(records: list[dict[str, Any]], name: str | None) -> Any:
    return None if name is None else np.array([field_key(record, name) for record in records], np.uint64)


def grouped(records: list[dict[str, Any]], by: str | None = None, edges: Edges | None = None) -> Groups:
    return group_rows(keys(records), values(records, by), edges)


def split_rows(
    records: list[dict[str, Any]], *, by: str | None = None, label: str | None = None, **shares: Any
) -> list[Side]:
    return split.split_rows(grouped(records, by), by=by, labels=values(records, label), **shares)


def find_leaks(records: list[dict[str, Any]], protected: list[dict[str, Any]]) -> dict[int, int]:
    return split.find_leaks(keys(records), keys(protected))


def find_exact_duplicates(records: list[dict[str, Any]]) -> dict[int, int]:
    return exact.find_exact_duplicates(
        np.array([keys_of(record, texts_of_row(record)).content for record in records], np.uint64)
    )


def similar(pairs: list[tuple[int, int, float]]) -> Edges:
    score = np.array([pair[2] for pair in pairs])
    return Edges.of(np.array([pair[:2] for pair in pairs], np.int64), score)


def rows(num_prompts: int, copies: int = 1) -> list[dict[str, Any]]:
    return [row(f"q{n % num_prompts}", f"a{n}", line=n + 1) for n in range(num_prompts * copies)]


@pytest.mark.parametrize(("num_prompts", "copies"), [(100, 1), (50, 4), (7, 9)])
def test_no_prompt_is_on_two_sides(num_prompts: int, copies: int) -> None:
    records = rows(num_prompts, copies)
    sides = split_rows(records, validation=0.2, heldout=0.2, seed=0)
    calls: dict[str, set[str]] = {}
    for record, side in zip(records, sides, strict=True):
        calls.setdefault(prompt_keys(record)[-1], set()).add(side)
    assert all(len(result) == 1 for result in calls.values())
    assert set(sides) == {"train", "validation", "heldout"}


def test_shares_are_exact_where_prompts_differ() -> None:
    sides = split_rows(rows(100), validation=0.1, heldout=0.2, seed=3)
    assert (sides.count("heldout"), sides.count("validation")) == (20, 10)


def test_sides_do_not_depend_on_the_order_of_rows() -> None:
    records = rows(60, 3)
    before = dict(
        zip([r["line"] for r in records], split_rows(records, validation=0.1, heldout=0.2, seed=5), strict=True)
    )
    random.Random(0).shuffle(records)
    after = dict(
        zip([r["line"] for r in records], split_rows(records, validation=0.1, heldout=0.2, seed=5), strict=True)
    )
    assert before == after


def test_the_seed_changes_the_sides() -> None:
    first, second = (split_rows(rows(100), validation=0.0, heldout=0.2, seed=seed) for seed in (0, 1))
    assert first != second


def test_space_case_and_unicode_form_make_no_new_prompt() -> None:
    assert prompt_keys(row("Caf\u00e9  au lait", "x"))[-1] == prompt_keys(row(" cafe\u0301 AU lait\n", "y"))[-1]


def test_the_system_turn_makes_no_new_prompt() -> None:
    plain = row("q", "a")
    assert prompt_keys(plain)[-1] == prompt_keys(apply_system_prompt(plain, "be kind", when="missing"))[-1]


def test_a_prompt_inside_a_longer_conversation_stays_with_it() -> None:
    records = [row(f"q{n}", "a", line=n) for n in range(20)] + [row(f"q{n}", "a", "more", "b") for n in range(20)]
    sides = split_rows(records, validation=0.0, heldout=0.5, seed=0)
    assert sides[:20] == sides[20:]


def test_conversations_that_only_open_alike_are_not_chained() -> None:
    records = [row("hi", "hello", f"q{n}", "a", line=n) for n in range(10)]
    assert split_rows(records, validation=0.0, heldout=0.2, seed=0).count("heldout") == 2


def test_split_by_keeps_a_customer_and_a_prompt_on_one_side() -> None:
    records = [row(f"q{n % 30}", f"a{n}", line=n, customer=n % 7) for n in range(240)]
    with pytest.raises(DataError, match="tie all 240 rows"):
        # 7 customers share 30 prompts in one chain: nothing can be set aside without a leak.
        split_rows(records, validation=0.0, heldout=0.2, seed=0, by="customer")
    records = [row(f"q{n}", "a", line=n, customer=n % 10) for n in range(200)]
    sides = split_rows(records, validation=0.1, heldout=0.2, seed=0, by="customer")
    of_customer = [{sides[n] for n in range(200) if n % 10 == customer} for customer in range(10)]
    assert all(len(result) == 1 for result in of_customer) and sides.count("heldout") == 40


def test_a_small_share_still_gets_one_group() -> None:
    assert split_rows(rows(3), validation=0.0, heldout=0.01, seed=0).count("heldout") == 1


def test_one_huge_group_does_not_fill_a_small_share() -> None:
    records = [row("same", f"a{n}") for n in range(90)] + [row(f"q{n}", "a") for n in range(10)]
    for seed in range(10):
        sides = split_rows(records, validation=0.0, heldout=0.05, seed=seed)
        assert sides.count("heldout") == 5


def test_no_training_rows_left_is_an_error() -> None:
    with pytest.raises(DataError, match="no training rows"):
        split_rows(rows(2), validation=0.3, heldout=0.3, seed=0)


def test_text_and_pairs_have_prompts_of_their_own() -> None:
    pair = {"prompt": [{"role": "user", "content": "q"}], "chosen": [], "rejected": []}
    assert prompt_keys(pair) == [prompt_keys(row("q", "a"))[-1]]
    assert prompt_keys({"text": "a"})[-1] != prompt_keys({"text": "b"})[-1]


def test_leaks_are_found_in_longer_conversations_too() -> None:
    protected = [row("q1", "a"), row("hi", "hello", "q2", "a")]
    trained = [
        row("q0", "a"),
        row("q1", "b"),
        row("q1", "b", "next", "c"),
        row("HI", "hello", "q2", "z"),
        row("hi", "x"),
    ]
    assert find_leaks(trained, protected) == {1: 0, 2: 0, 3: 1}


@pytest.mark.parametrize(
    ("again", "repeated"),
    [
        (row("Q  one", "ANSWER"), True),
        (apply_system_prompt(row("q one", "answer"), "be kind", when="replace"), False),
        (row("q one", "other"), False),
        ({**row("q one", "answer"), "tools": [{"name": "f"}]}, False),
    ],
)
def test_exact_duplicates_point_at_the_first_copy(again: dict[str, Any], repeated: bool) -> None:
    records = [row("zero", "a"), row("q one", "answer"), again]
    assert find_exact_duplicates(records) == ({2: 1} if repeated else {})


@pytest.mark.parametrize(("when", "system"), [("missing", "old"), ("replace", "new")])
def test_a_system_prompt_is_added_or_replaced(when: Any, system: str) -> None:
    plain = row("q", "a")
    assert apply_system_prompt(plain, "new", when=when)["messages"][0] == {"role": "system", "content": "new"}
    with_system = {"messages": [{"role": "system", "content": "old"}, *plain["messages"]]}
    assert [m["content"] for m in apply_system_prompt(with_system, "new", when=when)["messages"]] == [system, "q", "a"]
    pair = {"prompt": plain["messages"][:1], "chosen": [], "rejected": []}
    assert apply_system_prompt(pair, "new", when=when)["prompt"][0]["content"] == "new"
    assert apply_system_prompt({"text": "t"}, "new", when=when) == {"text": "t"}


def test_similar_rows_are_on_one_side() -> None:
    records = rows(100)
    edges = similar([(n, n + 1, 0.8) for n in range(0, 100, 2)])
    sides = split.split_rows(grouped(records, edges=edges), validation=0.1, heldout=0.2, seed=0)
    assert all(sides[n] == sides[n + 1] for n in range(0, 100, 2))
    assert (sides.count("heldout"), sides.count("validation")) == (20, 10)


def test_copies_are_on_one_side_however_many_and_rows_of_a_pattern_are_not() -> None:
    records = rows(40)
    edges = similar([(n, n + 1, 0.95) for n in range(39)])
    yes, no = np.ones(39, np.bool_), np.zeros(39, np.bool_)
    assert grouped(records, edges=edges._replace(duplicate=yes)).sizes.tolist() == [40]
    result = grouped(records, edges=edges._replace(slots=yes, duplicate=no))
    assert result.sizes.size == 40 and not result.num_cut


def test_a_chain_of_similar_rows_does_not_tie_everything_together() -> None:
    records = rows(1000)
    groups = grouped(records, edges=similar([(n, n + 1, 0.55) for n in range(999)]))
    assert 2 <= groups.sizes.max() <= 20 and groups.num_cut == 0
    groups = grouped(records, edges=similar([(n, n + 1, 0.75) for n in range(999)]))
    assert 50 <= groups.sizes.max() <= 100 and groups.num_cut > 0


def test_the_most_similar_rows_are_joined_first() -> None:
    records = rows(40)
    chain = [(n, n + 1, 0.55) for n in range(39)]
    chain[20] = (20, 21, 0.69)
    groups = grouped(records, edges=similar(chain))
    assert groups.of[20] == groups.of[21]


def test_a_stratified_split_repeats_the_shares_of_the_labels() -> None:
    records = [row(f"q{n}", "a", line=n, label="rare" if n % 10 == 0 else "common") for n in range(500)]
    sides = split_rows(records, validation=0.1, heldout=0.2, seed=0, label="label")
    of = {label: [sides[n] for n in range(500) if (n % 10 == 0) == (label == "rare")] for label in ("rare", "common")}
    assert (of["rare"].count("heldout"), of["rare"].count("validation")) == (10, 5)
    assert (of["common"].count("heldout"), of["common"].count("validation")) == (90, 45)


def test_many_small_classes_still_fill_the_share() -> None:
    records = [row(f"q{n}", "a", line=n, label=n // 3) for n in range(300)]
    assert split_rows(records, validation=0.0, heldout=0.2, seed=0, label="label").count("heldout") == 60


def test_conflicts_are_rows_with_one_prompt_and_several_answers() -> None:
    prompt, context = np.array([1, 2, 1, 3, 2, 1], np.uint64), np.array([0, 0, 0, 0, 9, 0], np.uint64)
    answer = np.array([5, 6, 7, 6, 8, 5], np.uint64)
    assert exact.find_conflicts(prompt, context, answer) == [[0, 2, 5]]
