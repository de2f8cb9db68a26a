"""Whether an argument is of the sort that it has to be: a check for each sort, the same at every entrance.

Each raises `InvalidArgumentError`, and gives back what it was given, as the type that it is then known to be.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TypeVar

from .errors import InvalidArgumentError

Word = TypeVar("Word", bound=Enum)


def checked_word(argument: str, value: object, words: type[Word]) -> Word:
    """One of some words, also where it is written as a text.

    Raises:
        InvalidArgumentError: It is none of them; the message has them all.
    """
    try:
        return words(value)
    except ValueError:
        choices = ", ".join(str(word) for word in words)
        raise InvalidArgumentError(f"{argument} has to be one of {choices}, not {value!r}") from None


def checked_texts(argument: str, value: object, what: str) -> list[str]:
    """Several texts; one alone is refused, for it would be taken letter by letter.

    Raises:
        InvalidArgumentError: It is one text, no list, or has something else in it.
    """
    if isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        texts = list(value)
        if all(isinstance(text, str) for text in texts):
            return texts
    raise InvalidArgumentError(f"{argument} has to be a list of {what}, not {value!r}")


def checked_count(argument: str, value: object) -> int:
    """A number of things.

    Raises:
        InvalidArgumentError: It is no whole number, negative, or more than fits.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise InvalidArgumentError(f"{argument} has to be a number, 0 or more, not {value!r}")
    return value


def checked_time(argument: str, value: object) -> datetime.datetime:
    """A time with its zone.

    Raises:
        InvalidArgumentError: It is no time, or has no zone.
    """
    if not isinstance(value, datetime.datetime):
        raise InvalidArgumentError(f"{argument} has to be a datetime with its time zone, not {value!r}")
    if value.tzinfo is None:
        raise InvalidArgumentError(
            f"{argument} needs a time zone: write datetime(..., tzinfo=timezone.utc), or call .astimezone() on it"
        )
    return value
