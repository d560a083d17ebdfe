from __future__ import annotations

import hashlib
import random

import pytest

from trainer.data.pii.checksums import base58check, bech32, digits_of, luhn, mod_97
from trainer.data.pii.financial import is_ethereum_address
from trainer.data.pii.keccak import keccak_256


@pytest.mark.parametrize(
    ("check", "number"),
    [
        (luhn, "79927398713"),
        (luhn, "378282246310005"),
    ],
)
def test_a_check_digit_tells_every_wrong_digit(check, number: str) -> None:
    digits = digits_of(number)
    assert check(digits)
    for place, digit in enumerate(digits):
        for wrong in set(range(10)) - {digit}:
            assert not check([*digits[:place], wrong, *digits[place + 1 :]]), (place, wrong)


def test_mod_97_of_a_published_account_is_one() -> None:
    assert mod_97("370400440532013000DE89") == 1 and mod_97("370400440532013001DE89") != 1


def test_coin_addresses_of_the_specifications() -> None:
    assert base58check("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa") is not None
    assert base58check("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb") is None
    assert bech32("bc", "qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4")
    assert bech32("bc", "p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0")
    assert not bech32("bc", "qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5")


@pytest.mark.parametrize(
    "address", ["5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "fB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"]
)
def test_the_case_of_an_ethereum_address_is_its_checksum(address: str) -> None:
    assert is_ethereum_address("0x" + address) and not is_ethereum_address("0x" + address.swapcase())


def test_keccak_256_has_the_published_digests() -> None:
    assert keccak_256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak_256(b"abc").hex() == "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"


def test_the_permutation_is_that_of_sha3() -> None:
    from trainer.data.pii import keccak

    source = random.Random(1)
    for size in (0, 1, 134, 135, 136, 137, 500):
        message = source.randbytes(size)
        padded = bytearray(message) + b"\x06" + bytes(-(size + 1) % 136)
        padded[-1] |= 0x80
        lanes = [[0] * 5 for _ in range(5)]
        for offset in range(0, len(padded), 136):
            for index in range(17):
                word = padded[offset + 8 * index : offset + 8 * index + 8]
                lanes[index % 5][index // 5] ^= int.from_bytes(word, "little")
            lanes = keccak._permute(lanes)
        digest = b"".join(lanes[index % 5][index // 5].to_bytes(8, "little") for index in range(4))
        assert digest == hashlib.sha3_256(message).digest()
