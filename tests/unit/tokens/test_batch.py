"""Rows tokenized together are the rows tokenized one by one, whatever stands beside them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.rendering import MaskedTokens, PairTokens, Renderer
from tests.unit.tokens import templates
from tests.unit.tokens.test_chat import ONE_TURN, PAIRS, TWO_TURNS, WITH_TOOLS, assistant, user, with_template
from trainer.errors import DataError
from trainer.tokens import batch
from trainer.tokens.batch import tokenize_file
from trainer.tokens.chat import LossOn
from trainer.tokens.encode import Rendered, encode_rows
from trainer.tokens.store import StoredShape, TokenStore

WEIGHTED = copy.deepcopy(TWO_TURNS)
WEIGHTED["messages"][2]["weight"] = 0
SPACES = {"messages": [user("  \n\t "), assistant("x   "), user("a  b\n\n\n"), assistant("y\n  x   \u3000y😀\u200d ")]}
WITHOUT_TEMPLATE: list[dict[str, Any]] = [{"text": "Once upon a time"}, {"text": "x<|im_end|>"}, {"text": "ü"}]
GIVEN = {"input_ids": [5, 6, 7, 8], "labels": [-100, -100, 7, 8]}
CHATS = [ONE_TURN, TWO_TURNS, WITH_TOOLS, WEIGHTED, SPACES, *tiny.rows(9)]


def slow_mask(tokenizer: Any, row: Rendered) -> tuple[list[int], list[int]]:
    """Tokenize one rendered row and look at each token by itself: it is trained if it begins inside a span."""
    encoded = tokenizer(row.text, add_special_tokens=False, return_offsets_mapping=True)
    mask = []
    reached = 0
    for start, end in encoded["offset_mapping"]:
        begin = start if start < end else min(reached, start)
        inside = any(low <= begin < high for low, high in row.trained)
        outside = any(low <= begin < high for low, high in row.left_out)
        mask.append(int(begin < end and inside and not outside))
        reached = max(reached, end)
    return list(encoded["input_ids"]), [0, *mask[1:]]


def read(store: TokenStore) -> list[MaskedTokens]:
    return [MaskedTokens(ids.tolist(), mask.tolist()) for ids, mask in map(store.row, range(len(store)))]


def tokenized(
    folder: Path, rows: list[dict[str, Any]], renderer: Renderer, shape: StoredShape = "single"
) -> TokenStore:
    source = tiny.write_rows(folder / "rows.jsonl", rows)
    assert tokenize_file(source, renderer, folder / "tokens", shape) == len(rows)
    store = TokenStore.load(folder / "tokens")
    assert store.row_index.tolist() == list(range(len(rows)))
    return store


@pytest.mark.parametrize("template", [templates.MARKED, templates.UNMARKED])
@pytest.mark.parametrize("trim_offsets", [False, True])
@pytest.mark.parametrize("loss_on", ["assistant", "last_turn", "completion", "all"])
def test_the_mask_of_many_rows_is_that_of_each_token_alone(template: str, trim_offsets: bool, loss_on: LossOn) -> None:
    tokenizer = with_template(tiny.make_tokenizer(trim_offsets=trim_offsets), template)
    renderer = Renderer(tokenizer, loss_on=loss_on)
    rendered = [text for row in CHATS for text in renderer.render(row)]
    results = [(ids.tolist(), mask.tolist()) for [(ids, mask)] in encode_rows(tokenizer, rendered)]
    assert results == [slow_mask(tokenizer, row) for row in rendered]


@pytest.mark.parametrize("rows_at_once", [1, 3, 512])
@pytest.mark.parametrize("loss_on", ["assistant", "last_turn", "completion", "all"])
def test_a_file_holds_what_each_row_gives(
    tmp_path: Path, tiny_tokenizer: Any, loss_on: LossOn, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "ROWS_AT_ONCE", rows_at_once)
    renderer = Renderer(tiny_tokenizer, loss_on=loss_on)
    texts = WITHOUT_TEMPLATE if loss_on == "all" else []
    rows = [row for pair in zip(CHATS, [*texts, GIVEN] * 14, strict=False) for row in pair]  # kinds take turns
    assert read(tokenized(tmp_path, rows, renderer)) == [renderer.tokens(row) for row in rows]


@pytest.mark.parametrize("rows_at_once", [1, 2, 512])
def test_a_file_of_pairs_holds_what_each_pair_gives(
    tmp_path: Path, tiny_tokenizer: Any, rows_at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "ROWS_AT_ONCE", rows_at_once)
    renderer = Renderer(tiny_tokenizer)
    rows = [*PAIRS, *tiny.preference_rows(5)]
    store = tokenized(tmp_path, rows, renderer, "pair")
    results = [PairTokens(*(ids.tolist() for ids in store.pair(index))) for index in range(len(store))]
    assert results == [renderer.pair(row) for row in rows]
    assert [mask.tolist() for _, mask in store.pieces(0)] == [
        [0] * len(results[0].prompt),
        [1] * len(results[0].chosen),
        [1] * len(results[0].rejected),
    ]


def test_long_rows_are_tokenized_a_few_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tiny.write_rows(tmp_path / "rows.jsonl", tiny.rows(8))
    monkeypatch.setattr(batch, "BYTES_AT_ONCE", 2 * len(source.read_bytes().splitlines(keepends=True)[0]))
    sizes = [len(lines) for lines in batch._chunks(source)]
    assert sum(sizes) == 8 and max(sizes) <= 3 and len(sizes) >= 3


def test_threads_change_nothing(tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files = []
    for parallel in ("false", "true"):
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallel)
        tokenized(tmp_path / parallel, CHATS, Renderer(tiny_tokenizer))
        files.append((tmp_path / parallel / "tokens").read_bytes())
    assert files[0] == files[1]


def test_a_file_without_rows_is_a_store_without_rows(tmp_path: Path, tiny_tokenizer: Any) -> None:
    assert len(tokenized(tmp_path, [], Renderer(tiny_tokenizer))) == 0


def test_a_row_that_trains_nothing_is_named_from_inside_a_batch(tmp_path: Path, tiny_tokenizer: Any) -> None:
    bad = {"messages": [user("Hi"), assistant("Ho", weight=0)], "source": "b.jsonl", "line": 9}
    with pytest.raises(DataError, match=r"^b\.jsonl:9: no token of this row would be trained"):
        tokenized(tmp_path, [*CHATS, bad, *CHATS], Renderer(tiny_tokenizer))
    assert not (tmp_path / "tokens").exists()


# Rows of token ids


def test_token_ids_are_taken_as_they_are(tiny_tokenizer: Any) -> None:
    for loss_on in ("assistant", "all"):
        renderer = Renderer(tiny_tokenizer, loss_on=loss_on)  # type: ignore[arg-type]
        assert renderer.tokens(GIVEN) == MaskedTokens([5, 6, 7, 8], [0, 0, 1, 1])
        assert renderer.tokens({"input_ids": [5, 6], "labels": [5, 6]}) == MaskedTokens([5, 6], [0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [-100, -100, 7]}, "4 input_ids and 3 labels"),
        ({"labels": [-100, 7, 8, -100]}, "label 7 at token 1, whose id is 6"),
        ({"labels": [5, -100, -100, -100]}, "no token of this row would be trained"),
        ({"labels": None}, "`labels` is no list"),
        ({"input_ids": [5, 6, 7, 1.5]}, "`input_ids` is no list of 32-bit whole numbers"),
        ({"input_ids": [5, 6, 7, True]}, "`input_ids` is no list"),
        ({"input_ids": [5, 6, 7, 2**40]}, "`input_ids` is no list"),
        ({"input_ids": [5, 6, 7, -1], "labels": [-100, -100, 7, -1]}, "token id -1: the tokenizer has "),
        ({"input_ids": [5, 6, 7, 99999], "labels": [-100, 6, -100, -100]}, "token id 99999: the tokenizer has "),
        ({"input_ids": [], "labels": []}, "no token of this row would be trained"),
    ],
)
def test_token_ids_that_cannot_be_trained_are_refused(
    tiny_tokenizer: Any, change: dict[str, Any], message: str
) -> None:
    row = json.loads(json.dumps({**GIVEN, **change, "source": "t.jsonl", "line": 4}))
    with pytest.raises(DataError) as caught:
        Renderer(tiny_tokenizer).tokens(row)
    assert caught.value.message.startswith(f"t.jsonl:4: {message}") and caught.value.hint
