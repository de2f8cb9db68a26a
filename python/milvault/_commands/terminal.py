"""What the commands show: tables and words for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from milvault._metadata import found_damaged, verified_or_damaged
from milvault._wording import in_options
from milvault.display import human_bytes, human_duration, human_value
from milvault.enums import BackupOwner

if TYPE_CHECKING:
    from collections.abc import Sequence

    from milvault.manager import BackupManager
    from milvault.results import (
        BackupList,
        BackupMetadata,
        BackupResult,
        CheckResult,
        CopyResult,
        RestoreResult,
        VerificationResult,
    )


def print_json(document: object) -> None:
    """One JSON document, and nothing else, on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=str))


def draws_progress(*, as_json: bool) -> bool:
    """Whether a progress bar is of use: a person looks at the terminal."""
    return not as_json and sys.stderr.isatty()


def show_backups(backups: BackupList) -> None:
    """A table of backups, and a line for each that cannot be read."""
    if backups:
        _show_table(backups)
    else:
        print("no backups")
    for each in backups.damaged:
        print(f"DAMAGED  {each.backup_id}  {each.collection_name}  {each.storage_path}: {each.reason}")


def note_that_none_is_there(manager: BackupManager, collection: str, chosen: str = "") -> None:
    """Says on stderr that a collection has no backups, which its name may be wrong for."""
    connection = manager.connection_manager
    where = "" if connection is None else f" in database {connection.db_name!r}"
    print(f"milvault: no backup of {collection!r}{where}{chosen} is there", file=sys.stderr)


def _show_table(backups: BackupList) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("ID", "COLLECTION", "ROWS", "SIZE", "VERIFIED", "STATE", "TYPE", "CREATED", "NAME"):
        table.add_column(name, justify="right" if name in ("ROWS", "SIZE") else "left", no_wrap=True)
    for backup in backups:
        table.add_row(
            backup.backup_id,
            _plain(backup.collection_name),
            human_value(backup.row_count),
            human_bytes(backup.compressed_size_bytes or backup.size_bytes),
            verified_or_damaged(backup),
            str(backup.state),
            str(backup.backup_type if backup.owner is BackupOwner.MILVAULT else backup.owner),
            human_value(backup.created_at),
            _plain(backup.backup_name),
        )
    _console().print(table)


def show_backup(backup: BackupMetadata) -> None:
    """Everything about one backup that a person wants to know."""
    snapshot = getattr(backup, "snapshot", None) or {}
    damage = found_damaged(backup)
    verified = backup.last_verified_at if backup.is_verified else "no"
    _show_pairs(
        [
            ("id", backup.backup_id),
            ("name", backup.backup_name),
            ("collection", backup.collection_name),
            ("database", getattr(backup, "database", None)),
            ("partitions", backup.partition_names),
            ("created", backup.created_at),
            ("type", backup.backup_type),
            ("kept by", backup.owner),
            ("state", backup.state),
            ("rows", backup.row_count),
            ("size of rows", human_bytes(backup.size_bytes)),
            ("size of files", human_bytes(backup.compressed_size_bytes) if backup.compressed_size_bytes else None),
            ("consistency", snapshot.get("kind") if isinstance(snapshot, dict) else snapshot),
            ("digest", _digest_of(backup)),
            ("checksum", f"{backup.checksum_algorithm} {backup.checksum}" if backup.checksum else None),
            ("verified", f"DAMAGED, as found by {damage}" if damage else verified),
            ("Milvus", backup.milvus_version),
            ("tags", backup.tags),
            ("stored at", backup.storage_path),
        ]
    )


def show_created(result: BackupResult) -> None:
    """How a backup went."""
    if not result.success:
        print(
            f"milvault: the backup of {result.collection_name} failed: {in_options(result.error_message or '')}",
            file=sys.stderr,
        )
        return
    files = result.metadata.compressed_size_bytes if result.metadata is not None else None
    proven = ", verified" if result.verification is not None and result.verification.success else ""
    print(
        f"backed up {result.row_count:,} rows of {result.collection_name} in "
        f"{human_duration(result.execution_time_seconds)} "
        f"({human_bytes(files if files is not None else result.size_bytes)}{proven})"
    )
    _show_pairs([("id", result.backup_id), ("name", result.backup_name), ("stored at", result.storage_path)])
    show_warnings(result.warnings)


