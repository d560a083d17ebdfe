"""Find addresses of crypto-currencies by their checksums."""

from __future__ import annotations

import hashlib
import re

from stdnum import bitcoin

from trainer.data.pii.detectors.keccak import keccak_256
from trainer.data.pii.detectors.rule import PiiRule, context
from trainer.data.pii.record import PiiRecord, Twin, three_stars
from trainer.recipe.pii import PiiType

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
BECH32_CONSTANTS = (1, 0x2BC830A3)
"""Remainders of valid bech32 (BIP 173) and bech32m (BIP 350) addresses."""

LEGACY_COIN = re.compile(rf"(?<![A-Za-z0-9_/=+])[13mn2LMDrT][{BASE58}]{{25,34}}(?![A-Za-z0-9_/=+])")
SEGWIT_COIN = re.compile(
    rf"(?<![A-Za-z0-9_])(?:(?:bc|tb|ltc)1[{BECH32}]{{25,71}}|(?:BC|TB|LTC)1[{BECH32.upper()}]{{25,71}})(?![A-Za-z0-9_])"
)
ETHEREUM = re.compile(r"(?<![A-Za-z0-9_])0x[0-9a-fA-F]{40}(?![A-Za-z0-9_])")
CRYPTO_CONTEXT = context(
    r"eth|ether|ethereum|wallet|address|account|send|sent|deposit|crypto", "commit|hash|contract|transaction|tx"
)

COIN_VERSIONS = frozenset({0x00, 0x05, 0x6F, 0xC4, 0x30, 0x32, 0x1E, 0x16, 0x41})
"""Version bytes of bitcoin, its test net, litecoin, dogecoin and tron."""


def is_base58_address(value: str) -> bool:
    """Check version and checksum of a base58 address: version byte, 20 bytes of hash, 4 bytes of double SHA-256.

    Source: Bitcoin wiki, Base58Check encoding.
    """
    raw = bitcoin.b58decode(value)
    checksum = hashlib.sha256(hashlib.sha256(raw[:-4]).digest()).digest()[:4]
    return len(raw) == 25 and raw[0] in COIN_VERSIONS and checksum == raw[-4:]


def is_segwit_address(value: str) -> bool:
    """Check the checksum of a bech32 or bech32m address.

    Source: BIP 173 and BIP 350.
    """
    prefix, _, data = value.lower().partition("1")
    expanded = [*(ord(char) >> 5 for char in prefix), 0, *(ord(char) & 31 for char in prefix)]
    return bitcoin.bech32_checksum([*expanded, *map(BECH32.index, data)]) in BECH32_CONSTANTS


def is_ethereum_address(value: str) -> bool:
    """Check an address of mixed case: the case of its 40 hexadecimal digits is the checksum.

    Source: EIP-55.
    """
    digits = value[2:]
    digest = keccak_256(digits.lower().encode()).hex()
    return all(
        char == (char.upper() if int(nibble, 16) >= 8 else char.lower())
        for char, nibble in zip(digits, digest, strict=False)
    )


def is_plain_ethereum_address(value: str) -> bool:
    """Tell whether 40 hexadecimal digits in one case may be an address. Many hashes have that form too."""
    digits = value[2:]
    return digits in (digits.lower(), digits.upper()) and len(set(digits.lower())) >= 6


CRYPTO_RULES = (
    PiiRule("crypto", LEGACY_COIN, is_base58_address),
    PiiRule("crypto", SEGWIT_COIN, is_segwit_address),
    PiiRule("crypto", ETHEREUM, is_ethereum_address),
    PiiRule("crypto", ETHEREUM, is_plain_ethereum_address, CRYPTO_CONTEXT, needs_context=True),
)
RECORDS: dict[PiiType, PiiRecord] = {"crypto": PiiRecord(three_stars, Twin(num_kept=2), "P099", rank=8)}
