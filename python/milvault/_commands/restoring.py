"""The command that makes a collection of a backup: `restore`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from milvault._moments import moment_of_text
from milvault.cli import DONE, PARTLY_DONE, exit_code_of_kind
from milvault.enums import AutoIdPolicy, ConflictPolicy, RestoreProof, RestoreVia
from milvault.params import RestoreParams

from .calling import call
from .settings import BackupArgument, CollectionOption, JsonOption, TimeoutOption, settings_of
from .terminal import draws_progress, print_json, show_restored


def restore(
    context: typer.Context,
    backup: BackupArgument,
    collection: CollectionOption = None,
    target: Annotated[str | None, typer.Option("--target", help="The collection to make. Default: its own.")] = None,
    target_database: Annotated[
        str | None, typer.Option("--target-database", help="The database to make it in. Default: --db-name.")
    ] = None,
    partition: Annotated[list[str] | None, typer.Option("--partition", help="Only this one. Repeatable.")] = None,
    where: Annotated[
        str | None, typer.Option("--where", metavar="FILTER", help="Only rows that match, such as 'price > 10'.")
    ] = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="An earlier moment of a native backup: 2026-11-21T06:30:00Z."),
    ] = None,
    drop_existing: Annotated[
        bool, typer.Option("--drop-existing", help="Replace a collection of that name, once the new one is proven.")
    ] = False,
    into_existing: Annotated[
        bool, typer.Option("--into-existing", help="Put the rows into a collection that is there, by their keys.")
    ] = False,
    on_conflict: Annotated[
        ConflictPolicy,
        typer.Option(case_sensitive=False, help="With --into-existing: what to do about keys that are there."),
    ] = ConflictPolicy.FAIL,
    load: Annotated[bool, typer.Option("--load", help="Load it, ready for search.")] = False,
    no_indexes: Annotated[bool, typer.Option("--no-indexes", help="Don't build indexes.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Don't check the files first.")] = False,
    proof: Annotated[
        RestoreProof, typer.Option(case_sensitive=False, help="How the rows are proven at the end.")
    ] = RestoreProof.DIGEST,
    via: Annotated[
        RestoreVia,
        typer.Option(case_sensitive=False, help="IMPORT: the server reads a native backup's files by itself."),
    ] = RestoreVia.AUTO,
    auto_id: Annotated[
        AutoIdPolicy, typer.Option(case_sensitive=False, help="What becomes of keys that the server had made.")
    ] = AutoIdPolicy.PRESERVE,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed-partitions", help="Leave out partitions that cannot be restored.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, write nothing, and tell what would be done.")
    ] = False,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Make a collection of a backup."""
    settings = settings_of(context, as_json)
    options: dict[str, Any] = {"verify_before_restore": False} if no_verify else {}
    params = RestoreParams(
        target_collection_name=target,
        target_database=target_database,
        partition_names=partition or [],
        where=where,
        as_of=None if as_of is None else moment_of_text(as_of),
        drop_existing=drop_existing,
        into_existing=into_existing,
        on_conflict=on_conflict,
        via=via,
        auto_id=auto_id,
        skip_failed_partitions=skip_failed,
        dry_run=dry_run,
        load_after_restore=load,
        restore_indexes=not no_indexes,
        verify_after=proof,
        **options,
    )
    manager = settings.manager(needs_server=True)
    progress = draws_progress(as_json=settings.as_json)
    result = call(
        manager, lambda: manager.restore_backup(backup, collection, params, progress=progress, timeout=timeout)
    )
    if settings.as_json:
        print_json(result.to_dict())
    else:
        show_restored(result)
    if result.error is not None:
        return exit_code_of_kind(result.error.kind)
    return PARTLY_DONE if result.failed_partitions else DONE
