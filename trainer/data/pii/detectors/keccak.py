"""Compute Keccak-256 for Ethereum: SHA-3's permutation with the padding from before the standard."""

from __future__ import annotations

_MASK = (1 << 64) - 1
_RATE = 136
"""Bytes absorbed at once: (1600 - 2 * 256) / 8."""
PADDING = b"\x01"
"""First byte of the padding; SHA-3 of the standard (FIPS 202) has 6."""


def _rotate(lane: int, num_bits: int) -> int:
    return ((lane << num_bits) | (lane >> (64 - num_bits))) & _MASK


def _constants() -> list[int]:
    """Compute the 24 round constants with the linear feedback shift register of the specification."""
    register, constants = 1, []
    for _ in range(24):
        constant = 0
        for power in range(7):
            if register & 1:
                constant |= 1 << ((1 << power) - 1)
            register = (register << 1) ^ (0x171 if register >> 7 else 0)
        constants.append(constant)
    return constants


_ROUND_CONSTANTS = _constants()


def _permute(lanes: list[list[int]]) -> list[list[int]]:
    """Apply Keccak-f[1600] to lanes[x][y] of 64 bits; the comments name the five steps of a round."""
    for constant in _ROUND_CONSTANTS:
        # theta
        column = [lanes[x][0] ^ lanes[x][1] ^ lanes[x][2] ^ lanes[x][3] ^ lanes[x][4] for x in range(5)]
        parity = [column[(x - 1) % 5] ^ _rotate(column[(x + 1) % 5], 1) for x in range(5)]
        lanes = [[lane ^ parity[x] for lane in lanes[x]] for x in range(5)]
        # rho and pi
        x, y, current = 1, 0, lanes[1][0]
        for step in range(24):
            x, y = y, (2 * x + 3 * y) % 5
            current, lanes[x][y] = lanes[x][y], _rotate(current, (step + 1) * (step + 2) // 2 % 64)
        # chi and iota
        lanes = [[lanes[x][y] ^ (~lanes[(x + 1) % 5][y] & lanes[(x + 2) % 5][y]) for y in range(5)] for x in range(5)]
        lanes[0][0] ^= constant
    return lanes


def keccak_256(message: bytes) -> bytes:
    """Return the 32-byte digest. hashlib has only the standard's padding.

    Source: The Keccak reference, version 3.0; EIP-55 relies on it.

    Example:
        >>> keccak_256(b"abc").hex()[:16]
        '4e03657aea45a94f'
    """
    padded = bytearray(message) + PADDING + bytes(-(len(message) + 1) % _RATE)
    padded[-1] |= 0x80
    lanes = [[0] * 5 for _ in range(5)]
    for offset in range(0, len(padded), _RATE):
        for index in range(_RATE // 8):
            lanes[index % 5][index // 5] ^= int.from_bytes(
                padded[offset + 8 * index : offset + 8 * index + 8], "little"
            )
        lanes = _permute(lanes)
    return b"".join(lanes[index % 5][index // 5].to_bytes(8, "little") for index in range(4))
