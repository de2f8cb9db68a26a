"""What the commands share: the global options, the options that several have, and a manager as they say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from milvault.config import BackupRecoveryConfig
from milvault.connection import DEFAULT_URI
from milvault.enums import LinkPolicy
from milvault.manager import BackupManager

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
    db_name: str | None
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
            db_name=self.db_name or "default",
            config=config,
            session_factory=self.session_factory,
            **self.tls,
        )


def settings_of(context: typer.Context, as_json: bool) -> Settings:
    """The global options; `--json` may stand before the command or behind it."""
    settings: Settings = context.obj
    settings.as_json = settings.as_json or as_json
    return settings


def options_of(pairs: list[str]) -> dict[str, str]:
    """Options of an object store, from `KEY=VALUE` each."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            # The pair may hold a secret: it is not repeated.
            raise typer.BadParameter("has to be KEY=VALUE", param_hint="--storage-option")
        options[key] = value
    return options
