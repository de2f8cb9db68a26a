"""The commands of `milvault`. Each calls one method of `BackupManager` and shows what it returns."""

from __future__ import annotations

import datetime
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ._moments import moment_of_text
from ._terminal import (
    draws_progress,
    print_json,
    run_interruptibly,
    show_backup,
    show_backups,
    show_checked,
    show_copied,
    show_created,
    show_pruned,
    show_restored,
    show_verified,
)
from .cli import CORRUPT, DONE, FAILED, PARTLY_DONE, exit_code_of_kind
from .config import BackupRecoveryConfig
from .connection import DEFAULT_URI
from .display import human_bytes
from .enums import (
    AutoIdPolicy,
    BackupState,
    BackupStorageType,
    BackupType,
    ChecksumAlgorithm,
    ConflictPolicy,
    LinkPolicy,
    RestoreProof,
    RestoreVia,
    VerificationType,
)
from .manager import BackupManager
from .params import BackupParams, RestoreParams, VerificationParams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

app = typer.Typer(
    name="milvault",
    help="Backs up, proves and restores Milvus collections.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
CollectionOption = Annotated[
    str | None, typer.Option("--collection", help="The backup's collection, where its name alone is not unique.")
]
BackupArgument = Annotated[
    str,
    typer.Argument(
        metavar="BACKUP",
        help="A backup's id or name; of one by milvus-backup, also its path or URL.",
        show_default=False,
    ),
]
LinkOption = Annotated[
    LinkPolicy | None,
    typer.Option(
        "--link", case_sensitive=False, help="Share files with where they come from, on one disk; else they are copied."
    ),
]
TimeoutOption = Annotated[float | None, typer.Option("--timeout", help="Seconds it may take.", metavar="SECONDS")]


@dataclass
class Settings:
    """The global options."""

    uri: str | None
    root: str | None
    token: str | None
    db_name: str
    config_file: Path | None
    tls: dict[str, Any]
    storage_options: dict[str, str]
    read_only: bool
    journal_root: str | None
    milvus_storage: dict[str, Any] | None
    milvus_management: str | None
    as_json: bool
    session_factory: Any

    def manager(self, *, needs_server: bool, **changes: Any) -> BackupManager:
        """A manager as the options say; without a server where none is named and none is needed."""
        options: dict[str, Any] = {"progress_poll_interval": 0.2, "storage_options": self.storage_options or None}
        # Left out, neither takes anything back that the environment or the file says.
        options.update(read_only=self.read_only or None, journal_root=self.journal_root)
        options.update(milvus_storage=self.milvus_storage, milvus_management=self.milvus_management)
        config = BackupRecoveryConfig.load(self.config_file, local_backup_root_path=self.root, **options, **changes)
        uri = self.uri or (DEFAULT_URI if needs_server else None)
        return BackupManager.connect(
            uri,
            token=self.token,
            db_name=self.db_name,
            config=config,
            session_factory=self.session_factory,
            **self.tls,
        )


def _version(wanted: bool) -> None:
    if wanted:
        from ._core import version

        print(f"milvault {version()}")
        raise typer.Exit


@app.callback()
def _global(
    context: typer.Context,
    uri: Annotated[
        str | None,
        typer.Option(
            envvar="MILVAULT_URI",
            help=f"The server: http(s)://host:port, or a path ending in .db for Milvus Lite. Default: {DEFAULT_URI}.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[
        str | None,
        typer.Option(
            envvar="MILVAULT_ROOT",
            help="The repository: a folder or an object store's URL. Default: ./milvus_backups.",
            show_default=False,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="MILVAULT_TOKEN",
            help="A token, or user:password. Better given by the environment, which other users cannot see.",
            show_envvar=True,
        ),
    ] = None,
    db_name: Annotated[str, typer.Option("--db-name", help="The database.")] = "default",
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="A YAML file of settings.", dir_okay=False)
    ] = None,
    ca_file: Annotated[Path | None, typer.Option(help="A PEM file of authorities to trust.")] = None,
    cert_file: Annotated[Path | None, typer.Option(help="A PEM file with our certificate.")] = None,
    key_file: Annotated[Path | None, typer.Option(help="A PEM file with our key.")] = None,
    server_name: Annotated[str | None, typer.Option(help="The name in the server's certificate.")] = None,
    storage_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="An option of the object store, such as aws_endpoint. Repeatable."),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Only read the repository; refuse what would change it.")
    ] = False,
    journal_root: Annotated[
        str | None,
        typer.Option(metavar="ROOT", help="Where a restore keeps its notes, where the repository takes no writes."),
    ] = None,
    milvus_storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where the server keeps its own files, for native backups; or its milvus.yaml."
        ),
    ] = None,
    milvus_storage_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of that object store. Repeatable.")
    ] = None,
    milvus_management: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The server's management port (9091), asked to keep files that are copied."),
    ] = None,
    as_json: JsonOption = False,
    log_level: Annotated[
        str, typer.Option(metavar="LEVEL", help="debug, info, warning or error; on stderr.")
    ] = "warning",
    verbose: Annotated[int, typer.Option("--verbose", "-v", count=True, help="More log: -v info, -vv debug.")] = 0,
    version: Annotated[  # noqa: ARG001 - its callback does it
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    _start_log(log_level, verbose)
    context.obj = Settings(
        uri=uri or None,
        root=root or None,
        token=token or None,
        db_name=db_name,
        config_file=config,
        tls={"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file, "server_name": server_name},
        storage_options=_options_of(storage_option or []),
        read_only=read_only,
        journal_root=journal_root or None,
        milvus_storage=_milvus_storage(milvus_storage, _options_of(milvus_storage_option or [])),
        milvus_management=milvus_management or None,
        as_json=as_json,
        session_factory=context.obj,
    )


def _milvus_storage(url: str | None, options: dict[str, str]) -> dict[str, Any] | None:
    if url:
        return {"url": url, "options": options}
    if options:
        raise typer.BadParameter("--milvus-storage-option says how to reach --milvus-storage, which is missing")
    return None


@app.command()
def create(
    context: typer.Context,
    collections: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COLLECTION]...",
            help="COLLECTION, DATABASE.COLLECTION or 'DATABASE.*'. Default: all of every database.",
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
    settings = _settings(context, as_json)
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
    if len(wanted) == 1 and not chosen and not set(wanted[0]) & set(",.*"):
        result = _call(manager, lambda: manager.create_backup(wanted[0], params, progress=progress, timeout=timeout))
        results, report = [result], result.to_dict()
    else:
        made = _call(
            manager, lambda: manager.create_backups(wanted or None, None, params, progress=progress, timeout=timeout)
        )
        results, report = made.backups, made.to_dict()
    if settings.as_json:
        print_json(report)
    else:
        for each in results:
            show_created(each)
    errors = [each.error for each in results if each.error is not None]
    if not errors:
        return DONE
    return PARTLY_DONE if len(errors) < len(results) else exit_code_of_kind(errors[0].kind)


@app.command()
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
    settings = _settings(context, as_json)
    manager = settings.manager(needs_server=True)
    found = _call(manager, lambda: manager.check(collection, timeout=timeout))
    if settings.as_json:
        print_json(found.to_dict())
    else:
        show_checked(found)
    return DONE if found.success else FAILED


@app.command("list")
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
    settings = _settings(context, as_json)
    manager = settings.manager(needs_server=False)
    created_after = _time_of(since)
    backups = _call(
        manager,
        lambda: manager.list_backups(collection, state=state, tags=tag or [], created_after=created_after, limit=limit),
    )
    if settings.as_json:
        damaged = [each.to_dict() for each in backups.damaged]
        print_json({"backups": [backup.to_dict() for backup in backups], "damaged": damaged})
    else:
        show_backups(backups)
    return DONE


@app.command()
def show(
    context: typer.Context, backup: BackupArgument, collection: CollectionOption = None, as_json: JsonOption = False
) -> int:
    """Show one backup."""
    settings = _settings(context, as_json)
    manager = settings.manager(needs_server=False)
    metadata = _call(manager, lambda: manager.get_backup(backup, collection))
    if settings.as_json:
        print_json(metadata.to_dict())
    else:
        show_backup(metadata)
    return DONE


app.command("get", hidden=True)(show)


@app.command()
def verify(
    context: typer.Context,
    backup: BackupArgument,
    collection: CollectionOption = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Look at files' lengths and footers and at a sample of the rows alone.")
    ] = False,
    sample: Annotated[float, typer.Option("--sample", metavar="PERCENT", help="How much --quick decodes.")] = 10.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Which sample. Default: another one each time.")] = None,
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
    settings = _settings(context, as_json)
    manager = settings.manager(needs_server=deep)
    deep_or_checksum = VerificationType.DEEP if deep else VerificationType.CHECKSUM
    params = VerificationParams(
        verification_type=VerificationType.QUICK if quick else deep_or_checksum,
        sample_size=sample,
        seed=seed,
        fail_fast=not everything,
        verify_checksums=True,
    )
    progress = draws_progress(as_json=settings.as_json)
    result = _call(
        manager, lambda: manager.verify_backup(backup, collection, params, progress=progress, timeout=timeout)
    )
    if settings.as_json:
        print_json(result.to_dict())
    else:
        show_verified(backup, result)
    return DONE if result.success else CORRUPT


@app.command()
def export(
    context: typer.Context,
    backup: BackupArgument,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="The file: .parquet, .arrow, .csv or .jsonl.", show_default=False)
    ],
    collection: CollectionOption = None,
    columns: Annotated[
        list[str] | None, typer.Option("--columns", help="Only these, in this order: a,b,c. Repeatable.")
    ] = None,
    where: Annotated[str | None, typer.Option("--where", help="Only rows that match, such as 'price < 10'.")] = None,
    partition: Annotated[list[str] | None, typer.Option("--partition", help="Only this one. Repeatable.")] = None,
    as_of: Annotated[
        str | None,
        typer.Option("--as-of", metavar="TIME", help="An earlier moment of a native backup: 2026-11-21T06:30:00Z."),
    ] = None,
    file_format: Annotated[
        str | None, typer.Option("--format", help="parquet, arrow, csv or jsonl. Default: by the file's name.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is there.")] = False,
    timeout: TimeoutOption = None,
    as_json: JsonOption = False,
) -> int:
    """Write a backup's rows to a file."""
    settings = _settings(context, as_json)
    manager = settings.manager(needs_server=False)
    names = [name for group in columns or [] for name in group.split(",")]
    progress = draws_progress(as_json=settings.as_json)
    result = _call(
        manager,
        lambda: manager.export_backup(
            backup,
            file,
            collection,
            format=file_format,
            columns=names or None,
            where=where,
            partition_names=partition,
            as_of=None if as_of is None else moment_of_text(as_of),
            overwrite=overwrite,
            progress=progress,
            timeout=timeout,
        ),
    )
    if settings.as_json:
        print_json(result.to_dict())
    else:
        print(f"exported {result.row_count:,} rows to {result.path} ({human_bytes(result.size_bytes)})")
    return DONE


