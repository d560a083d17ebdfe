from __future__ import annotations

import json
from datetime import date
from typing import Any

import pytest

from trainer.decide.providers import export, fault, readiness, services

TODAY = date(2026, 6, 1)
SERVICES = {name: service.model_copy(update={"closed_to_new_users": False}) for name, service in services().items()}
CALL = {"type": "function", "function": {"name": "look", "arguments": {"city": "Oslo"}}}


def row(*turns: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in turns], "source": "a", "line": 1, **more}


PLAIN = row(("system", "be brief"), ("user", "hello"), ("assistant", "hi"))


def test_the_services_state_their_rows_source_and_day() -> None:
    requests = {name: (service.min_rows, *service.recommended_rows) for name, service in SERVICES.items()}
    assert requests == {"openai": (10, 50, 100), "bedrock-claude": (32, 200, 500), "gemini": (20, 100, 500)}
    for service in SERVICES.values():
        assert service.source.startswith("https://") and len(service.as_of) == 10


@pytest.mark.parametrize(("rows", "verdict"), [(9, "not_ready"), (10, "usable"), (49, "usable"), (50, "ready")])
def test_rows_are_held_against_the_least_and_the_recommended_number(rows: int, verdict: str) -> None:
    assert readiness(SERVICES["openai"], [PLAIN] * rows, TODAY)["verdict"] == verdict


@pytest.mark.parametrize(
    ("service", "record", "reason"),
    [
        ("openai", {"prompt": [], "chosen": [], "rejected": []}, "no_messages"),
        ("openai", {"text": "once"}, "no_messages"),
        ("openai", row(("user", "a")), "no_assistant_message_last"),
        ("openai", row(("assistant", "a")), "no_user_message_first"),
        ("openai", row(("user", "a"), ("system", "s"), ("assistant", "b")), "late_system_message"),
        ("openai", row(("user", "a"), ("assistant", " ")), "empty_message"),
        ("openai", row(("user", "a" * 300_000), ("assistant", "b")), "too_long"),
        ("bedrock-claude", row(("user", "a"), ("user", "b"), ("assistant", "c")), "turns_do_not_alternate"),
        ("bedrock-claude", row(("user", "a"), ("tool", "b"), ("assistant", "c")), "unsupported_role"),
        ("gemini", row(("user", "a"), ("assistant", "b"), tools=[{"type": "function"}]), "unsupported_tools"),
    ],
)
def test_a_row_that_a_service_refuses_says_why(service: str, record: dict[str, Any], reason: str) -> None:
    assert fault(SERVICES[service], record) == reason


def test_a_turn_that_is_not_trained_on_is_refused_where_it_would_be() -> None:
    record = row(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))
    record["messages"][1]["weight"] = 0
    assert fault(SERVICES["gemini"], record) == "untrained_turn" and fault(SERVICES["openai"], record) is None


def test_a_question_marked_as_not_trained_is_what_every_service_takes_it_for() -> None:
    record = row(("user", "a"), ("assistant", "b"))
    record["messages"][0]["weight"] = 0
    assert fault(SERVICES["gemini"], record) is None


def test_failing_rows_are_counted_by_reason_with_their_places() -> None:
    bad = [row(("user", "a"), source="b", line=line) for line in range(1, 8)]
    ready = readiness(SERVICES["openai"], [PLAIN] * 60 + bad, TODAY)
    assert ready["verdict"] == "ready" and ready["rows"] == 60
    assert ready["failing"] == {"no_assistant_message_last": 7}
    assert ready["first"]["no_assistant_message_last"] == [f"b:{line}" for line in range(1, 6)]
    assert "7 rows would be left out" in ready["sentence"]


def test_more_rows_than_a_service_takes_are_not_ready() -> None:
    small = SERVICES["bedrock-claude"].model_copy(update={"max_rows": 40})
    assert readiness(small, [PLAIN] * 41, TODAY)["verdict"] == "not_ready"
    heavy = SERVICES["openai"].model_copy(update={"max_file_mib": 0.001})
    assert "larger" in readiness(heavy, [PLAIN] * 60, TODAY)["sentence"]


def test_each_format_is_the_one_of_its_service() -> None:
    written = {name: json.loads(export(service, [PLAIN])) for name, service in SERVICES.items()}
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    assert written["openai"] == {"messages": [{"role": "system", "content": "be brief"}, *turns]}
    assert written["bedrock-claude"] == {"system": "be brief", "messages": turns}
    assert written["gemini"] == {
        "systemInstruction": {"role": "system", "parts": [{"text": "be brief"}]},
        "contents": [{"role": "user", "parts": [{"text": "hello"}]}, {"role": "model", "parts": [{"text": "hi"}]}],
    }


def test_tool_calls_are_written_with_text_arguments_and_matching_ids() -> None:
    record = row(("user", "weather?"), ("assistant", ""), ("tool", "rain"), ("assistant", "It rains."))
    record["messages"][1]["tool_calls"] = [CALL]
    messages = json.loads(export(SERVICES["openai"], [record]))["messages"]
    call = messages[1]["tool_calls"][0]
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"} and messages[2]["tool_call_id"] == call["id"]


def test_an_export_leaves_out_what_would_be_refused() -> None:
    lines = export(SERVICES["gemini"], [PLAIN, row(("user", "a")), PLAIN]).splitlines()
    assert len(lines) == 2


@pytest.mark.parametrize(
    ("name", "today", "message"),
    [
        ("openai", date(2026, 6, 1), "closed to new users"),
        ("bedrock-claude", date(2026, 9, 11), "end was 2026-09-10"),
    ],
    ids=["closed", "ended"],
)
def test_a_service_that_takes_nobody_is_not_ready_whatever_the_rows(name: str, today: date, message: str) -> None:
    ready = readiness(services()[name], [PLAIN] * 300, today)
    assert ready["verdict"] == "not_ready" and message in ready["sentence"] and "300 rows" in ready["sentence"]


def test_a_model_is_usable_to_its_last_day() -> None:
    assert readiness(services()["bedrock-claude"], [PLAIN] * 300, date(2026, 9, 10))["verdict"] == "ready"
