"""The keys that secrets are stored with: `STEPWELL_SECRET_KEY`."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from stepwell.errors import SecretKeyError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

VARIABLE: Final = "STEPWELL_SECRET_KEY"
MAKE: Final = 'python -c "from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())"'


class Keys:
    """Several Fernet keys: the first encrypts, each of them decrypts."""

    def __init__(self, ring: MultiFernet, count: int) -> None:
        self._ring = ring
        self._count = count

    def encrypt(self, data: bytes) -> str:
        """Text that only the holder of the keys can read; another one each time."""
        return self._ring.encrypt(data).decode()

    def decrypt(self, text: str) -> bytes:
        """What was encrypted.

        Raises:
            SecretKeyError: None of the keys fits, or the text was changed.
        """
        from cryptography.fernet import InvalidToken

        try:
            return self._ring.decrypt(text.encode())
        except (InvalidToken, ValueError):
            known = f"none of the {self._count} keys" if self._count > 1 else "not the key"
            raise SecretKeyError(
                f"A stored secret was encrypted with another key: it is {known} in {VARIABLE}. Add the old key behind the present one, separated by a comma."
            ) from None


def secret_keys() -> Keys:
    """The keys of this process.

    Raises:
        SecretKeyError: There are none, one of them is no key, or the package `cryptography` is missing.
    """
    return _keys(os.environ.get(VARIABLE, ""))


@lru_cache(maxsize=4)
def _keys(text: str) -> Keys:
    # The package first: the command that makes a key needs it.
    try:
        from cryptography.fernet import Fernet, MultiFernet
    except ImportError as error:
        raise SecretKeyError(
            "Secrets need the package `cryptography`. Run `pip install 'stepwell[crypto]'`."
        ) from error
    keys = [key.strip() for key in text.split(",") if key.strip()]
    if not keys:
        raise SecretKeyError(
            f"Secrets need a key: set {VARIABLE}, the same for all processes on this database. Make one with `{MAKE}`."
        )
    fernets: list[Fernet] = []
    for number, key in enumerate(keys, 1):
        try:
            fernets.append(Fernet(key))
        except ValueError:
            # Without the cause: it may show parts of the key.
            raise SecretKeyError(
                f"Key {number} of {len(keys)} in {VARIABLE} is none: a key is 44 characters of URL-safe base64. Make one with `{MAKE}`."
            ) from None
    return Keys(MultiFernet(fernets), len(fernets))
