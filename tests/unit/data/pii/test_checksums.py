from __future__ import annotations

import hashlib
import random

import pytest

from trainer.data.pii.detectors import keccak
from trainer.data.pii.detectors.coins import is_base58_address, is_ethereum_address, is_segwit_address
from trainer.data.pii.detectors.financial import is_card
from trainer.data.pii.detectors.keccak import keccak_256


@pytest.mark.parametrize("number", ["4012888888881881", "378282246310005"])
def test_a_check_digit_tells_every_wrong_digit(number: str) -> None:
    assert is_card(number, 0, len(number))
    for index, digit in enumerate(number):
        for wrong in set("0123456789") - {digit}:
            text = number[:index] + wrong + number[index + 1 :]
            assert not is_card(text, 0, len(text)), text


def test_coin_addresses_of_the_specifications() -> None:
    assert is_base58_address("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa")
    assert not is_base58_address("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb")
    assert is_segwit_address("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4")
    assert is_segwit_address("bc1p0xlxvlhemja6c4dqv22uapctqupfhlxm9h8z3k2e72q4k9hcz7vqzk5jj0")
    assert not is_segwit_address("bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t5")


@pytest.mark.parametrize(
    "address", ["5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "fB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"]
)
def test_the_case_of_an_ethereum_address_is_its_checksum(address: str) -> None:
    assert is_ethereum_address("0x" + address) and not is_ethereum_address("0x" + address.swapcase())


def test_keccak_256_has_the_published_digests() -> None:
    assert keccak_256(b"").hex() == "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak_256(b"abc").hex() == "4e03657aea45a94fc7d47ba826c8d667c0d1e6e33a64a036ec44f58fa12d6c45"


def test_with_the_padding_of_the_standard_it_is_sha3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keccak, "PADDING", b"\x06")
    source = random.Random(1)
    for size in (0, 1, 134, 135, 136, 137, 500):
        message = source.randbytes(size)
        assert keccak_256(message) == hashlib.sha3_256(message).digest()
