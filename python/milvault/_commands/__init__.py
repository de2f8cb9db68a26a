"""The commands of `milvault`, and the options that stand before each. A command calls one method of `BackupManager`.

The commands are in files by the sort of what they do, as `_operations/` has it; what they share is in `settings`,
`calling` and `terminal`.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from milvault.connection import DEFAULT_URI

from .keeping import adopt, copy, delete, prune
from .looking import check, list_, show, verify
from .making import create
from .reading import export
from .restoring import restore
from .settings import JsonOption, Settings, options_of

app = typer.Typer(
    name="milvault",
    help="Backs up, proves and restores Milvus collections.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# In the order that help shows.
app.command()(create)
app.command()(check)
app.command("list")(list_)
app.command()(show)
app.command("get", hidden=True)(show)
app.command()(verify)
app.command()(export)
app.command()(restore)
app.command()(copy)
app.command()(adopt)
app.command()(delete)
app.command()(prune)


def _version(wanted: bool) -> None:
    if wanted:
        from milvault._core import version

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
    db_name: Annotated[
        str | None, typer.Option("--db-name", help="The database. Default: default.", show_default=False)
    ] = None,
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
        db_name=db_name or None,
        config_file=config,
        tls={"ca_file": ca_file, "cert_file": cert_file, "key_file": key_file, "server_name": server_name},
        storage_options=options_of(storage_option or []),
        read_only=read_only,
        journal_root=journal_root or None,
        milvus_storage=_milvus_storage(milvus_storage, options_of(milvus_storage_option or [])),
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


def _start_log(level: str, verbose: int) -> None:
    number = logging.getLevelName(level.upper())
    if not isinstance(number, int):
        raise typer.BadParameter(f"{level!r} is not debug, info, warning or error", param_hint="--log-level")
    if verbose:
        number = min(number, logging.INFO if verbose == 1 else logging.DEBUG)
    logging.basicConfig(level=number, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
