"""Measure models: questions, answers, graders, statistics and gates."""
