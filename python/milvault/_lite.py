"""Opening a `.db` path through Milvus Lite, in the server that pymilvus uses in this process too.

Milvus Lite logs why it could not start and answers nothing; here the reason is caught and told.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import BackupRecoveryError, DatabaseLockedError

if TYPE_CHECKING:
    from typing_extensions import Self

_LITE_LOGGER = "milvus_lite.server_manager"
_LOCK_FILE = "LOCK"
_START_SECONDS = 10.0
_STARTING = threading.Lock()
_INSTALL = "a path ending in .db is opened with Milvus Lite: pip install 'milvault[lite]'"


def start_lite(path: str, *, may_create: bool) -> str:
    """The address of the Lite server of a path, started where it does not run yet. Blocks for up to some seconds.

    Args:
        path: The absolute path of the database, which is a folder.
        may_create: Whether a database may be made where there is none.

    Raises:
        DatabaseLockedError: Another process holds the database.
        BackupRecoveryError: There is none, its folder is missing, Milvus Lite is not installed, or does not start.
    """
    if not Path(path).parent.is_dir():
        raise _failed(path, f"the folder {Path(path).parent} does not exist; make it first")
    if not may_create and not Path(path).exists():
        raise _failed(path, "there is no such database; check the path")
    try:
        from milvus_lite.server_manager import server_manager_instance
    except ImportError as error:
        raise _failed(path, _INSTALL) from error
    # Milvus Lite looks whether one runs, and then starts it: of two calls at once, one would find the lock held.
    with _STARTING, _CaughtReason() as caught:
        uri = server_manager_instance.start_and_get_uri(path)
    if uri is None and _was_lost_race(caught.error):
        # Another thread of this process, such as pymilvus, opened it at the same moment: then it answers now, or soon.
        uri = _uri_of_starting(server_manager_instance, path)
    if uri is not None:
        return str(uri)
    reason = caught.error
    if isinstance(reason, ImportError):
        raise _failed(path, f"{_INSTALL} ({reason})") from reason
    if type(reason).__name__ == "DataDirLockedError":
        raise _locked(path) from reason
    raise _failed(path, f"Milvus Lite did not start: {reason or 'it gave no reason'}") from reason


class _CaughtReason(logging.Filter):
    """While entered, keeps what Milvus Lite would log about a failed start in this thread."""

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None
        self._thread = threading.get_ident()

    def __enter__(self) -> Self:
        logging.getLogger(_LITE_LOGGER).addFilter(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger(_LITE_LOGGER).removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Drops the record of the failure and keeps its exception."""
        if record.thread != self._thread or not record.exc_info:
            return True
        self.error = record.exc_info[1]
        return False


def _was_lost_race(reason: BaseException | None) -> bool:
    return type(reason).__name__ == "DataDirLockedError"


def _uri_of_starting(servers: object, path: str) -> str | None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        is_ours = _holder_of(str(Path(path) / _LOCK_FILE)) == os.getpid()
        running = getattr(servers, "_servers", {}).get(path)
        if running:
            return f"http://127.0.0.1:{running[2]}"
        if not is_ours or time.monotonic() > deadline:
            return None
        time.sleep(0.05)


def _locked(path: str) -> DatabaseLockedError:
    lock_file = str(Path(path) / _LOCK_FILE)
    holder = _holder_of(lock_file)
    who, what_next = f"process {holder}" if holder else "another process", "close it there, or work in that process"
    if holder == os.getpid():
        who, what_next = "this process, but not by pymilvus or Milvault", "close it first"
    return DatabaseLockedError(
        f"the Milvus Lite database {path} is open in {who}, which holds its lock {lock_file}; {what_next}",
        lock_file=lock_file,
        holder_pid=holder,
    )


def _holder_of(lock_file: str) -> int | None:
    """The process that holds a lock on a file, as far as Linux tells."""
    try:
        inode = str(Path(lock_file).stat().st_ino)
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    for line in lines:  # 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == inode and words[4].isdigit():
            return int(words[4]) or None
    return None


def _failed(path: str, why: str) -> BackupRecoveryError:
    error = BackupRecoveryError(f"the Milvus Lite database {path} cannot be opened: {why}", context={"uri": path})
    error.kind = "server"
    return error
