"""Moments as users name them: a time, milliseconds since 1970, or a timestamp of Milvus."""

from __future__ import annotations

import datetime
from typing import TypeAlias

from .errors import InvalidArgumentError

Moment: TypeAlias = datetime.datetime | int
"""A time with its zone, milliseconds since 1970, or a hybrid timestamp of Milvus."""

_LOGICAL_BITS = 18
_FIRST_HYBRID = 1 << 48
"""Milliseconds reach this in the year 10889; a hybrid timestamp was above it from 1970's first hour on."""
_LAST = (1 << 63) - 1


def hybrid_timestamp(moment: Moment) -> int:
    """The last hybrid timestamp of a moment: milliseconds since 1970, shifted left by 18 bits, and a count within them.

    Raises:
        InvalidArgumentError: A time without a zone, before 1970, or what is no moment at all.

    Example:
        ```python
        hybrid_timestamp(datetime.datetime(2026, 11, 21, 6, 30, tzinfo=datetime.timezone.utc))
        ```
    """
    if isinstance(moment, datetime.datetime):
        if moment.tzinfo is None:
            raise InvalidArgumentError(
                "as_of has no time zone: write datetime(..., tzinfo=timezone.utc), or call .astimezone() on it"
            )
        number = (moment - _EPOCH) // datetime.timedelta(milliseconds=1)
    elif type(moment) is int:
        number = moment
    else:
        raise InvalidArgumentError(f"as_of has to be a datetime, milliseconds or a timestamp of Milvus, not {moment!r}")
    if not 0 <= number <= _LAST:
        raise InvalidArgumentError(f"as_of is no moment that Milvus has a timestamp for: {moment!r}")
    return number if number >= _FIRST_HYBRID else ((number + 1) << _LOGICAL_BITS) - 1


def moment_of_text(text: str) -> Moment:
    """A moment as a command line has it: ISO 8601 with a zone, or a number as for `hybrid_timestamp`.

    Raises:
        InvalidArgumentError: It is neither, or has no zone.
    """
    if text.isdecimal():
        return int(text)
    try:
        moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise InvalidArgumentError(f"{text!r} is no moment: write 2026-11-21T06:30:00Z, or milliseconds") from None
    if moment.tzinfo is None:
        raise InvalidArgumentError(f"{text!r} has no time zone: write --as-of {moment.isoformat()}Z")
    return moment


_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
