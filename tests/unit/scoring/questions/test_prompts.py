from pathlib import Path

import pytest

from trainer.errors import DataError
from trainer.recipe.arms import Arm, Documents, Prompt, Shots
from trainer.scoring.question import PromptRequest, Question
from trainer.scoring.questions.from_rows import questions_of
from trainer.scoring.questions.prompts import build, read_passages, without_reasoning


def row(user, answer, *, system=None, line=1, **more):
    head = [{"role": "system", "content": system}] if system else []
    messages = [*head, {"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return {"messages": messages, "source": "rows.jsonl", "line": line, **more}


TRAIN = [
    row("which river flows through Paris", "the Seine", line=1),
    row("which river flows through London", "the Thames", line=2),
    row("how many sheep are in the meadow", "twelve", line=3),
    row("who painted the ceiling of the chapel", "Michelangelo", line=4),
]


def content(row, history, turn):
    return turn["content"], len(turn["content"].split())


def asked_of(*rows, turns="last", by=None):
    return questions_of(rows, turns=turns, by=by, write_answer=content)


def prompts(arm, questions, *, rows=(), fits=lambda request: True):
    return build(arm, questions, train_rows=lambda: TRAIN, read_rows=lambda path: rows, seed=0, fits=fits)


def said(request: PromptRequest):
    return [(message["role"], message["content"]) for message in request.messages]


def test_a_plain_arm_asks_what_the_row_asks():
    questions = asked_of(row("a question", "its answer", system="be brief"))
    assert said(prompts(Arm(name="base"), questions)[0]) == [("system", "be brief"), ("user", "a question")]
    assert questions[0].reference == "its answer"


def test_every_turn_is_asked_with_the_true_history_before_it():
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "1"},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "2", "weight": 0},
        {"role": "user", "content": "three"},
        {"role": "assistant", "content": "3"},
    ]
    questions = asked_of({"messages": messages, "source": "s", "line": 7}, turns="all")
    assert [(q.id, q.reference, len(q.messages)) for q in questions] == [("s:7#1", "1", 1), ("s:7", "3", 5)]
    assert questions[0].group == questions[1].group
    assert [q.id for q in asked_of({"messages": messages, "source": "s", "line": 7})] == ["s:7"]


def test_rows_of_one_named_field_are_one_group():
    first, second = asked_of(
        row("a", "b", metadata={"customer": "x"}), row("c", "d", metadata={"customer": "x"}), by="customer"
    )
    assert first.group == second.group
    first, second = asked_of(row("a", "b"), row("c", "d"))
    assert first.group != second.group


def test_text_and_token_rows_ask_nothing():
    assert asked_of({"text": "once"}, {"input_ids": [1], "labels": [1]}) == []


def test_dynamic_shots_end_with_the_most_similar_row():
    [prompt_ids] = prompts(
        Arm(name="few", shots=Shots(dynamic=2, retriever="bm25")), asked_of(row("which river flows through Rome", "?"))
    )
    contents = [text for _, text in said(prompt_ids)]
    assert len(contents) == 5
    assert "river" in contents[0] and "river" in contents[2]
    assert contents[4] == "which river flows through Rome"


def test_a_near_copy_of_the_question_is_never_an_example():
    questions = asked_of(row("Which river flows through Paris?", "the Seine"))
    [prompt_ids] = prompts(Arm(name="few", shots=Shots(dynamic=3, retriever="bm25")), questions)
    assert "the Seine" not in [text for _, text in said(prompt_ids)]
    assert len(prompt_ids.messages) == 7


def test_fixed_shots_are_the_same_for_every_question():
    questions = asked_of(row("first thing", "1"), row("second thing", "2"))
    first, second = prompts(Arm(name="few", shots=Shots(fixed=2)), questions)
    assert first.messages[:4] == second.messages[:4]
    assert len(first.messages) == 5


def test_a_test_row_among_the_examples_of_a_file_is_refused():
    questions = asked_of(row("what is the tallest mountain in Europe", "Elbrus", line=9))
    leaked = [row("What is the tallest mountain in Europe?", "Elbrus")]
    with pytest.raises(DataError, match=r"example 1 of .*shots.jsonl \(.*\) holds the held-out question rows.jsonl:9"):
        prompts(Arm(name="few", shots=Shots(fixed=1, path="shots.jsonl")), questions, rows=leaked)


def test_a_test_row_inside_the_prompt_is_refused():
    questions = asked_of(row("what is the tallest mountain in Europe", "Elbrus"))
    text = "Answer briefly.\nExample: What is the tallest mountain in Europe? -> Elbrus"
    with pytest.raises(DataError, match="holds the held-out question"):
        prompts(Arm(name="best", prompt=Prompt(text=text)), questions)


def test_the_prompt_takes_the_place_of_the_row_s_own():
    [prompt_ids] = prompts(Arm(name="best", prompt=Prompt(text="be exact")), asked_of(row("q", "a", system="be brief")))
    assert said(prompt_ids) == [("system", "be exact"), ("user", "q")]


