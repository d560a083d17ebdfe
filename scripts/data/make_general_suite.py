"""Make recipes/suites/general/*.jsonl, the small general-ability suite, from public benchmarks.

    python scripts/data/make_general_suite.py SOURCE_FOLDER [OUTPUT_FOLDER]    (from the repository root)

SOURCE_FOLDER holds eval-mmlu/test_shared.jsonl (MIT), eval-openbookqa/openbook_qa.jsonl (Apache-2.0),
eval-truthfulqa/truthfulqa.jsonl (Apache-2.0), eval-svamp/svamp.jsonl (MIT) and eval-ifeval/ifeval.jsonl (Apache-2.0).
format.jsonl comes from the table PLAIN, refusal.jsonl is written by hand and not touched. The same source gives the
same bytes.
"""

import json
import random
import sys
from collections import defaultdict
from pathlib import Path

SEED = 0
LONG_ANSWERS = ("combination:two_responses", "length_constraints:number_paragraphs", "combination:repeat_prompt")
"""Instructions that need more tokens than a short suite gives."""

PLAIN = """
capital | What is the capital of France? | Paris
sum | What is 2 + 2? | 4, four
sky | What colour is a clear sky at noon? Answer in a few words. | blue
week | How many days are there in a week? | 7, seven
opposite | What is the opposite of hot? | cold, cool
water | Which two elements make up water? | oxygen
romeo | Who wrote Romeo and Juliet? | Shakespeare
largest | Which planet is the largest in our solar system? | Jupiter
spanish | How do you say "thank you" in Spanish? | gracias
legs | How many legs does a spider have? | 8, eight
months | Which month comes after March? | April
bees | What sweet food do bees make? | honey
milk | Which farm animal do we get most milk from? | cow, cows, cattle
snow | What colour is snow? | white
grass | What colour is grass? | green
night | What do you call the time when it is dark outside? | night, evening
season | Which season comes after autumn? | winter
ice | What does ice turn into when it melts? | water, liquid
friday | Which day comes after Friday? | Saturday
year | How many months are there in a year? | 12, twelve
hand | How many fingers does one hand have? | 5, five
ears | Which part of the body do you hear with? | ear, ears
eyes | Which part of the body do you see with? | eye, eyes
bark | Which pet barks? | dog, dogs
meow | Which pet says meow? | cat, cats
up | What is the opposite of up? | down
big | What is the opposite of big? | small, little, tiny
fast | What is the opposite of fast? | slow
young | What is the opposite of young? | old
wet | What is the opposite of wet? | dry
happy | What is the opposite of happy? | sad, unhappy
bread | What does a baker bake every morning? | bread, loaf, loaves, rolls
rain | What falls from the clouds when it rains? | water, rain, drops, raindrops
umbrella | What do you hold over your head in the rain? | umbrella
feet | What do you wear on your feet? | shoe, shoes, socks, boots
time | What do you look at to know what time it is? | clock, watch
fish | Where do fish live? | water, sea, ocean, river, lake
bird | What do birds use to fly? | wings, wing
tree | What grows on the branches of a tree? | leaf, leaves, fruit, fruits
egg | Which bird on a farm lays the eggs that we eat? | hen, hens, chicken, chickens
sheep | Which animal does wool come from? | sheep
sun | What is the name of the star that shines on us by day? | sun
moon | What shines in the sky at night and goes round the earth? | moon
school | Who teaches children at school? | teacher, teachers
doctor | Whom do you visit when you are ill? | doctor, physician
book | What do you read that has pages and a cover? | book, books
lemon | What colour is a ripe lemon? | yellow
ten | Which number comes after nine? | 10, ten
double | What is 5 times 2? | 10, ten
half | What is half of 20? | 10, ten
minus | What is 10 minus 7? | 3, three
hour | How many minutes are there in an hour? | 60, sixty
wheels | How many wheels does a bicycle have? | 2, two
mother | What do you call your mother's mother? | grandmother, grandma, granny
king | What do you call the wife of a king? | queen
fire | What is hot, bright and burns wood? | fire, flame, flames
breakfast | What is the first meal of the day called? | breakfast
cutting | What do you cut bread with? | knife
door | What do you open to go into a room? | door
key | What do you open a lock with? | key, keys
sleep | What piece of furniture do you sleep in? | bed
left | What is the opposite of left? | right
""".strip()
"""Questions that want a plain answer, any of several words. Most of the words exist in English only. So an answer in
another language, a constant one, a refusal and the form of a task are all wrong."""


