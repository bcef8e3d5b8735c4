"""Text that must not be shown: the token of a client."""

from __future__ import annotations

import hmac
from typing import NoReturn


class Secret:
    """Secret text that ``str()`` and ``repr()`` hide. Only :meth:`reveal` returns it, so every use is easy to
    find."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the secret text."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        # A pickle would store it in clear text in caches, queues and core dumps.
        raise TypeError("a Secret cannot be pickled")
