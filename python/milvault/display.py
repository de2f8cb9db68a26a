"""How numbers and results look to a person: sizes, durations, and HTML tables for notebooks. Escapes everything."""

from __future__ import annotations

import datetime
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def human_bytes(count: float) -> str:
    """A size in binary units.

    Example:
        >>> human_bytes(1536), human_bytes(12)
        ('1.5 KiB', '12 B')
    """
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} TiB"


def human_duration(seconds: float) -> str:
    """A duration, to the precision that a person needs.

    Example:
        >>> human_duration(7384), human_duration(65), human_duration(3.2)
        ('2h 03m', '1m 05s', '3s')
    """
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    return f"{whole // 86400}d {whole % 86400 // 3600:02d}h"


def human_value(value: Any) -> str:
    """Any attribute of a result, for a cell of a table."""
    if value is None:
        return "–"  # noqa: RUF001
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S UTC")
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.2f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(human_value(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}: {human_value(item)}" for key, item in value.items())
    return str(value)


def html_table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """A two-column HTML table, names left and values right."""
    body = "".join(
        f'<tr><th style="text-align:left">{escape(name)}</th>'
        f'<td style="text-align:left">{escape(human_value(value))}</td></tr>'
        for name, value in rows
    )
    return f"<table><caption><b>{escape(title)}</b></caption><tbody>{body}</tbody></table>"


def html_grid(title: str, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table with a header."""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(f'<td style="text-align:left">{escape(human_value(cell))}</td>' for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f"<table><caption><b>{escape(title)}</b></caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def html_bar(title: str, percentage: float, detail: str) -> str:
    """A progress bar, 0 to 100, in HTML that needs no script."""
    return (
        f'<div>{escape(title)} <progress value="{percentage:.1f}" max="100"></progress> '
        f"{percentage:.0f}% {escape(detail)}</div>"
    )
