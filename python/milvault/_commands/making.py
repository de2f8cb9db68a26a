"""The command that makes backups: `create`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from milvault.cli import DONE, PARTLY_DONE, exit_code_of_kind
from milvault.enums import BackupStorageType, BackupType, ChecksumAlgorithm
from milvault.params import BackupParams

from .calling import call
from .settings import JsonOption, LinkOption, TimeoutOption, settings_of
from .terminal import draws_progress, print_json, show_created, show_warnings


def create(
    context: typer.Context,
    collections: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COLLECTION]...",
            help="COLLECTION, DATABASE.COLLECTION or 'DATABASE.*'. Default: all of --db-name; without it, of each.",
            show_default=False,
        ),
    ] = None,
    chosen: Annotated[
        list[str] | None, typer.Option("--filter", help="The same, with commas between: a,shop.b,'news.*'.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="A name for the backup, or for each.")] = None,
    partition: Annotated[list[str] | None, typer.Option("--partition", help="Only this one. Repeatable.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="A word to find it by. Repeatable.")] = None,
    native: Annotated[
        bool, typer.Option("--native", help="Copy Milvus's own files: a true snapshot. Needs --milvus-storage.")
    ] = False,
    link: LinkOption = None,
    source: Annotated[
        str,
        typer.Option(
            "--source",
            help="Where rows come from: query (the server), binlogs (its files; needs --milvus-storage), or auto.",
        ),
    ] = "auto",
    no_compression: Annotated[bool, typer.Option("--no-compression", help="Write plain files.")] = False,
    level: Annotated[int | None, typer.Option("--level", help="Compression, 1 (fast) to 9 (small).")] = None,
    chunk_size_mb: Annotated[int | None, typer.Option(help="MiB of rows in one data file.")] = None,
    checksum: Annotated[
        ChecksumAlgorithm | None, typer.Option("--checksum", help="Files' checksums.", case_sensitive=False)
    ] = None,
    no_indexes: Annotated[bool, typer.Option("--no-indexes", help="Leave index definitions out.")] = False,
    no_verify: Annotated[bool, typer.Option("--no-verify", help="Don't read the files back at the end.")] = False,
    collapse_duplicates: Annotated[
        bool, typer.Option("--collapse-duplicates", help="Where rows share a key, keep the one that Milvus shows.")
    ] = False,
    prove_stable: Annotated[
        bool, typer.Option("--prove-stable", help="Read everything twice, to prove that nobody wrote meanwhile.")
    ] = False,
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Don't go on with one that was stopped: read everything anew.")
    ] = False,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Back a collection up, or several."""
    settings = settings_of(context, as_json)
    given = {"compression_level": level, "chunk_size_mb": chunk_size_mb, "backup_name": name}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if no_compression:
        options["compression_enabled"] = False
    options["source"] = source
    if link is not None:
        options["link"] = link
    if native:
        options["storage_type"] = BackupStorageType.MILVUS_NATIVE
    params = BackupParams(
        backup_type=BackupType.PARTITION if partition else BackupType.FULL_COLLECTION,
        partition_names=partition or [],
        tags=tag or [],
        include_indexes=not no_indexes,
        duplicates="collapse" if collapse_duplicates else "fail",
        prove_stable=prove_stable,
        resume=not no_resume,
        **options,
    )
    manager = settings.manager(
        needs_server=True,
        checksum_algorithm=checksum,
        auto_verify_after_backup=False if no_verify else None,
    )
    progress = draws_progress(as_json=settings.as_json)
    wanted = [*(collections or []), *(chosen or [])]
    if not wanted and settings.db_name is not None:
        wanted = [f"{settings.db_name}.*"]
    if len(wanted) == 1 and not chosen and not set(wanted[0]) & set(",.*"):
        result = call(manager, lambda: manager.create_backup(wanted[0], params, progress=progress, timeout=timeout))
        results, warnings, report = [result], [], result.to_dict()
    else:
        made = call(
            manager, lambda: manager.create_backups(wanted or None, None, params, progress=progress, timeout=timeout)
        )
        results, warnings, report = made.backups, made.warnings, made.to_dict()
    if settings.as_json:
        print_json(report)
    else:
        for each in results:
            show_created(each)
        show_warnings(warnings)
    errors = [each.error for each in results if each.error is not None]
    if not errors:
        return DONE
    return PARTLY_DONE if len(errors) < len(results) else exit_code_of_kind(errors[0].kind)
