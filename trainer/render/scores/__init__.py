"""Tables and sentences about eval/scores.json and eval/gates.json."""
