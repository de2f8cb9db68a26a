"""The core's answer to `list`: ten thousand backups go from its JSON into models at once, without dicts in between."""

from __future__ import annotations

import contextlib
import gc
import logging
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from ._seam import Outcome, read_outcome
from .errors import BackupCorruptedError
from .results import BackupList, BackupMetadata, DamagedBackup, read_metadata

if TYPE_CHECKING:
    from collections.abc import Iterator

logger = logging.getLogger("milvault")


class _Found(BaseModel):
    backups: list[BackupMetadata]
    damaged: list[DamagedBackup]


class _Answer(BaseModel):
    ok: _Found | None = None


def read_listing(operation: str, text: str) -> Outcome:
    """An `Outcome` whose value is a `BackupList`, in the order of the core's JSON."""
    with contextlib.suppress(ValidationError), _collector_paused():
        found = _Answer.model_validate_json(text).ok
        if found is not None:
            return Outcome(value=BackupList(found.backups, found.damaged), started=True)
    outcome = read_outcome(operation, text)
    return outcome if outcome.error is not None else Outcome(value=_one_by_one(outcome.value), started=True)


def _one_by_one(found: dict[str, Any]) -> BackupList:
    """Where a manifest holds what none may hold: that backup is among the damaged, the others are listed."""
    backups, damaged = [], [DamagedBackup.model_validate(value) for value in found["damaged"]]
    for value in found["backups"]:
        try:
            backups.append(read_metadata(value))
        except BackupCorruptedError as error:
            logger.warning("a backup is not listed: %s", error)
            damaged.append(DamagedBackup.model_validate({**value, "reason": error.message}))
    return BackupList(backups, damaged)


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Keeps the garbage collector from looking through the models over and over while they are made: half the time.

    What was made meanwhile then counts as old, as it would soon: the next full collection comes to it.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if gc.get_freeze_count() == 0:  # what a program has frozen stays frozen
                gc.freeze()
                gc.unfreeze()
            gc.enable()
