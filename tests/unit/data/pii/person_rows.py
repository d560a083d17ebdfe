"""Write rows with personal data as people write them in many countries, and rows that only look like it."""

from __future__ import annotations

import random

import phonenumbers
from phonenumbers import PhoneNumberFormat, PhoneNumberType

SENTENCES = {
    "US": ("Call me at {}.", "My cell is {} after six."),
    "CA": ("Reach the office at {} please.", "Phone: {}"),
    "IN": ("My mobile number is {}.", "मेरा फ़ोन नंबर {} है।"),
    "AU": ("Give us a ring on {}.", "Mob: {}"),
    "GB": ("Ring me on {} tonight.", "Tel. {}"),
    "DE": ("Meine Telefonnummer ist {}.", "Sie erreichen mich unter {}.", "Handy: {}"),
    "AT": ("Rufen Sie uns an: {}", "Telefon {}"),
    "CH": ("Tel. {}", "Rufnummer {}"),
    "FR": ("Mon numéro de téléphone est le {}.", "Appelez-moi au {}.", "Portable : {}"),
    "BE": ("Tél. {}", "Bel me op {}."),
    "ES": ("Mi teléfono es {}.", "Llámame al {}.", "Móvil: {}"),
    "MX": ("Mi celular es {}.", "Teléfono: {}"),
    "AR": ("Mi celular es {}.", "Tel: {}"),
    "IT": ("Il mio numero di telefono è {}.", "Chiamami al {}.", "Cell. {}"),
    "NL": ("Mijn telefoonnummer is {}.", "Bel mij op {}.", "Mobiel: {}"),
    "PT": ("O meu telemóvel é {}.", "Ligue para {}."),
    "BR": ("Meu celular é {}.", "Ligue para {}.", "Telefone: {}"),
    "PL": ("Mój telefon to {}.", "Zadzwoń pod {}."),
    "SE": ("Mitt telefonnummer är {}.", "Ring {}."),
    "DK": ("Mit telefonnummer er {}.", "Ring på {}."),
    "NO": ("Mobilen min er {}.", "Ring {}."),
    "FI": ("Puhelinnumeroni on {}.", "Soita {}."),
    "CZ": ("Můj telefon je {}.", "Volejte {}."),
    "HU": ("A telefonszámom {}.", "Hívjon a {} számon."),
    "RO": ("Telefonul meu este {}.", "Sunați la {}."),
    "GR": ("Το τηλέφωνό μου είναι {}.", "Τηλ. {}"),
    "TR": ("Telefon numaram {}.", "Cep: {}"),
    "RU": ("Мой телефон {}.", "Звоните по номеру {}."),
    "UA": ("Мій телефон {}.", "Дзвоніть {}."),
    "JP": ("電話番号は{}です。", "携帯：{}", "お電話は{}まで。"),
    "CN": ("我的手机号是{}。", "请拨打{}联系我们。", "电话：{}"),
    "TW": ("我的電話是{}。", "手機：{}"),
    "KR": ("제 전화번호는 {}입니다.", "연락처: {}"),
    "TH": ("โทร {}", "เบอร์โทรศัพท์ของฉันคือ{}"),
    "VN": ("Số điện thoại của tôi là {}.", "SĐT: {}"),
    "ID": ("Nomor telepon saya {}.", "HP: {}"),
    "IL": ("הטלפון שלי {}.", "נייד: {}"),
    "ZA": ("My phone number is {}.", "Cell: {}"),
    "SA": ("رقم هاتفي {}.", "الجوال: {}"),
    "NG": ("Call me on {}.", "Phone: {}"),
    "SG": ("My phone is {}.", "Call {}."),
}
"""Region -> sentences in its languages."""

BARE = {
    "US": "Ann Lee, 12 Oak Street, {}",
    "GB": "Ann Lee, Leeds, {}",
    "DE": "Praxis Dr. Weiß, Leipzig, {}",
    "FR": "Cabinet Martin, Lyon, {}",
    "IT": "Studio Rossi, Milano, {}",
    "NL": "Praktijk de Vries, Utrecht, {}",
    "BR": "Consultório Silva, São Paulo, {}",
    "JP": "田中医院　東京都　{}",
}
"""No word says telephone; the form of the country does."""


