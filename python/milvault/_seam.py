"""The seam to the compiled core: JSON goes in, JSON comes out. What the core has to offer, and how its answers read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .errors import BackupError, BackupRecoveryError, RestoreError, error_of_kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Job(Protocol):
    """Work on the core's own threads."""

    def wait(self, seconds: float, /) -> bool:
        """Blocks up to so many seconds, other threads running meanwhile; whether the job has ended."""

    def cancel(self) -> None:
        """Asks the job to clean up and end."""

    def progress(self) -> str:
        """Counters as JSON."""

    def result(self) -> str:
        """The outcome as JSON, once the job has ended."""


class RowBatch(Protocol):
    """Some rows, for whatever takes Arrow's C interface."""

    @property
    def num_rows(self) -> int:
        """How many."""

    def __len__(self) -> int: ...

    def __arrow_c_array__(self, requested_schema: object = None) -> tuple[object, object]:
        """Capsules with an `ArrowSchema` and an `ArrowArray`."""


class RowReader(Protocol):
    """A backup that is open for reading."""

    def stream(self) -> object:
        """A capsule with an `ArrowArrayStream` of all rows."""

    def batches(self) -> Iterator[RowBatch]:
        """All rows, batch by batch."""

    def schema(self) -> object:
        """A capsule with an `ArrowSchema`."""

    def failure(self) -> str | None:
        """The first error that a stream met, as JSON."""

    def close(self) -> None:
        """Ends reading."""


class Starts(Protocol):
    """Something that starts jobs."""

    def start(self, operation: str, request: str, /) -> Job:
        """Starts an operation; RuntimeError in a forked child or after `close`."""


class Session(Starts, Protocol):
    """One server (or none) and one repository (or none)."""

    def open(self, request: str, /) -> tuple[Job, RowReader]:
        """Starts opening a backup; the reader is of use once the job has succeeded."""

    def close(self) -> None:
        """Ends all work and connections."""


if TYPE_CHECKING:
    SessionFactory = Callable[[str], Session]


def core_session(config: str) -> Session:
    """A session of the compiled core."""
    from . import _core

    return _core.Session(config)


@dataclass(frozen=True)
class Outcome:
    """What an operation came to: a value, or an error and whether the work had begun when it struck."""

    value: Any = None
    error: BackupRecoveryError | None = None
    started: bool = False

    @property
    def is_result(self) -> bool:
        """Whether a failure is told by a result (it struck while the work ran), not by an exception."""
        if self.error is None:
            return True
        # Their subclasses tell of wrong arguments found beforehand, deadlines excepted.
        plain = type(self.error) in (BackupError, RestoreError)
        return self.started or plain or self.error.kind in ("server", "timeout")

    def unwrap(self) -> Any:
        """The value.

        Raises:
            BackupRecoveryError: The operation failed.
        """
        if self.error is not None:
            raise self.error
        return self.value


def read_outcome(operation: str, text: str) -> Outcome:
    """An `Outcome` from the core's JSON."""
    answer = json.loads(text)
    report = answer.get("error")
    if report is not None:
        return Outcome(error=error_of_kind(operation, report), started=bool(answer.get("started")))
    return Outcome(value=answer.get("ok"), started=True)
