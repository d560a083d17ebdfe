import numpy as np
import pytest

from trainer.recipe.gates import Gate
from trainer.recipe.metrics import ExactMatch, JsonFields, ValidJson
from trainer.scoring.generation.shared_prefix import common_length
from trainer.scoring.question import Answer, Grade, Question, Timing
from trainer.scoring.results import ArmResults, Panel, answer_evidence, latency_evidence
from trainer.scoring.scores import EvalMeasurements, judge_gates, predictions, scores_of
from trainer.scoring.statistics.measurements import Evidence

NUM = 40
GRADERS = {"exact_match": ExactMatch()}


def question(index, **row):
    return Question(f"rows:{index}", [{"role": "user", "content": f"q{index}"}], "yes", row, group=f"g{index}")


def arm(right, *, model="base", prompted=False, failure="knowledge"):
    answers = [Answer("yes" if ok else "no", 3, True, 10) for ok in right]
    grades = [Grade(1.0) if ok else Grade(0.0, "wrong", failure) for ok in right]
    questions = [question(index, topic="a" if index < 10 else "b") for index in range(len(right))]
    texts = [answer.text for answer in answers]
    results = ArmResults("arm", questions, dict(GRADERS), answers, texts, {"exact_match": grades})
    results.measured = answer_evidence(answers, [f"g{index}" for index in range(len(right))])
    results.facts = {"model": model, "prompted": prompted}
    return results


def panel(**arms):
    questions = [question(index, topic="a" if index < 10 else "b") for index in range(NUM)]
    return Panel(questions, dict(GRADERS), 0, arms)


def measured(result, **more):
    return EvalMeasurements(result, (), more.pop("retention", {}), "exact_match", NUM, ["topic"])


def three_arms():
    return panel(
        base=arm([index < 10 for index in range(NUM)]),
        few_shot=arm([index < 20 for index in range(NUM)], prompted=True),
        tuned=arm([index < 36 for index in range(NUM)], model="tuned"),
    )


def test_scores_have_a_value_and_an_interval_for_every_arm():
    scores = scores_of(measured(three_arms()))
    assert {name: score["exact_match"]["value"] for name, score in scores["arms"].items()} == {
        "base": 0.25,
        "few_shot": 0.5,
        "tuned": 0.9,
    }
    tuned = scores["arms"]["tuned"]["exact_match"]
    assert tuned["low"] < 0.9 < tuned["high"] and tuned["n"] == NUM
    assert scores["arms"]["tuned"]["prompt_tokens"]["value"] == 10


def test_each_arm_is_compared_with_base_and_the_tuned_one_with_every_prompt():
    scores = scores_of(measured(three_arms()))
    pairs = [(item["arm"], item["vs"]) for item in scores["comparisons"] if item["metric"] == "exact_match"]
    assert pairs == [("few_shot", "base"), ("tuned", "base"), ("tuned", "few_shot")]
    gain = scores["comparisons"][0]
    assert gain["difference"] == pytest.approx(0.25) and "few_shot" in gain["sentence"]


def test_slices_are_scored_apart():
    topics = scores_of(measured(three_arms()))["slices"]["topic"]
    assert {value: entry["n"] for value, entry in topics.items()} == {"b": 30, "a": 10}
    assert topics["a"]["arms"]["base"]["exact_match"]["value"] == 1.0
    assert topics["b"]["arms"]["base"]["exact_match"]["value"] == 0.0


def test_questions_that_a_metric_does_not_apply_to_do_not_count():
    result = panel(base=arm([True] * NUM), tuned=arm([True] * NUM, model="tuned"))
    result.arms["base"].grades["exact_match"][:30] = [None] * 30
    assert scores_of(measured(result))["arms"]["base"]["exact_match"]["n"] == 10
    both = result.pair("tuned", "base", "exact_match")
    assert both is not None and len(both[0].values) == len(both[1].values) == 10