def number_of(rng: random.Random, region: str) -> str:
    """Draw a number that the region has given out, as it is written there."""
    kind = rng.choice([PhoneNumberType.FIXED_LINE, PhoneNumberType.MOBILE])
    example = phonenumbers.example_number_for_type(region, kind)
    assert example is not None
    digits = str(example.national_number)
    for _ in range(200):
        drawn = digits[:-5] + "".join(rng.choices("0123456789", k=5))
        candidate = phonenumbers.PhoneNumber(
            country_code=example.country_code,
            national_number=int(drawn),
            italian_leading_zero=example.italian_leading_zero,
        )
        if phonenumbers.is_valid_number(candidate):
            return phonenumbers.format_number(candidate, PhoneNumberFormat.NATIONAL)
    raise AssertionError(region)


PARTS = (
    "filter",
    "gasket",
    "bolt",
    "bracket",
    "pump",
    "bearing",
    "cartridge",
    "hose",
    "sensor",
    "valve",
    "seal",
    "belt",
)


def part_number(rng: random.Random) -> str:
    number = f"{rng.randint(200, 999)}-{rng.randint(200, 999)}-{rng.randint(0, 9999):04}"
    forms = (
        "Part {n} is out of stock.",
        "Replace the {p} {n} every year.",
        "The {p} {n} fits the 2012 model.",
        "P/N {n}",
    )
    return rng.choice(forms).format(n=number, p=rng.choice(PARTS))


def grid_range(rng: random.Random) -> str:
    number = f"{rng.randint(200, 999)}-{rng.randint(200, 999)}-{rng.randint(1000, 9999)}"
    return rng.choice(
        ("Cells {} are empty.", "The grid {} is mined.", "Rows {} hold the totals.", "Sector {}.")
    ).format(number)


def scores(rng: random.Random) -> str:
    numbers = " ".join(str(rng.randint(10, 130)) for _ in range(rng.randint(4, 6)))
    return rng.choice(("The home scores were {}.", "Final: {} in the last games.", "They answered {} points.")).format(
        numbers
    )


def sales(rng: random.Random) -> str:
    number = f"{rng.randint(1, 99)} {rng.randint(100, 999)} {rng.randint(100, 999)}"
    forms = ("Sales reached {} euros.", "We sold {} units and called it a year.", "Revenue was {} in all.")
    return rng.choice(forms).format(number)


def four_digits(rng: random.Random) -> str:
    return "Readings: " + " ".join(f"{rng.randint(1000, 9999)}" for _ in range(12))


def repository(rng: random.Random) -> str:
    name = "".join(rng.choices("abcdefghij", k=6))
    return rng.choice(
        ("git clone git@host{}.org:team/repo.git", "remote: git@git{}.com:a/b", "ssh -T git@{}.io")
    ).format(name)


LOOKALIKES = {
    "part numbers": (part_number, "phone"),
    "grid ranges": (grid_range, "phone"),
    "scores": (scores, "phone"),
    "sales": (sales, "phone"),
    "twelve four-digit numbers": (four_digits, "card"),
    "addresses of repositories": (repository, "email"),
}
"""Rows that hold nothing, and the type they were taken for."""

IN_SENTENCES_WITHOUT_SPACES = {
    "card": ("请从卡号4012888888881881扣款。", "4012888888881881"),
    "card grouped": ("カード番号は4012 8888 8888 1881です。", "4012 8888 8888 1881"),
    "iban": ("请汇款到DE89370400440532013000账户。", "DE89370400440532013000"),
    "ip": ("服务器地址是179.177.214.91，请检查。", "179.177.214.91"),
    "email": ("请联系ann.lee@corp.co.uk谢谢。", "ann.lee@corp.co.uk"),
    "email in Japanese": ("メールはtanaka@example-mail.jpまで。", "tanaka@example-mail.jp"),
    "email in Thai": ("ติดต่อann@corp.co.thครับ", "ann@corp.co.th"),
    "resident id": ("我的身份证号是11010519491231002X。", "11010519491231002X"),
    "phone": ("请拨打010-62781234。", "010-62781234"),
    "mobile": ("我的手机是13812345678，谢谢", "13812345678"),
    "ssn": ("他的SSN是536-90-4399。", "536-90-4399"),
    "mac": ("网卡3c:22:fb:1a:2b:3c离线了", "3c:22:fb:1a:2b:3c"),
    "passport": ("护照号码E12345678已过期", "E12345678"),
    "date of birth": ("出生日期：1985年7月30日", "1985年7月30日"),
    "my number": ("マイナンバーは123456789018です", "123456789018"),
    "korean": ("제 주민등록번호는 971013-9019902입니다", "971013-9019902"),
}
