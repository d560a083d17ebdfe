"""Count the solutions of GSM8K in which `numeric` finds the right number, without the line that names it.

    python scripts/bench/final_numbers.py train.jsonl

Rows have `answer`, a solution that ends in `#### number`. The last number of the text is the baseline.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

from trainer.scoring.graders.numeric import final_number
from trainer.scoring.graders.quantities import Quantity, quantities


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    rows = [json.loads(line)["answer"] for line in parser.parse_args().path.read_text().splitlines()]
    right = {"final number": 0, "last number": 0}
    for answer in rows:
        solution, _, reference = answer.partition("####")
        text = re.sub(r"<<.*?>>", "", solution).strip()
        expected = float(reference.replace(",", ""))
        numbers = quantities(text)
        right["final number"] += is_right(final_number(text), expected)
        right["last number"] += is_right(numbers[-1] if numbers else None, expected)
    for name, count in right.items():
        print(f"{name}: {count:,} of {len(rows):,} ({count / len(rows):.1%})")


def is_right(number: Quantity | None, expected: float) -> bool:
    readings = () if number is None else (number.value, number.also)
    return any(value is not None and abs(value - expected) < 1e-6 for value in readings)


if __name__ == "__main__":
    main()
