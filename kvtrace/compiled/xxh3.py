"""XXH3's 64-bit hash of parts of a byte array, for code compiled by numba; seed 0.

Source: the XXH3 algorithm of Y. Collet's xxHash 0.8, whose secret and primes are below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from kvtrace.compiled.jit import helper, kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SECRET = np.frombuffer(
    bytes.fromhex(
        "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
        "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
        "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
        "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
        "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
        "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
    ),
    np.uint8,
)
_P32_1, _P32_2, _P32_3 = (np.uint64(n) for n in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D))
_P1, _P2, _P3, _P4, _P5 = (
    np.uint64(n)
    for n in (
        0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )
)  # fmt: skip
_PRIME_MX1, _PRIME_MX2 = np.uint64(0x165667919E3779F9), np.uint64(0x9FB21C651E98DF25)
_LOW = np.uint64(0xFFFFFFFF)
_BYTE = np.uint64(8)
LANES = 8
"""Entries of the scratch array that hashes of more than 240 bytes need."""
_STRIPE = 64
_BLOCK_STRIPES = 16


@helper
def word_at(data: NDArray[np.uint8], at: int) -> Any:
    """Return 8 bytes as a number, the first one lowest."""
    value = np.uint64(0)
    for byte in range(8):
        value |= np.uint64(data[at + byte]) << (np.uint64(byte) * _BYTE)
    return value


@helper
def _u32(data: NDArray[np.uint8], at: int) -> Any:
    value = np.uint64(0)
    for byte in range(4):
        value |= np.uint64(data[at + byte]) << (np.uint64(byte) * _BYTE)
    return value


@helper
def _rotated(value: Any, bits: int) -> Any:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))


@helper
def _swapped(value: Any) -> Any:
    turned = np.uint64(0)
    for _ in range(8):
        turned = (turned << _BYTE) | (value & np.uint64(0xFF))
        value >>= _BYTE
    return turned


@helper
def _folded(one: Any, other: Any) -> Any:
    """Return the halves of the product of 128 bits, one xor the other."""
    half = np.uint64(32)
    low = (one & _LOW) * (other & _LOW)
    cross = (one >> half) * (other & _LOW)
    middle = (low >> half) + (cross & _LOW) + (one & _LOW) * (other >> half)
    high = (cross >> half) + (middle >> half) + (one >> half) * (other >> half)
    return high ^ ((middle << half) | (low & _LOW))


@helper
def _mixed(data: NDArray[np.uint8], at: int, secret: int) -> Any:
    low = word_at(data, at) ^ word_at(_SECRET, secret)
    return _folded(low, word_at(data, at + 8) ^ word_at(_SECRET, secret + 8))


@helper
def _avalanche(value: Any) -> Any:
    value = (value ^ (value >> np.uint64(37))) * _PRIME_MX1
    return value ^ (value >> np.uint64(32))


@helper
def _avalanche_64(value: Any) -> Any:
    value = (value ^ (value >> np.uint64(33))) * _P2
    value = (value ^ (value >> np.uint64(29))) * _P3
    return value ^ (value >> np.uint64(32))


@kernel
def _to_16(data: NDArray[np.uint8], at: int, length: int) -> Any:
    count = np.uint64(length)
    if length > 8:
        low = word_at(data, at) ^ word_at(_SECRET, 24) ^ word_at(_SECRET, 32)
        high = word_at(data, at + length - 8) ^ word_at(_SECRET, 40) ^ word_at(_SECRET, 48)
        return _avalanche(count + _swapped(low) + high + _folded(low, high))
    if length >= 4:
        value = _u32(data, at + length - 4) + (_u32(data, at) << np.uint64(32))
        value ^= word_at(_SECRET, 8) ^ word_at(_SECRET, 16)
        value ^= _rotated(value, 49) ^ _rotated(value, 24)
        value *= _PRIME_MX2
        value = (value ^ ((value >> np.uint64(35)) + count)) * _PRIME_MX2
        return value ^ (value >> np.uint64(28))
    if length == 0:
        return _avalanche_64(word_at(_SECRET, 56) ^ word_at(_SECRET, 64))
    value = np.uint64(data[at]) << np.uint64(16)
    value |= np.uint64(data[at + (length >> 1)]) << np.uint64(24)
    value |= np.uint64(data[at + length - 1]) | (count << _BYTE)
    return _avalanche_64(value ^ _u32(_SECRET, 0) ^ _u32(_SECRET, 4))


@kernel
def _to_240(data: NDArray[np.uint8], at: int, length: int) -> Any:
    total, last = np.uint64(length) * _P1, at + length - 16
    if length <= 128:
        for pair in range((length - 1) // 32, -1, -1):
            total += _mixed(data, at + 16 * pair, 32 * pair)
            total += _mixed(data, last - 16 * pair, 32 * pair + 16)
        return _avalanche(total)
    for part in range(8):
        total += _mixed(data, at + 16 * part, 16 * part)
    total = _avalanche(total)
    for part in range(8, length // 16):
        total += _mixed(data, at + 16 * part, 16 * (part - 8) + 3)
    return _avalanche(total + _mixed(data, last, 119))


@helper
def _take_stripe(data: NDArray[np.uint8], at: int, secret: int, lanes: NDArray[np.uint64]) -> None:
    for lane in range(LANES):
        value = word_at(data, at + 8 * lane)
        keyed = value ^ word_at(_SECRET, secret + 8 * lane)
        lanes[lane ^ 1] += value
        lanes[lane] += (keyed & _LOW) * (keyed >> np.uint64(32))


@kernel
def _long(data: NDArray[np.uint8], at: int, length: int, lanes: NDArray[np.uint64]) -> Any:
    lanes[0], lanes[1], lanes[2], lanes[3] = _P32_3, _P1, _P2, _P3
    lanes[4], lanes[5], lanes[6], lanes[7] = _P4, _P32_2, _P5, _P32_1
    for stripe in range((length - 1) // _STRIPE):
        within = stripe % _BLOCK_STRIPES
        _take_stripe(data, at + stripe * _STRIPE, 8 * within, lanes)
        if within == _BLOCK_STRIPES - 1:
            for lane in range(LANES):
                value = lanes[lane] ^ (lanes[lane] >> np.uint64(47))
                lanes[lane] = (value ^ word_at(_SECRET, 128 + 8 * lane)) * _P32_1
    _take_stripe(data, at + length - _STRIPE, 121, lanes)
    total = np.uint64(length) * _P1
    for pair in range(0, LANES, 2):
        one = lanes[pair] ^ word_at(_SECRET, 11 + 8 * pair)
        total += _folded(one, lanes[pair + 1] ^ word_at(_SECRET, 19 + 8 * pair))
    return _avalanche(total)


@kernel
def hash_of(data: NDArray[np.uint8], begin: int, end: int, lanes: NDArray[np.uint64]) -> Any:
    """Return the hash of the bytes from `begin` up to `end`; `lanes`: scratch."""
    length = end - begin
    if length <= 16:
        return _to_16(data, begin, length)
    if length <= 240:
        return _to_240(data, begin, length)
    return _long(data, begin, length, lanes)
