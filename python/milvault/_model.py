"""What all models share: frozen, strict about unknown names, and clear about what is out of range."""

from __future__ import annotations

import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

if TYPE_CHECKING:
    from collections.abc import Callable

BYTES_PER_MB = 1024**2


class Model(BaseModel):
    """What a user types: unknown names are errors, and it does not change under a running job."""

    # What was typed is left out of errors: it may be a secret in the wrong place.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Result(BaseModel):
    """What a call returns: frozen, with `to_dict()` and a table for notebooks."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    _derived: ClassVar[tuple[str, ...]] = ()
    _shown: ClassVar[tuple[str, ...]] = ()

    def to_dict(self) -> dict[str, Any]:
        """All fields and derived values as JSON-ready values; times as ISO 8601 in UTC."""
        values = self.model_dump(mode="json")
        values.update({name: getattr(self, name) for name in self._derived})
        return values

    def __repr__(self) -> str:
        shown = ((name, getattr(self, name)) for name in self._shown)
        parts = (f"{name}={_plain(value)}" for name, value in shown if value not in (None, [], {}, ""))
        return f"{type(self).__name__}({', '.join(parts)})"

    def __str__(self) -> str:
        return repr(self)

    def _repr_html_(self) -> str:
        from .display import html_table

        rows = [(name.replace("_", " "), getattr(self, name)) for name in (*self._shown, *self._derived)]
        return html_table(type(self).__name__, [row for row in rows if row[1] not in (None, [], {}, "")])


def _plain(value: Any) -> str:
    return value.isoformat() if isinstance(value, datetime.datetime) else repr(getattr(value, "value", value))


def _within(low: float | None, high: float | None, *, above: bool = False) -> Callable[[Any], Any]:
    if high is None:
        wanted = f"greater than {low}" if above else f"{low} or more"
    elif above:
        wanted = f"greater than {low} and at most {high}"
    else:
        wanted = f"from {low} to {high}"

    def check(value: float) -> float:
        too_low = low is not None and (value <= low if above else value < low)
        if too_low or (high is not None and value > high):
            raise PydanticCustomError(
                "out_of_range", "must be {wanted}, not {value}", {"wanted": wanted, "value": value}
            )
        return value

    return check


def utc(value: datetime.datetime) -> datetime.datetime:
    """`value` in UTC; a time without a zone is refused, for it names a different instant on each machine."""
    if value.tzinfo is None:
        raise PydanticCustomError(
            "naive_datetime",
            "needs a time zone: write datetime(..., tzinfo=timezone.utc), or call .astimezone() on a local time",
        )
    return value.astimezone(datetime.timezone.utc)


Level = Annotated[int, AfterValidator(_within(1, 9))]
Count = Annotated[int, AfterValidator(_within(0, None))]
PositiveCount = Annotated[int, AfterValidator(_within(0, None, above=True))]
Seconds = Annotated[float, AfterValidator(_within(0, None))]
PositiveSeconds = Annotated[float, AfterValidator(_within(0, None, above=True))]
PositiveRate = Annotated[float, AfterValidator(_within(0, None, above=True))]
Percent = Annotated[float, AfterValidator(_within(0, 100, above=True))]
UtcDatetime = Annotated[datetime.datetime, AfterValidator(utc)]
