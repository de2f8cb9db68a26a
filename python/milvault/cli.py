"""The command `milvault`: runs it, and turns what happens into an exit code. The commands are in `_commands/`.

Exit codes: 0 done, 1 failed, 2 usage, 3 partly done, 10 no such backup, 11 locked or in progress, 12 corrupt,
130 interrupted.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from ._wording import in_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._seam import SessionFactory

DONE, FAILED, USAGE, PARTLY_DONE, NOT_FOUND, LOCKED, CORRUPT, INTERRUPTED = 0, 1, 2, 3, 10, 11, 12, 130

_CODE_OF_KIND = {
    "invalid_argument": USAGE,
    "backup_not_found": NOT_FOUND,
    "in_progress": LOCKED,
    "locked": LOCKED,
    "backup_corrupted": CORRUPT,
    "canceled": INTERRUPTED,
}

_INTERRUPTION = {"type": "Interrupted", "kind": "interrupted", "message": "interrupted"}
_INSTALL = "the command line needs typer and rich: pip install 'milvault[cli]'"


def main() -> NoReturn:
    """The entry point: runs the command line's arguments and exits."""
    arguments = sys.argv[1:]
    # The first to be registered is called last: then all is done, and the exit code is to be what it is.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with _left_at_once_when_interrupted("--json" in arguments), contextlib.suppress(ImportError):
        from . import _commands  # noqa: F401 - what is missing, `run` tells
    raise SystemExit(run(arguments))


def run(arguments: Sequence[str], *, session_factory: SessionFactory | None = None) -> int:
    """Runs one command.

    Args:
        arguments: What stands behind `milvault`.
        session_factory: Makes the core's sessions; for tests.

    Returns:
        The exit code.
    """
    as_json = "--json" in arguments
    try:
        import rich  # noqa: F401
        import typer
    except ImportError as error:
        return _tell({"type": "ImportError", "kind": "usage", "message": f"{_INSTALL} ({error})"}, as_json, FAILED)

    from pydantic import ValidationError

    from ._commands import app
    from .errors import BackupRecoveryError

    # Newer versions of typer carry a click of their own, older ones use the public one: ask typer for its classes.
    usage_error: type[Exception] = typer.BadParameter.__mro__[1]
    click_error: type[Exception] = typer.BadParameter.__mro__[2]
    interrupted = False
    code: object = DONE
    try:
        code = app(args=list(arguments), prog_name="milvault", standalone_mode=False, obj=session_factory)
        sys.stdout.flush()
    except usage_error as error:
        return _tell_usage(error, as_json)
    except click_error as error:
        return _tell({"type": type(error).__name__, "kind": "error", "message": _words(error)}, as_json, FAILED)
    except ValidationError as error:
        # `errors()` would hold what was typed, and with it perhaps a secret: take places and messages alone.
        words = "; ".join(_words_of_field(error.title, one["loc"], one["msg"]) for one in error.errors())
        return _tell({"type": "ValidationError", "kind": "usage", "message": words}, as_json, USAGE)
    except BackupRecoveryError as error:
        return _tell(error.to_dict(), as_json, exit_code_of_kind(error.kind))
    except (KeyboardInterrupt, typer.Abort):
        interrupted = True
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    # typer turns KeyboardInterrupt into this exit code, and says nothing.
    if interrupted or code == INTERRUPTED:
        return _tell(_INTERRUPTION, as_json, INTERRUPTED)
    return code if isinstance(code, int) else DONE


@contextlib.contextmanager
def _left_at_once_when_interrupted(as_json: bool) -> Iterator[None]:
    """For the time of imports: they can be interrupted anywhere, and have nothing to clean up."""

    def leave(*_: object) -> None:
        _tell(_INTERRUPTION, as_json, INTERRUPTED)
        sys.stdout.flush()
        os._exit(INTERRUPTED)

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # whoever started us wants it ignored
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def exit_code_of_kind(kind: str) -> int:
    """The exit code that tells of an error's kind."""
    return _CODE_OF_KIND.get(kind, FAILED)


def _tell(error: dict[str, Any], as_json: bool, code: int) -> int:
    """Tells people on stderr, programs on stdout, and gives the exit code back."""
    if as_json:
        print(json.dumps({"error": error}, indent=2, default=str))
    else:
        print(f"milvault: {in_options(error['message'])}", file=sys.stderr)
    return code


def _tell_usage(error: Any, as_json: bool) -> int:
    if as_json:
        return _tell({"type": "UsageError", "kind": "usage", "message": _words(error)}, as_json, USAGE)
    error.show()  # with the usage line and where to find help
    return USAGE


def _words_of_field(model: str, place: tuple[int | str, ...], message: str) -> str:
    # What validators raise has a prefix of pydantic's, and those of a whole model name no place.
    message, name = message.removeprefix("Value error, "), ".".join(map(str, place))
    if model == "BackupRecoveryConfig" and name:  # as a file or the environment has it
        name = f"the setting {name!r}"
    return f"{name}: {message}" if name else message


def _words(error: Any) -> str:
    return str(error.format_message()) if hasattr(error, "format_message") else str(error)
