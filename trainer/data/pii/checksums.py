"""Check digits and checksums that several kinds of value share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
BECH32_CONSTANTS = (1, 0x2BC830A3)


def digits_of(value: str) -> list[int]:
    """Return the decimal digits of `value`, everything else left out."""
    return [int(char) for char in value if "0" <= char <= "9"]


def luhn(digits: Sequence[int]) -> bool:
    """Check the last digit by Luhn's rule.

    Source: ISO/IEC 7812-1, annex B.
    """
    doubled = sum((2 * digit - 9 if digit > 4 else 2 * digit) for digit in digits[-2::-2])
    return (doubled + sum(digits[-1::-2])) % 10 == 0


def weighted_sum(digits: Sequence[int], weights: Sequence[int]) -> int:
    """Return the sum of digit times weight over the length of `weights`."""
    return sum(digit * weight for digit, weight in zip(digits, weights, strict=False))


def mod_97(value: str) -> int:
    """Return the remainder by 97 of an alphanumeric string whose letters count 10 to 35.

    Source: ISO/IEC 7064, MOD 97-10.
    """
    return int("".join(str(int(char, 36)) for char in value)) % 97


def base58check(value: str) -> bytes | None:
    """Decode base58 and return the payload (version byte first) when its double-SHA-256 checksum fits, else None.

    Source: Bitcoin wiki, Base58Check encoding.
    """
    number = 0
    for char in value:
        number = number * 58 + BASE58.index(char)
    zeros = len(value) - len(value.lstrip("1"))
    raw = bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")
    payload, check = raw[:-4], raw[-4:]
    return payload if hashlib.sha256(hashlib.sha256(payload).digest()).digest()[:4] == check else None


def bech32(prefix: str, data: str) -> bool:
    """Check the six last characters of a bech32 or bech32m address, given in lower case.

    Source: BIP 173 and BIP 350.
    """
    values = [ord(char) >> 5 for char in prefix] + [0] + [ord(char) & 31 for char in prefix]
    values += [BECH32.index(char) for char in data]
    generator = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit in range(5):
            check ^= generator[bit] if top >> bit & 1 else 0
    return check in BECH32_CONSTANTS