def test_shots_are_left_out_until_the_prompt_fits():
    questions = asked_of(row("which river flows through Rome", "?"))
    arm = Arm(name="few", shots=Shots(dynamic=3, retriever="bm25"))
    [prompt_ids] = prompts(arm, questions, fits=lambda prompt_ids: len(prompt_ids.messages) <= 3)
    assert len(prompt_ids.messages) == 3
    assert "river" in prompt_ids.messages[0]["content"]


def test_a_template_that_all_questions_share_makes_no_example_a_copy():
    text = "Sort the condition into one chapter of the classification and answer with the chapter alone. Condition: "
    rows = [row(text + name, "9") for name in ("gout", "rubella", "anaemia", "scurvy", "asthma")]
    shots = [row(text + "measles", "1"), row(text + "Gout.", "13")]
    arm = Arm(name="few", shots=Shots(fixed=1, path="shots.jsonl"))
    assert len(prompts(arm, asked_of(*rows), rows=shots)) == 5
    with pytest.raises(DataError, match="example 1 of"):
        prompts(arm, asked_of(*rows), rows=shots[1:])


def test_passages_stand_before_the_question(tmp_path: Path):
    (tmp_path / "facts.md").write_text("The tower is 300 metres tall.\n\nBread needs yeast and flour.")
    arm = Arm(name="rag", documents=Documents(path=str(tmp_path), num_passages=1, passage_words=20, retriever="bm25"))
    [prompt_ids] = prompts(arm, asked_of(row("how tall is the tower", "300 m")))
    content = prompt_ids.messages[-1]["content"]
    assert content.index("300 metres") < content.index("how tall is the tower")


def test_a_row_that_only_its_system_turn_asks_gets_passages_too(tmp_path: Path):
    (tmp_path / "a.md").write_text("the bridge is made of iron")
    only_system = {"messages": [{"role": "system", "content": "be brief"}, {"role": "assistant", "content": "yes"}]}
    arm = Arm(name="docs", documents=Documents(path=str(tmp_path), retriever="bm25"))
    system, user = prompts(arm, asked_of(only_system))[0].messages
    assert system["role"] == "system" and user["role"] == "user" and "made of iron" in user["content"]


def test_passages_are_cut_at_paragraphs_and_never_too_long(tmp_path: Path):
    (tmp_path / "long.txt").write_text(" ".join(f"w{i}" for i in range(95)) + "\n\nshort one")
    passages = read_passages(tmp_path, 40)
    assert [len(passage.split()) for passage in passages] == [40, 40, 17]
    assert " ".join(passages).split() == (tmp_path / "long.txt").read_text().split()


def test_a_line_separator_inside_a_document_ends_no_line(tmp_path: Path):
    (tmp_path / "docs.jsonl").write_text('{"text": "one\u2028two"}\n\n{"text": "three"}\n', encoding="utf-8")
    assert read_passages(tmp_path, 20) == ["one two", "three"]


def test_an_example_is_refused_with_what_it_says_and_what_it_gives_away():
    questions = asked_of(row("which bridge crosses the old harbour", "the iron one"))
    planted = {
        "messages": [
            *row("which bridge crosses the old harbour", "the iron one")["messages"],
            {"role": "user", "content": "thank you"},
            {"role": "assistant", "content": "gladly"},
        ]
    }
    with pytest.raises(DataError, match=r"example 1 of .*'thank you'.*which bridge crosses the old harbour"):
        prompts(Arm(name="a", shots=Shots(fixed=1, path="x.jsonl")), questions, rows=[planted])


def test_an_earlier_turn_that_repeats_the_question_keeps_a_row_out_of_the_nearest():
    question = "which river flows through Rome"
    planted = {"messages": [*row(question, "the Tiber")["messages"], *row("which river flows", "many")["messages"]]}
    result = build(
        Arm(name="a", shots=Shots(dynamic=3, retriever="bm25")),
        asked_of(row(question, "the Tiber", line=9)),
        train_rows=lambda: [planted, *TRAIN],
        read_rows=lambda path: [],
        seed=0,
        fits=lambda request: True,
    )
    assert ("assistant", "the Tiber") not in said(result[0]) and len(result[0].messages) == 7


def test_an_empty_folder_of_documents_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="no documents"):
        read_passages(tmp_path, 40)


@pytest.mark.parametrize(
    ("text", "remaining"),
    [
        ("<think>so\nso</think>\n42", "42"),
        ("<think>never closed", ""),
        ("<think>a</think>x<think>b</think>y", "xy"),
        ("42", "42"),
    ],
)
def test_reasoning_is_cut_before_grading(text, remaining):
    assert without_reasoning(text, "think") == remaining


def test_a_question_knows_its_row():
    [question] = asked_of(row("q", "a", metadata={"product": "phone"}))
    assert isinstance(question, Question)
    assert question.row["product"] == "phone"