def rows(path):
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def write(path, items):
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(item, ensure_ascii=False) + "\n" for item in items)
    print(f"{path}: {len(items)} items")


def knowledge(source):
    """One question of each of 40 subjects of MMLU, and 20 of OpenBookQA."""
    by_subject = defaultdict(list)
    for row in rows(source / "eval-mmlu" / "test_shared.jsonl"):
        if len(row["question"]) < 300 and len(row["choices"]) == 4:
            by_subject[row["subject"]].append(row)
    draw = random.Random(SEED)
    for subject in sorted(by_subject)[:40]:
        row = draw.choice(by_subject[subject])
        yield item(f"mmlu-{subject}", row["question"], row["choices"], row["answer"])
    openbook = rows(source / "eval-openbookqa" / "openbook_qa.jsonl")
    for number, row in enumerate(draw.sample(openbook, 20)):
        yield item(f"openbook-{number}", row["query"], row["choices"], row["gold"])


def truthfulness(source):
    """20 questions of TruthfulQA: the best answer among three wrong ones."""
    draw = random.Random(SEED)
    fitting = [
        row
        for row in rows(source / "eval-truthfulqa" / "truthfulqa.jsonl")
        if len(row["incorrect_answers"]) >= 3 and len(row["question"]) < 200
    ]
    for number, row in enumerate(draw.sample(fitting, 20)):
        choices = [row["best_answer"], *draw.sample(row["incorrect_answers"], 3)]
        draw.shuffle(choices)
        yield item(f"truthfulqa-{number}", row["question"], choices, choices.index(row["best_answer"]))


def item(name, question, choices, gold):
    return {"id": name, "prompt": question.strip(), "choices": choices, "reference": choices[gold]}


def arithmetic(source):
    draw = random.Random(SEED)
    for number, row in enumerate(draw.sample(rows(source / "eval-svamp" / "svamp.jsonl"), 20)):
        prompt = f"{row['context']}\nGive the final number at the end."
        yield {"id": f"svamp-{number}", "prompt": prompt, "reference": row["answer"]}


def instructions(source):
    """20 prompts of IFEval with one instruction each, as many kinds as there are."""
    by_kind = defaultdict(list)
    for row in rows(source / "eval-ifeval" / "ifeval.jsonl"):
        kinds = row["instruction_id_list"]
        if len(kinds) == 1 and kinds[0] not in LONG_ANSWERS and len(row["prompt"]) < 500:
            by_kind[kinds[0]].append(row)
    draw = random.Random(SEED)
    chosen = [draw.choice(candidates) for _, candidates in sorted(by_kind.items())]
    spare = [row for candidates in by_kind.values() for row in candidates if row not in chosen]
    for row in (chosen + draw.sample(spare, len(spare)))[:20]:
        kwargs = [{key: value for key, value in options.items() if value is not None} for options in row["kwargs"]]
        yield {
            "id": f"ifeval-{row['key']}",
            "prompt": row["prompt"],
            "instruction_id_list": row["instruction_id_list"],
            "kwargs": kwargs,
        }


def plain(_source):
    for line in PLAIN.splitlines():
        name, prompt, accepted = line.split(" | ")
        words = accepted.split(", ")
        yield {"id": f"plain-{name}", "prompt": prompt, "reference": words[0], "accepted": words}


def main():
    source = Path(sys.argv[1])
    target = Path(sys.argv[2] if len(sys.argv) > 2 else "recipes/suites/general")
    for make in (knowledge, truthfulness, arithmetic, instructions):
        write(target / f"{make.__name__}.jsonl", list(make(source)))
    write(target / "format.jsonl", list(plain(source)))


if __name__ == "__main__":
    main()
