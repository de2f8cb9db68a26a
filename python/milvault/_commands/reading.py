"""The command that reads a backup's rows: `export`."""

from __future__ import annotations

from typing import Annotated

import typer

from milvault._moments import moment_of_text
from milvault.cli import DONE
from milvault.display import human_bytes

from .calling import call
from .settings import BackupArgument, CollectionOption, JsonOption, TimeoutOption, settings_of
from .terminal import draws_progress, print_json


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
    settings = settings_of(context, as_json)
    manager = settings.manager(needs_server=False)
    names = [name for group in columns or [] for name in group.split(",")]
    progress = draws_progress(as_json=settings.as_json)
    result = call(
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
