"""Values with valid forms, published or drawn; keys are put together here so that no scanner takes them for real."""

from __future__ import annotations

import base64
import random
import string

IDENTITIES = {
    "us_ssn": "My SSN is 536-90-4399.",
    "us_itin": "ITIN 912-78-1234 was issued.",
    "uk_nino": "National insurance AB 12 34 56 C",
    "uk_nhs": "NHS number 943 476 5919",
    "de_tax_id": "Steuer-ID: 86095742719",
    "fr_nir": "Son numéro est 2 55 08 14 168 025 38.",
    "es_dni": "DNI 12345678Z",
    "it_codice_fiscale": "Codice fiscale RSSMRA85T10A562S",
    "nl_bsn": "BSN 123456782",
    "be_national": "rijksregisternummer 85.07.30-033.28",
    "ch_ahv": "AHV 756.9217.0769.85",
    "se_personnummer": "personnummer 811228-9874",
    "fi_hetu": "hetu 131052-308T",
    "no_fodselsnummer": "fødselsnummer 15108695088",
    "pl_pesel": "PESEL 44051401359",
    "br_cpf": "CPF 529.982.247-25",
    "in_aadhaar": "Aadhaar 2341 2341 2346",
    "in_pan": "PAN ABCPD1234E",
    "cn_resident_id": "ID 11010519491231002X",
    "ca_sin": "SIN 130 692 544",
    "us_routing": "routing number 121000358",
    "uk_bank_account": "Sort code 20-00-00, account 55779911",
    "ie_pps": "My PPS number is 6433435F",
    "dk_cpr": "CPR-nummer 211062-5629",
    "pt_nif": "NIF 501964843",
    "ro_cnp": "CNP 1630615123457",
    "bg_egn": "ЕГН 7523169263",
    "cz_rc": "rodné číslo 710319/2745",
    "gr_amka": "ΑΜΚΑ 01013099997",
    "hr_oib": "OIB 33392005961",
    "ru_inn": "ИНН 500100732259",
    "tr_tckimlik": "TC kimlik 17291716060",
    "il_id": "תעודת זהות 039337423",
    "za_id": "South African ID 7503305044089",
    "br_cnpj": "CNPJ 16.727.230/0001-97",
    "ar_cuit": "CUIL 20-05536168-2",
    "cl_rut": "RUT 12.531.909-2",
    "co_nit": "NIT 213.123.432-1",
    "mx_curp": "Mi CURP es BOXW310820HNERXN09",
    "pk_cnic": "CNIC 34201-0891231-8",
    "hk_id": "HKID A123456(3)",
    "tw_id": "身分證字號A123456789",
    "jp_my_number": "マイナンバー 6214 9832 0257",
    "kr_rrn": "주민등록번호 971013-9019902",
    "sg_nric": "NRIC S1234567D",
    "my_nric": "MyKad 770305-02-1234",
    "th_pin": "บัตรประชาชน 1-2345-45678-78-1",
    "au_tfn": "TFN 123 456 782",
    "bic": "SWIFT/BIC: DEUTDEFF500",
    "vin": "VIN 1M8GDM9AXKP042788",
    "date_of_birth": "Date of birth: 12 March 1984",
    "record_number": "MRN: 00482913",
    "driver_license": "My driver's license number is D1234567",
    "passport": "Passport number: X12345678",
}

CONTACTS = {
    "email": "Write to ann.lee+news@mail.corp.co.uk today",
    "phone": "Call me at 202-456-1111.",
    "card": "Charge 4012 8888 8888 1881 please",
    "iban": "Send it to DE89 3704 0044 0532 0130 00 now",
    "crypto": "Wallet bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4",
    "ip": "Blocked 179.177.214.91 again",
    "mac": "Adapter 3c:22:fb:1a:2b:3c",
    "address": "She lives at 742 Evergreen Terrace, Springfield, IL 62704",
}


def drawn(num_chars: int, chars: str = string.ascii_letters + string.digits, seed: int = 7) -> str:
    """Draw a token body that has digits and letters."""
    return "".join(random.Random(seed).choices(chars, k=num_chars))


def keys() -> dict[str, str]:
    """Return one made-up token of each vendor."""
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("=")
    body = base64.urlsafe_b64encode(b'{"sub":"1234567890","iat":1516239022}').decode().rstrip("=")
    upper = string.ascii_uppercase + "234567"
    hexadecimal = "0123456789abcdef"
    return {
        "aws": "AKIA" + drawn(16, upper),
        "github": "ghp_" + drawn(36),
        "github_fine": "github_pat_" + drawn(22) + "_" + drawn(59),
        "gitlab": "glpat-" + drawn(20),
        "slack": "xoxb-" + drawn(12, "0123456789") + "-" + drawn(12, "0123456789") + "-" + drawn(24),
        "slack_hook": "hooks.slack.com/" + "services/T" + drawn(9, upper) + "/B" + drawn(9, upper) + "/" + drawn(24),
        "stripe": "sk_live_" + drawn(24),
        "openai": "sk-" + "proj-" + drawn(48),
        "anthropic": "sk-" + "ant-api03-" + drawn(80),
        "google": "AIza" + drawn(35),
        "hugging_face": "hf_" + drawn(34),
        "npm": "npm_" + drawn(36),
        "pypi": "pypi-" + "AgEIcHlwaS5vcmc" + drawn(70),
        "sendgrid": "SG." + drawn(22) + "." + drawn(43),
        "digitalocean": "dop_v1_" + drawn(64, hexadecimal),
        "telegram": drawn(9, "123456789") + ":AA" + drawn(33),
        "jwt": header + "." + body + "." + drawn(43),
    }


def private_key() -> str:
    """Return a block with the form of a private key."""
    lines = "\n".join(drawn(64, seed=line) for line in range(6))
    return f"-----BEGIN RSA PRIVATE KEY-----\n{lines}\n-----END RSA PRIVATE KEY-----"