def show_restored(result: RestoreResult) -> None:
    """How a restore went, or what a dry run would do."""
    if result.plan is not None:
        for name, value in result.plan.items():
            print(f"{name.replace('_', ' ')}: {human_value(value)}")
        print("nothing was written: this was a dry run")
        show_warnings(result.warnings)
        return
    if not result.success and not result.failed_partitions:
        print(f"milvault: the restore failed: {in_options(result.error_message or '')}", file=sys.stderr)
        return
    proven = {True: ", proven", False: ", NOT proven", None: ""}[result.verification_passed]
    print(
        f"restored {result.rows_restored:,} rows to {result.target_collection_name} in "
        f"{human_duration(result.execution_time_seconds)}{proven}"
    )
    if result.failed_partitions:
        print(f"left out partitions that failed: {', '.join(result.failed_partitions)}")
    show_warnings(result.warnings)


def show_checked(result: CheckResult) -> None:
    """What a check found, a line each."""
    words = {True: "good", False: "wrong", None: "unknown"}
    for found in result.checks:
        print(f"{found.name.replace('_', ' ')}: {words[found.success]}: {in_options(found.message)}")


def show_copied(result: CopyResult) -> None:
    """What was brought over."""
    if result.already_there:
        print(f"{result.backup_id} was there already")
    else:
        print(
            f"copied {result.backup_id}: {result.files_copied} of {result.files} files, "
            f"{human_bytes(result.bytes_copied)}"
        )
    _show_pairs([("stored at", result.storage_path)])


def show_verified(backup: str, result: VerificationResult) -> None:
    """What a verification found."""
    milliseconds = result.verification_time_ms
    if result.success:
        sampled = result.details.get("row_groups_checked")
        sample = "" if sampled is None else f", {sampled} of {result.details.get('row_groups')} row groups decoded,"
        took = human_duration(milliseconds / 1000)
        print(f"{backup} is whole: {result.files_verified} files checked{sample} in {took}")
        _show_trial(result)
    else:
        print(f"{backup} is DAMAGED")
        for error in result.errors:
            print(f"  {in_options(error)}")
        if not result.errors and result.files_failed:
            print(f"  {', '.join(result.files_failed)}")
    show_warnings(result.warnings)


def _show_trial(result: VerificationResult) -> None:
    """What a DEEP verification did besides: restored the backup for a trial, and compared."""
    if not result.deep_verification_passed:
        return
    print(f"  restored for a trial: {human_value(result.details.get('rows'))} rows came back as the backup has them")
    original = result.details.get("original") or {}
    if not original.get("compared"):
        print(f"  not compared with the collection it was made of: {original.get('reason')}")
        return
    same = not any(found["rows"] for found in original["differences"].values())
    outcome = "they are the same" if same else "they differ, as the warning says"
    print(f"  compared with the collection it was made of: {outcome}")


def show_pruned(outcome: dict[str, Any]) -> None:
    """What a retention policy keeps and deletes, and why."""
    gone = set(outcome["deleted_backup_ids"])
    listed = [each for each in outcome["planned"] if outcome["dry_run"] or each["backup_id"] in gone]
    size = human_bytes(sum(each["size_bytes"] for each in listed))
    count = "1 backup" if len(listed) == 1 else f"{len(listed):,} backups"
    print(f"{'would delete' if outcome['dry_run'] else 'deleted'} {count} ({size}), kept {len(outcome['kept']):,}")
    for word, named in (
        ("delete" if outcome["dry_run"] else "deleted", {each["backup_id"]: _which(each) for each in listed}),
        ("keep", outcome["kept"]),
        ("leave", outcome["left_alone"]),
    ):
        for backup_id, why in named.items():
            print(f"  {word:<7}  {backup_id}  {why}")
    for backup_id, why in outcome["failed"].items():
        print(f"milvault: {backup_id} could not be deleted: {in_options(why)}", file=sys.stderr)


def _which(planned: dict[str, Any]) -> str:
    return f"{planned['collection_name']}, {planned['backup_name']}"


def _digest_of(backup: BackupMetadata) -> str | None:
    """The fingerprint of the rows, of each partition where there are several."""
    digest = getattr(backup, "digest", None)
    partitions = digest.get("partitions") if isinstance(digest, dict) else None
    if not isinstance(partitions, dict) or not partitions:
        return None
    digests = {name: str(each.get("digest")) for name, each in partitions.items() if isinstance(each, dict)}
    return next(iter(digests.values())) if len(digests) == 1 else human_value(digests)


def show_warnings(warnings: Sequence[str]) -> None:
    """A line for each, on stderr."""
    for warning in warnings:
        print(f"milvault: warning: {in_options(warning)}", file=sys.stderr)


def _show_pairs(pairs: Sequence[tuple[str, Any]]) -> None:
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        if value not in (None, [], ""):
            print(f"  {name:<{width}}  {human_value(value)}")


def _plain(text: str) -> str:
    """`text` without a meaning to rich's markup."""
    from rich.markup import escape

    return escape(text)


def _console() -> Console:
    # Wider than any table: an id that is cut cannot be copied, and what is piped is read by programs.
    return Console(width=1_000_000)
