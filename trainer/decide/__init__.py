"""Decide between prompting, documents and tuning, and tell what each of them costs.

The way of a decision, a module a step:

    from_scores   eval/scores.json and eval/predictions.jsonl -> DecisionInputs, Resamples
    budget, cost  prices of the recipe -> cost of each arm
    case          DecisionInputs -> Case: yes and no of each question that the table asks
    branches      the table of verdicts, over a Case
    verdict       the first branch that holds -> Choice, and how many resamples agree
    headline, explanation, changes, price   Choice -> sentences
    decision      all of it -> decide/decision.json
"""
