"""The commands that look: `check`, `list`, `show` and `verify`."""

from __future__ import annotations

import datetime
from typing import Annotated

import typer

from milvault.cli import CORRUPT, DONE, FAILED
from milvault.enums import BackupState, VerificationType
from milvault.params import VerificationParams

from .calling import call
from .settings import BackupArgument, CollectionOption, JsonOption, TimeoutOption, settings_of
from .terminal import (
    draws_progress,
    note_that_none_is_there,
    print_json,
    show_backup,
    show_backups,
    show_checked,
    show_verified,
)


def check(
    context: typer.Context,
    collection: Annotated[
        str | None,
        typer.Argument(
            metavar="[COLLECTION]", help="Whose files are looked for in --milvus-storage.", show_default=False
        ),
    ] = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Look whether server, repository and Milvus's storage are as they have to be, before the first backup."""
    settings = settings_of(context, as_json)
    manager = settings.manager(needs_server=True)
    found = call(manager, lambda: manager.check(collection, timeout=timeout))
    if settings.as_json:
        print_json(found.to_dict())
    else:
        show_checked(found)
    return DONE if found.success else FAILED


def list_(
    context: typer.Context,
    collection: Annotated[
        str | None, typer.Argument(metavar="COLLECTION", help="Only this collection's.", show_default=False)
    ] = None,
    state: Annotated[BackupState | None, typer.Option(case_sensitive=False, help="Only in this state.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="Only with this tag. Repeatable.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Only since, such as 2026-01-31T06:00:00Z.")] = None,
    limit: Annotated[int | None, typer.Option(min=0, help="At most so many.")] = None,
    as_json: JsonOption = False,
) -> int:
    """List backups, newest first."""
    settings = settings_of(context, as_json)
    manager = settings.manager(needs_server=False)
    created_after = _time_of(since)
    backups = call(
        manager,
        lambda: manager.list_backups(collection, state=state, tags=tag or [], created_after=created_after, limit=limit),
    )
    if settings.as_json:
        damaged = [each.to_dict() for each in backups.damaged]
        print_json({"backups": [backup.to_dict() for backup in backups], "damaged": damaged})
    else:
        show_backups(backups)
        if collection is not None and not backups and not backups.damaged:
            chosen = state is not None or tag or since is not None or limit is not None
            note_that_none_is_there(manager, collection, "" if not chosen else " that these options choose")
    return DONE


def show(
    context: typer.Context, backup: BackupArgument, collection: CollectionOption = None, as_json: JsonOption = False
) -> int:
    """Show one backup."""
    settings = settings_of(context, as_json)
    manager = settings.manager(needs_server=False)
    metadata = call(manager, lambda: manager.get_backup(backup, collection))
    if settings.as_json:
        print_json(metadata.to_dict())
    else:
        show_backup(metadata)
    return DONE


def verify(
    context: typer.Context,
    backup: BackupArgument,
    collection: CollectionOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at files' lengths and footers and at a sample of the rows alone.")
    ] = False,
    sample: Annotated[
        float | None, typer.Option("--sample", metavar="PERCENT", help="How much --quick decodes. Default: 10.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Which sample --quick takes. Default: another one each time.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Find all damage, instead of stopping at the first.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Restore it into a temporary collection too, and compare. Needs a server.")
    ] = False,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Prove that a backup is whole: every file's checksum, a sample of its rows, or with --deep a trial restore."""
    if quick and deep:
        raise typer.BadParameter("either --quick or --deep", param_hint="--quick")
    for option, value in (("--sample", sample), ("--seed", seed)):
        if value is not None and not quick:
            raise typer.BadParameter("it chooses what --quick looks at, which is not given", param_hint=option)
    settings = settings_of(context, as_json)
    manager = settings.manager(needs_server=deep)
    deep_or_checksum = VerificationType.DEEP if deep else VerificationType.CHECKSUM
    params = VerificationParams(
        verification_type=VerificationType.QUICK if quick else deep_or_checksum,
        sample_size=10.0 if sample is None else sample,
        seed=seed,
        fail_fast=not everything,
        verify_checksums=True,
    )
    progress = draws_progress(as_json=settings.as_json)
    result = call(
        manager, lambda: manager.verify_backup(backup, collection, params, progress=progress, timeout=timeout)
    )
    if settings.as_json:
        print_json(result.to_dict())
    else:
        show_verified(backup, result)
    return DONE if result.success else CORRUPT


def _time_of(text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    try:
        time = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time; write it like 2026-01-31T06:00:00Z", param_hint="--since"
        ) from None
    if time.tzinfo is None:
        raise typer.BadParameter(f"{text!r} has no time zone: write --since {time.isoformat()}Z", param_hint="--since")
    return time
