"""The core's sessions of one manager: made when first needed, kept over several event loops, closed with it."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from ._seam import core_session, read_outcome
from .errors import BackupRecoveryError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ._seam import Job, Outcome, RowReader, Session, SessionFactory
    from .connection import ConnectionManager
    from .progress import BackupProgress


class Engine:
    """Runs the core's operations against one server (or none) and one repository (or none).

    Operations on the repository alone do not open a Milvus Lite: its lock may be another process's, and needn't matter.
    """

    def __init__(
        self,
        connection: ConnectionManager | None,
        *,
        repository: Mapping[str, Any] | None = None,
        milvus_storage: Callable[[], Mapping[str, Any] | None] = lambda: None,
        settings: Mapping[str, Any] | None = None,
        poll_interval: float = 2.0,
        session_factory: SessionFactory | None = None,
    ) -> None:
        self._connection = connection
        self._repository = repository
        self._milvus_storage = milvus_storage
        self._settings = dict(settings or {"max_retries": 3, "retry_delay_seconds": 5.0})
        self._poll_interval = poll_interval
        self._make_session = session_factory or core_session
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._closed = False

    def configure(self, settings: Mapping[str, Any]) -> None:
        """Changes how failures are repeated, for sessions that are yet to be made."""
        self._settings = dict(settings)

    async def run(
        self,
        operation: str,
        request: Mapping[str, Any],
        *,
        needs_server: bool = True,
        may_create: bool = False,
        sink: Callable[[BackupProgress], Any] | None = None,
        read: Callable[[str, str], Outcome] = read_outcome,
    ) -> Outcome:
        """Runs one operation to its end.

        Args:
            operation: The core's name of it.
            request: Its arguments, JSON-ready.
            needs_server: Whether it talks to the server.
            may_create: Whether a Milvus Lite database may be made where there is none.
            sink: Takes progress.
            read: Makes the outcome of the operation's name and the core's JSON.

        Raises:
            BackupRecoveryError: There is no server where one is needed, or the manager is closed.
        """
        from ._jobs import run_job

        session = await self._session(needs_server=needs_server, may_create=may_create)
        return await run_job(session, operation, request, sink=sink, poll_interval=self._poll_interval, read=read)

    async def open(self, request: Mapping[str, Any]) -> tuple[Outcome, RowReader]:
        """Opens a backup for reading.

        Args:
            request: Which rows of which, JSON-ready.

        Raises:
            BackupRecoveryError: The manager is closed.
        """
        from ._jobs import run_job

        opening = _Opening(await self._session(needs_server=False, may_create=False))
        outcome = await run_job(opening, "open", request, poll_interval=self._poll_interval)
        return outcome, opening.reader

    async def close(self) -> None:
        """Closes all sessions; harmless when repeated."""
        import asyncio

        with self._lock:
            sessions, self._sessions, self._closed = list(self._sessions.values()), {}, True
        for session in sessions:
            await asyncio.to_thread(session.close)

    async def _session(self, *, needs_server: bool, may_create: bool) -> Session:
        if self._closed:
            raise BackupRecoveryError("this manager is closed; make another one")
        connection = self._connection
        if connection is None and needs_server:
            raise BackupRecoveryError(
                "this manager has a repository but no server; give BackupManager.connect a URI, or a ConnectionManager"
            )
        if "full" in self._sessions:
            return self._sessions["full"]
        if connection is None or (not needs_server and connection.is_lite and connection.db_name == "default"):
            return self._keep("repository", None)
        return self._keep("full", await connection.core_settings(may_create=may_create))

    def _keep(self, name: str, server: Mapping[str, Any] | None) -> Session:
        with self._lock:
            if name not in self._sessions:
                config = {"server": server, "repository": self._repository, **self._settings}
                if server is not None and (storage := self._milvus_storage()) is not None:
                    config["milvus_storage"] = storage
                self._sessions[name] = self._make_session(json.dumps(config))
            return self._sessions[name]


class _Opening:
    """A session whose one operation is to open a backup; keeps the reader beside the job."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def start(self, _operation: str, request: str, /) -> Job:
        """Starts opening."""
        job, self.reader = self._session.open(request)
        return job