def test_a_gate_on_rows_that_only_some_arms_were_graded_on_is_judged_on_the_common_ones():
    result = panel(base=arm([False] * NUM), tuned=arm([True] * NUM, model="tuned"))
    result.arms["base"].grades["exact_match"][0] = None
    facts = measured(result)
    [entry] = judge_gates([Gate(metric="exact_match", min_gain=0.5)], facts, scores_of(facts), [])
    assert entry["verdict"] == "pass"


def test_the_best_prompt_is_what_a_gate_compares_with():
    facts = measured(three_arms())
    gate = Gate(metric="exact_match", vs="best_prompted", min_gain=0.1)
    [entry] = judge_gates([gate], facts, scores_of(facts), ["few_shot"])
    assert entry["verdict"] == "pass" and "few_shot" in entry["sentence"]


def test_retention_is_a_score_and_a_gate():
    drift = Evidence("ratio", np.tile([2.5, 3.5], 10), np.full(20, 10.0), bounded=False)
    leak = {"base": Evidence("share", np.zeros(20)), "tuned": Evidence("share", np.ones(20))}
    facts = measured(three_arms(), retention={"kl": {"tuned": drift}, "format_leak_rate": leak})
    scores = scores_of(facts)
    assert scores["retention"]["kl"]["value"] == pytest.approx(0.3)
    assert scores["retention"]["format_leak_rate"]["tuned"]["value"] == 1.0
    entries = judge_gates([Gate(metric="kl", max=0.5), Gate(metric="format_leak_rate", max=0.2)], facts, scores, [])
    assert [(entry["verdict"], entry["layer"]) for entry in entries] == [("pass", "retention"), ("fail", "retention")]


def test_micro_f1_counts_fields_and_not_rows():
    panel = Panel([question(0), question(1)], {"json_fields": JsonFields()}, seed=0)
    results = arm([True, False])
    results.graders = panel.graders
    results.grades = {"json_fields": [Grade(1.0), Grade(0.0, "", "knowledge")]}
    results.counts = {"json_fields": np.array([[9.0, 0, 0], [0, 1, 0]])}
    panel.arms = {"base": results}
    assert panel.scores()["base"]["json_fields"]["value"] == pytest.approx(18 / 19)


def test_an_answer_of_the_wrong_form_fails_on_form():
    panel = Panel([question(0), question(1)], {"exact_match": ExactMatch(), "valid_json": ValidJson()}, seed=0)
    results = arm([False, False])
    results.graders = panel.graders
    results.grades["valid_json"] = [Grade(0.0, "no JSON", "format"), Grade(1.0)]
    panel.arms = {"base": results}
    assert results.failures() == {"format": 1, "style": 0, "knowledge": 1, "refusal": 0, "other": 0}
    assert results.valid() == 0.5


def test_predictions_say_what_each_arm_answered_and_why_it_is_wrong():
    first, *_, last = predictions(three_arms(), ["topic"])
    assert first["answers"]["base"]["grades"] == {"exact_match": 1.0}
    assert last["answers"]["tuned"] == {
        "text": "no",
        "num_tokens": 3,
        "prompt_tokens": 10,
        "finished": True,
        "grades": {"exact_match": 0.0},
        "reasons": {"exact_match": "wrong"},
        "failure": "knowledge",
    }
    assert last["slices"] == {"topic": "b"}


def test_ten_waits_say_nothing_about_the_slowest_twentieth():
    evidence_rows = latency_evidence([Timing(0.1, 0.2 + index / 100, 5) for index in range(10)])
    scored = panel(base=arm([True] * NUM))
    scored.arms["base"].measured |= evidence_rows
    latency = scored.scores()["base"]["latency_p95_s"]
    assert latency["high"] is None and latency["value"] > 0.28


def test_the_shared_prefix_ends_where_two_prompts_differ():
    assert common_length([[1, 2, 3, 4], [1, 2, 9], [1, 2, 3]]) == 2
    assert common_length([[1, 2], [1, 2, 3]]) == 2