@app.command()
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
    settings = _settings(context, as_json)
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
    result = _call(
        manager, lambda: manager.restore_backup(backup, collection, params, progress=progress, timeout=timeout)
    )
    if settings.as_json:
        print_json(result.to_dict())
    else:
        show_restored(result)
    if result.error is not None:
        return exit_code_of_kind(result.error.kind)
    return PARTLY_DONE if result.failed_partitions else DONE


@app.command()
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
    settings = _settings(context, as_json)
    options = _options_of(to_storage_option) if to_storage_option else None
    manager = settings.manager(needs_server=False)
    progress = draws_progress(as_json=settings.as_json)
    result = _call(
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


@app.command()
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
    settings = _settings(context, as_json)
    options = _options_of(from_storage_option) if from_storage_option else None
    manager = settings.manager(needs_server=False)
    progress = draws_progress(as_json=settings.as_json)
    adopted = _call(
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


@app.command()
def delete(
    context: typer.Context,
    backup: BackupArgument,
    collection: CollectionOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Delete a backup for good."""
    settings = _settings(context, as_json)
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("nobody is there to ask: give --yes to delete without asking", param_hint="--yes")
        typer.confirm(f"Delete backup {backup} for good?", abort=True, err=True)
    manager = settings.manager(needs_server=False)
    deleted = _call(manager, lambda: manager.delete_backup(backup, collection))
    if settings.as_json:
        print_json({"deleted": deleted, "backup": backup})
    else:
        print(f"deleted {backup}")
    return DONE if deleted else FAILED


@app.command()
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
    settings = _settings(context, as_json)
    manager = settings.manager(needs_server=False)
    outcome = _call(
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
    return PARTLY_DONE if outcome["failed"] else DONE


def _settings(context: typer.Context, as_json: bool) -> Settings:
    settings: Settings = context.obj
    settings.as_json = settings.as_json or as_json
    return settings


def _call(manager: BackupManager, method: Callable[[], Awaitable[Any]]) -> Any:
    async def work() -> Any:
        async with manager:
            return await method()

    return run_interruptibly(work())


def _options_of(pairs: list[str]) -> dict[str, str]:
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            # The pair may hold a secret: it is not repeated.
            raise typer.BadParameter("has to be KEY=VALUE", param_hint="--storage-option")
        options[key] = value
    return options


def _time_of(text: str | None) -> datetime.datetime | None:
    if text is None:
        return None
    try:
        return datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is no time; write it like 2026-01-31T06:00:00Z", param_hint="--since"
        ) from None


def _start_log(level: str, verbose: int) -> None:
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise typer.BadParameter(f"{level!r} is not debug, info, warning or error", param_hint="--log-level")
    if verbose:
        number = min(number, logging.INFO if verbose == 1 else logging.DEBUG)
    logging.basicConfig(level=number, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
