"""Whether an argument is of the sort that it has to be: a check for each sort, the same at every entrance.

Each raises `InvalidArgumentError`, and gives back what it was given, as the type that it is then known to be.
"""

from __future__ import annotations

import datetime
import math
import numbers
import os
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from .errors import InvalidArgumentError

if TYPE_CHECKING:
    from .params import BackupParams, RestoreParams, VerificationParams

    Params = TypeVar("Params", BackupParams, RestoreParams, VerificationParams)

Word = TypeVar("Word", bound=Enum)


def checked_name(argument: str, value: object) -> str:
    """What can be a name.

    Raises:
        InvalidArgumentError: It is empty or no string.
    """
    if not isinstance(value, str) or not value:
        raise InvalidArgumentError(f"{argument} has to be a name, not {value!r}")
    return value


def checked_params(value: object, kind: type[Params]) -> Params:
    """The `params` of a call; the defaults where none are given.

    Raises:
        InvalidArgumentError: They are something else, such as a dict.
    """
    if value is None:
        return kind()
    if not isinstance(value, kind):
        name = kind.__name__
        raise InvalidArgumentError(f"params has to be made by {name}(...), and is of type {type(value).__name__}")
    return value


def checked_flag(argument: str, value: object) -> bool:
    """True or False, and nothing that only counts as one of them.

    Raises:
        InvalidArgumentError: It is neither.
    """
    if not isinstance(value, bool):
        raise InvalidArgumentError(f"{argument} has to be True or False, not {value!r}")
    return value


def checked_path(argument: str, value: object) -> str:
    """A path or a URL, as a text.

    Raises:
        InvalidArgumentError: It is neither a text nor a path. It is not repeated: it may hold a secret.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise InvalidArgumentError(f"{argument} has to be a path or a URL, and is of type {type(value).__name__}")
    return text


def checked_options(argument: str, value: object) -> dict[str, str]:
    """Options of an object store.

    Raises:
        InvalidArgumentError: They are no dict of texts. What was given is not repeated: it may be a secret.
    """
    if isinstance(value, Mapping) and all(isinstance(text, str) for pair in value.items() for text in pair):
        return dict(value)
    raise InvalidArgumentError(f"{argument} has to be a dict of texts")


def checked_number(argument: str, value: object) -> float:
    """A number that is finite.

    Raises:
        InvalidArgumentError: It is not finite, or no number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise InvalidArgumentError(f"{argument} has to be a number, not {value!r}")
    return float(value)


def checked_timeout(timeout: object, default: float) -> float:
    """Seconds, the config's where the call gives none.

    Raises:
        InvalidArgumentError: Not above 0.
    """
    if timeout is None:
        return default
    seconds = checked_number("timeout", timeout)
    if seconds <= 0:
        raise InvalidArgumentError(f"timeout must be greater than 0 seconds, not {timeout}")
    return seconds


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
    count = -1 if isinstance(value, bool) or not isinstance(value, numbers.Integral) else int(value)
    if not 0 <= count < 2**63:
        raise InvalidArgumentError(f"{argument} has to be a number, 0 or more, not {value!r}")
    return count


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
