"""Tokens by content: found again, never wrong, never without bound."""

from __future__ import annotations

import copy
import os
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tests.unit.tokens import templates
from tests.unit.tokens.test_chat import with_template
from trainer.tokens.cache import TokenCache, cache_key
from trainer.tokens.chat import Renderer

DAY = date(2024, 5, 6)


def write(path: Path, text: str, *, age_s: int = 0) -> Path:
    path.write_text(text)
    stamp = 1_700_000_000 - age_s
    os.utime(path, (stamp, stamp))
    return path


def test_what_is_published_is_found_again(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "cache", limit_bytes=100)
    assert not cache.fetch("k", tmp_path / "out")
    cache.publish("k", write(tmp_path / "a", "tokens"))
    assert cache.fetch("k", tmp_path / "out") and (tmp_path / "out").read_text() == "tokens"
    assert not cache.fetch("other", tmp_path / "out2") and not (tmp_path / "out2").exists()
    assert [path.suffix for path in cache.folder.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("damage", ["other tokens", "", "toke"])
def test_a_damaged_entry_is_not_used_and_makes_room(tmp_path: Path, damage: str) -> None:
    cache = TokenCache(tmp_path / "cache", limit_bytes=100)
    cache.publish("k", write(tmp_path / "a", "tokens"))
    (tmp_path / "a").unlink()
    next(cache.folder.iterdir()).write_text(damage)
    assert not cache.fetch("k", tmp_path / "out") and not (tmp_path / "out").exists()
    cache.publish("k", write(tmp_path / "a", "tokens"))
    assert cache.fetch("k", tmp_path / "out") and (tmp_path / "out").read_text() == "tokens"


def test_replacing_the_file_of_a_run_leaves_the_entry_whole(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "cache", limit_bytes=100)
    cache.publish("k", write(tmp_path / "a", "tokens"))
    write(tmp_path / "b", "shorter").replace(tmp_path / "a")
    assert cache.fetch("k", tmp_path / "out") and (tmp_path / "out").read_text() == "tokens"


def test_another_file_system_gets_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("os.link", refuse)
    cache = TokenCache(tmp_path / "cache", limit_bytes=100)
    cache.publish("k", write(tmp_path / "a", "tokens"))
    assert cache.fetch("k", tmp_path / "out") and (tmp_path / "out").read_text() == "tokens"
    assert (tmp_path / "out").stat().st_nlink == 1


def test_the_oldest_entries_make_room(tmp_path: Path) -> None:
    cache = TokenCache(tmp_path / "cache", limit_bytes=10)
    for age, name in ((30, "old"), (20, "middle"), (10, "new")):
        cache.publish(name, write(tmp_path / name, "12345", age_s=age))
    assert [cache.fetch(name, tmp_path / "out") for name in ("old", "middle", "new")] == [False, True, True]
    cache.publish("large", write(tmp_path / "large", "x" * 11))
    assert not cache.fetch("large", tmp_path / "out") and cache.fetch("new", tmp_path / "out")


def test_a_limit_of_nothing_turns_it_off(tmp_path: Path) -> None:
    on, off = (TokenCache(tmp_path / "cache", limit_bytes=limit) for limit in (100, 0))
    off.publish("k", write(tmp_path / "a", "tokens"))
    assert not on.folder.exists()
    on.publish("k", tmp_path / "a")
    assert not off.fetch("k", tmp_path / "out") and on.fetch("k", tmp_path / "out")


def test_a_folder_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file is in the way")
    cache = TokenCache(tmp_path / "cache", limit_bytes=100)
    cache.publish("k", write(tmp_path / "a", "tokens"))
    assert not cache.fetch("k", tmp_path / "out")


def test_the_key_names_all_that_decides_the_tokens(tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(tokenizer: Any = tiny_tokenizer, rows: str = "a", **settings: Any) -> str:
        return cache_key(Renderer(tokenizer, **settings), rows, today=DAY)

    more_tokens, other_name = copy.deepcopy(tiny_tokenizer), copy.deepcopy(tiny_tokenizer)
    more_tokens.add_tokens(["<new>"])
    other_name.bos_token = "</s>"
    keys = [
        key(),
        key(rows="b"),
        key(more_tokens),
        key(other_name),
        key(tiny.make_tokenizer(trim_offsets=True)),
        key(with_template(tiny_tokenizer, templates.UNMARKED)),
        key(loss_on="all"),
        key(template_kwargs={"enable_thinking": False}),
    ]
    monkeypatch.setattr("trainer.tokens.cache.version", lambda name: "0")
    keys.append(key())
    monkeypatch.setattr("trainer.tokens.cache._code_sha256", lambda: "other code")
    keys.append(key())
    assert len(set(keys)) == len(keys)


def test_the_key_is_the_same_for_the_same_content(tiny_tokenizer: Any) -> None:
    again = tiny.make_tokenizer()
    assert len({cache_key(Renderer(each), "a", today=DAY) for each in (tiny_tokenizer, again)}) == 1


def test_only_a_template_with_a_date_is_tokenized_anew_each_day(tiny_tokenizer: Any) -> None:
    dated = with_template(tiny_tokenizer, "{{ strftime_now('%d %b %Y') }}" + templates.PLAIN_CHATML)
    for tokenizer, num_keys in ((tiny_tokenizer, 1), (dated, 2)):
        renderer = Renderer(tokenizer)
        assert len({cache_key(renderer, "a", today=date(2024, 5, day)) for day in (6, 7)}) == num_keys
