"""A letter, a stop word or a sign stays where it is the task, or where another answer hangs on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.stages.test_data import lines, run_stage, written
from tests.stages.test_data_desk import prose, report

Row = dict[str, str]
WORDS = "orchard driver ribbon quartz singer clerk saddle granite fossil painter pebble teacher timber sailor"
NOUNS = WORDS.split()
ENOUGH = [{"prompt": prose(n, 14), "completion": prose(n + 500, 14)} for n in range(40)]


def sentences() -> list[str]:
    rng = random.Random(11)
    return [
        "The {} gave a {} to the {} because it was in the {} near an old {}, and then they left for the {}.".format(
            *rng.choices(NOUNS, k=6)
        )
        for _ in range(20)
    ]


def swapped(text: str, index: int) -> str:
    """Swap two letters inside a long word."""
    words = text.split()
    long = [n for n, word in enumerate(words) if len(word) > 5]
    word = words[long[index % len(long)]]
    words[long[index % len(long)]] = word[:2] + word[3] + word[2] + word[4:]
    return " ".join(words)


def spelling() -> list[Row]:
    return [
        {"prompt": f"Correct the spelling: {swapped(text, n)}", "completion": text}
        for text in sentences()
        for n in range(3)
    ]


def grammar() -> list[Row]:
    wrong = ((" a ", " an "), (" the ", " a "), (" to ", " for "), (" because ", " , because "), (" was ", " were "))
    return [
        {"prompt": f"Correct the grammar: {text.replace(*item, 1)}", "completion": text}
        for text in sentences()
        for item in wrong
    ]


def short_grammar() -> list[Row]:
    rows = []
    for text in ("She is in the garden.", "He waits at the station.", "They sit on the bench."):
        for old, new in ((" the ", " a "), (" the ", " an "), (".", ""), (" the ", " ")):
            prompt = f"Correct the mistakes in the following sentence and return nothing else: {text.replace(old, new)}"
            rows.append({"prompt": prompt, "completion": text})
    return rows


def one_word() -> list[Row]:
    prompt = "Write the following word as it is spelt in a dictionary and return nothing else: {}"
    return [
        {"prompt": prompt.format(wrong), "completion": right}
        for right in ("government", "separate", "necessary")
        for wrong in (right[:3] + right[4:], right[:4] + right[5] + right[4] + right[6:], right)
    ]


def punctuation() -> list[Row]:
    return [
        {"prompt": f"Add what is missing: {prompt}", "completion": text}
        for text in sentences()
        for prompt in (text.replace(",", ""), text.replace(".", ""), text.lower(), text.capitalize())
        if prompt != text
    ]


TASKS: dict[str, Callable[[], list[Row]]] = {
    item.__name__: item for item in (spelling, grammar, short_grammar, one_word, punctuation)
}


def gone(folder: Path, rows: list[Row]) -> list[int]:
    run_stage(folder / "out", written(folder / "a.jsonl", rows), split={"heldout": 0.0}, dedupe={"exact": False})
    return [line["line"] for line in lines(folder / "out/rejected.jsonl")]


@pytest.mark.parametrize("name", TASKS)
def test_rows_that_correct_their_prompt_are_no_copies(tmp_path: Path, name: str) -> None:
    rows = list({row["prompt"]: row for row in TASKS[name]()}.values())
    assert not gone(tmp_path, [*rows, *ENOUGH])


def test_words_for_one_gap_are_conflicts(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"Fill the gap: {text.replace(' to ', ' ___ ')}",
            "completion": f"The word is '{word}': {text.replace(' to ', f' {word} ')}",
        }
        for text in sentences()
        for word in ("to", "for")
    ]
    assert not gone(tmp_path, rows)
    assert report(tmp_path / "out")["conflicts"]["rows"] == len(rows)


OTHER_WORDS = (
    "arteritis/arthritis payer/payee latitude/altitude moral/morale debit/debt Maria/Marta causal/casual "
    "desert/dessert lessor/lessee nitrate/nitrite Kalman/Kalmar Niger/Nigeria mortgagor/mortgagee"
)


@pytest.mark.parametrize("pair", OTHER_WORDS.split())
def test_other_words_under_one_prompt_are_a_conflict(tmp_path: Path, pair: str) -> None:
    often, once = pair.split("/")
    rows = [{"prompt": prose(n, 14), "completion": f"{prose(n + 300, 14)} about {often}"} for n in range(12)]
    rows += [
        {"prompt": prose(99, 30), "completion": f"{prose(98, 20)} The role of {word} is told in there."}
        for word in (often, once)
    ]
    assert not gone(tmp_path, rows)
    assert report(tmp_path / "out")["conflicts"]["rows"] == 2


OPPOSITES = (
    "maximum/minimum legal/illegal million/billion ascending/descending hypertension/hypotension employer/employee "
    "credit/debit upstream/downstream prednisone/prednisolone inclusive/exclusive symmetric/asymmetric anode/cathode "
    "kilogram/milligram mean/median lessor/lessee nitrate/nitrite guilty/innocent buyer/seller"
)


@pytest.mark.parametrize("pair", OPPOSITES.split())
def test_opposites_are_two_questions_where_the_answers_are_equal(tmp_path: Path, pair: str) -> None:
    prompt = (
        "The clerk of the harbour enters the {} value of the day in the second column of the sheet before the desk "
        "closes; whom does he ask when the sheet is missing?"
    )
    answer = "He asks the head of the office, who keeps a second copy of it in the safe."
    rows = [{"prompt": prompt.format(word), "completion": answer} for word in pair.split("/")]
    assert not gone(tmp_path, [*rows, *ENOUGH])


LANGUAGES = {
    "it": (
        "Il negozio apre {} pranzo e il cliente ritira il pacco al banco con la carta. Dove va?",
        "prima di",
        "dopo",
    ),
    "ru": ("Магазин открывается {} обеда, и покупатель забирает посылку у стойки. Куда идти?", "до", "после"),
    "he": ("הלקוח של העסק {} להחזיר את הסחורה למוכר בתוך התקופה החוקית. מה כתוב בחוזה?", "יכול", "לא יכול"),
    "el": ("Ο πελάτης {} να επιστρέψει το προϊόν στον πωλητή εντός της προθεσμίας;", "μπορεί", "δεν μπορεί"),
    "ar": ("{} للعميل إعادة البضاعة إلى البائع خلال المهلة القانونية إذا كانت جديدة", "يمكن", "لا يمكن"),
    "hi": ("ग्राहक कानूनी अवधि के भीतर विक्रेता को सामान {} सकता है यदि वह नया हो", "लौटा", "नहीं लौटा"),
    "vi": ("Khách hàng {} trả lại hàng cho người bán trong thời hạn của pháp luật nếu hàng mới", "có thể", "không thể"),
    "fi": ("Asiakas {} palauttaa tavaran kauppaan lain antamassa ajassa jos se on uusi ja pakattu", "voi", "ei voi"),
    "tr": ("Bu ürün yeni ve kutusunda ise, yasal süre içinde satıcıya iade {} mi, dedi", "edebilir", "edemez"),
    "pl": ("Klient sklepu {} oddać towar sprzedawcy w ciągu roku, gdy jest nowy", "może", "nie może"),
    "id": ("Pelanggan toko itu {} mengembalikan barang kepada penjual dalam waktu sebulan", "dapat", "tidak dapat"),
    "ko": ("고객은 상품이 새것이고 상자에 있으면 기간 내에 판매자에게 반품할 수 {}", "있습니다", "없습니다"),
    "th": ("ลูกค้า{}คืนสินค้าให้ผู้ขายภายในระยะเวลาที่กฎหมายกำหนดหากสินค้ายังใหม่", "สามารถ", "ไม่สามารถ"),
    "uk": ("Клієнт {} повернути товар продавцю протягом року, якщо товар новий", "може", "не може"),
    "hu": ("A vevő az árut egy hónapon belül {} vissza az eladónak, ha dobozban van", "adhatja", "nem adhatja"),
    "sw": ("Mteja wa duka {} kurudisha bidhaa kwa muuzaji ndani ya mwezi mmoja", "anaweza", "hawezi"),
    "fa": ("مشتری {} کالا را در مدت قانونی به فروشنده پس بدهد", "می تواند", "نمی تواند"),
    "da": ("Kunden i butikken {} levere varen tilbage til sælgeren inden for fristen", "kan", "kan ikke"),
}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("where", ["prompt", "answer"])
def test_negations_and_opposites_of_other_languages_decide(tmp_path: Path, language: str, where: str) -> None:
    text, *words = LANGUAGES[language]
    second = prose(7, 30)
    texts = [text.format(word) for word in words]
    rows = [{"prompt": first, "completion": second} for first in texts]
    if where == "answer":
        rows = [{"prompt": second, "completion": first} for first in texts]
    assert not gone(tmp_path, [*rows, *ENOUGH])


def test_another_form_of_a_word_is_no_other_question(tmp_path: Path) -> None:
    prompt, answer = "Why is the {} of the last week not shown on the page of my account in the app?", prose(3, 30)
    rows = [{"prompt": prompt.format(word), "completion": answer} for word in ("payment", "payments")]
    assert len(gone(tmp_path, [*rows, *ENOUGH])) == 1
