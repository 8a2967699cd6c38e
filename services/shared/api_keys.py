"""The form of an API key: what kind it is can be seen, a mistyped one is known without asking anybody.

`stratum_live_` or `stratum_test_`, then 30 characters of chance (178 bits), then six characters of CRC-32 over all
before. Letters and digits only behind the last underscore, so that a double click selects the whole. The checksum is
that of GitHub's tokens: scanners recognise a key in a leaked file without a database.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from secrets import choice

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
LIVE, TEST = "stratum_live_", "stratum_test_"
#: 30 characters of 62 are 178 bits.
RANDOM_LENGTH, CHECKSUM_LENGTH = 30, 6
_FORM = re.compile(rf"({LIVE}|{TEST})[0-9A-Za-z]{{{RANDOM_LENGTH + CHECKSUM_LENGTH}}}")


def made(prefix: str, letters: Iterable[str] | None = None) -> str:
    """A new key with the prefix LIVE or TEST. `letters` are its chance, where a test wants to know them."""
    chance = "".join(letters) if letters is not None else "".join(choice(ALPHABET) for _ in range(RANDOM_LENGTH))
    return f"{prefix}{chance}{checksum(prefix + chance)}"


def checksum(text: str) -> str:
    """CRC-32 of the text, in base 62, six characters."""
    number = zlib.crc32(text.encode())
    digits = []
    for _ in range(CHECKSUM_LENGTH):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def is_well_formed(text: str) -> bool:
    """Whether the text can be a key of ours: prefix, length, alphabet and checksum."""
    return _FORM.fullmatch(text) is not None and checksum(text[:-CHECKSUM_LENGTH]) == text[-CHECKSUM_LENGTH:]


def is_live(key: str) -> bool:
    """Whether a well-formed key is a live one; else it is a test key."""
    return key.startswith(LIVE)


def hint(key: str) -> str:
    """What of a key may be shown ever after: its prefix and its last four characters."""
    return f"{LIVE if is_live(key) else TEST}…{key[-4:]}"
