"""The commands that keep backups: `copy`, `adopt`, `delete` and `prune`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from milvault.cli import DONE, FAILED, PARTLY_DONE

from .calling import call
from .settings import BackupArgument, CollectionOption, JsonOption, LinkOption, TimeoutOption, options_of, settings_of
from .terminal import draws_progress, note_that_none_is_there, print_json, show_backup, show_copied, show_pruned


def copy(
    context: typer.Context,
    backup: BackupArgument,
    to: Annotated[str, typer.Option("--to", help="The other repository: a folder or an object store's URL.")],
    collection: CollectionOption = None,
    to_storage_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of the other repository's store, where it differs. Repeatable."),
    ] = None,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Don't read the copy back at the end.")] = False,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Copy a backup into another repository; goes on where an earlier copy was stopped."""
    settings = settings_of(context, as_json)
    options = options_of(to_storage_option) if to_storage_option else None
    manager = settings.manager(needs_server=False)
    progress = draws_progress(as_json=settings.as_json)
    result = call(
        manager,
        lambda: manager.copy_backup(
            backup,
            collection,
            to=to,
            storage_options=options,
            verify_after=not no_verify,
            progress=progress,
            timeout=timeout,
        ),
    )
    if settings.as_json:
        print_json(result.to_dict())
    else:
        show_copied(result)
    return DONE


def adopt(
    context: typer.Context,
    source: Annotated[
        str, typer.Argument(help="The folder or URL that has meta and binlogs in it.", show_default=False)
    ],
    collection: CollectionOption = None,
    from_storage_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Of the store that it is on, where it differs. Repeatable."),
    ] = None,
    link: LinkOption = None,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Take a backup that milvus-backup made into the repository."""
    settings = settings_of(context, as_json)
    options = options_of(from_storage_option) if from_storage_option else None
    manager = settings.manager(needs_server=False)
    progress = draws_progress(as_json=settings.as_json)
    adopted = call(
        manager,
        lambda: manager.adopt_backup(
            source, collection, storage_options=options, link=link, progress=progress, timeout=timeout
        ),
    )
    if settings.as_json:
        print_json([backup.to_dict() for backup in adopted])
    else:
        for backup in adopted:
            show_backup(backup)
    return DONE


def delete(
    context: typer.Context,
    backup: BackupArgument,
    collection: CollectionOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Delete a backup for good."""
    settings = settings_of(context, as_json)
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody is there to ask: give --yes to delete without asking", param_hint="--yes")
        typer.confirm(f"Delete backup {backup} for good?", abort=True, err=True)
    manager = settings.manager(needs_server=False)
    deleted = call(manager, lambda: manager.delete_backup(backup, collection))
    if settings.as_json:
        print_json({"deleted": deleted, "backup": backup})
    else:
        print(f"deleted {backup}")
    return DONE if deleted else FAILED


def prune(
    context: typer.Context,
    collection: Annotated[
        str | None, typer.Argument(metavar="COLLECTION", help="Only this collection's.", show_default=False)
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and delete nothing.")] = False,
    count: Annotated[int | None, typer.Option(min=0, help="Keep so many of the newest. [config: 10]")] = None,
    days: Annotated[int | None, typer.Option(min=0, help="Keep those no older than this. [config: 30]")] = None,
    minimum: Annotated[
        int | None, typer.Option("--min", min=0, help="Keep so many of the newest, whatever else is said. [config: 3]")
    ] = None,
    daily: Annotated[int | None, typer.Option(min=0, help="Keep the newest of each of so many days.")] = None,
    weekly: Annotated[int | None, typer.Option(min=0, help="Keep the newest of each of so many weeks.")] = None,
    monthly: Annotated[int | None, typer.Option(min=0, help="Keep the newest of each of so many months.")] = None,
    keep_tag: Annotated[list[str] | None, typer.Option(help="Keep those with this tag. Repeatable.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Delete the backups that no rule keeps."""
    settings = settings_of(context, as_json)
    manager = settings.manager(needs_server=False)
    outcome = call(
        manager,
        lambda: manager.apply_retention_policy(
            collection,
            dry_run,
            retention_count=count,
            retention_days=days,
            min_backups_to_keep=minimum,
            retention_daily=daily,
            retention_weekly=weekly,
            retention_monthly=monthly,
            retention_tags=keep_tag or None,
        ),
    )
    if settings.as_json:
        print_json(outcome)
    else:
        show_pruned(outcome)
        if collection is not None and not any(outcome[part] for part in ("planned", "kept", "left_alone", "failed")):
            note_that_none_is_there(manager, collection)
    return PARTLY_DONE if outcome["failed"] else DONE
