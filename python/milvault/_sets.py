"""Which collections a filter means."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .errors import CollectionNotFoundError, InvalidArgumentError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._engine import Engine

STAGING = re.compile(r"mv_[0-9a-f]{8}")
"""What a restore calls a collection that it is about to put in its target's place."""

_FORMS = "write collection, database.collection or database.*, with commas between several"


@dataclass(frozen=True)
class Pattern:
    """One part of a filter. `collection` is `None` for all of the database's."""

    database: str
    collection: str | None

    def __str__(self) -> str:
        return f"{self.database}.{self.collection or '*'}"


def patterns_of(wanted: str | Iterable[str], database: str) -> list[Pattern]:
    """The parts of a filter.

    Args:
        wanted: `collection`, `database.collection`, `database.*`; several with commas between, or as several texts.
        database: What a part means that names no database.

    Raises:
        InvalidArgumentError: A part is of no such form, or there is none.

    Example:
        >>> [str(part) for part in patterns_of("films, shop.goods, news.*", "default")]
        ['default.films', 'shop.goods', 'news.*']
    """
    texts = [wanted] if isinstance(wanted, str) else list(wanted)
    parts = [part.strip() for text in texts for part in text.split(",")]
    if not parts:
        raise InvalidArgumentError(f"the filter is empty; {_FORMS}, or leave it out for all")
    return [_pattern(part, database) for part in parts]


def _pattern(part: str, database: str) -> Pattern:
    owner, dot, collection = part.rpartition(".")
    owner = owner if dot else database
    if not owner or not collection or "." in owner or "*" in owner or ("*" in collection and collection != "*"):
        raise InvalidArgumentError(f"{part!r} is no part of a filter; {_FORMS}")
    return Pattern(owner, None if collection == "*" else collection)


async def matching(engine: Engine, patterns: Iterable[Pattern] | None) -> list[tuple[str, str]]:
    """Databases and collections that the patterns mean, each once, in their order; without patterns, all.

    A collection that is named is not looked for. `*` leaves out what a restore is just making.

    Raises:
        CollectionNotFoundError: A database has no collection.
        InvalidArgumentError: There is no such database.
        BackupRecoveryError: The server cannot be reached.
    """
    (await engine.run("server_info", {})).unwrap()  # one that is down is told once, not for each collection
    found: dict[tuple[str, str], None] = {}
    if patterns is None:
        databases: list[str] = (await engine.run("list_databases", {})).unwrap()
        for database in databases:
            found.update(dict.fromkeys(await _all_of(engine, database)))
        if not found:
            raise CollectionNotFoundError("the server has no collection to back up")
        return list(found)
    for pattern in patterns:
        if pattern.collection is not None:
            found[pattern.database, pattern.collection] = None
            continue
        await _look_for(engine, pattern.database)
        names = await _all_of(engine, pattern.database)
        if not names:
            raise CollectionNotFoundError(f"there is nothing to back up in {pattern}: the database has no collection")
        found.update(dict.fromkeys(names))
    return list(found)


async def _look_for(engine: Engine, database: str) -> None:
    """Refuses a database that is not there; what servers answer then looks as if it might pass."""
    if database == "default":
        return
    known: list[str] = (await engine.run("list_databases", {})).unwrap()
    if database not in known:
        raise InvalidArgumentError(
            f"the server has no database {database!r}, and none was created; it has: {', '.join(known)}",
            context={"available_databases": known},
        )


async def _all_of(engine: Engine, database: str) -> list[tuple[str, str]]:
    request: dict[str, Any] = {"database": database}
    names: list[str] = (await engine.run("list_collections", request)).unwrap()
    return [(database, name) for name in names if not STAGING.fullmatch(name)]
