"""`BackupManager`: backs collections up, proves backups, restores them. Everything is async; the core does the work.

Here is what it is made of, and its beginning and end; what it does is in `_operations/`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._arguments import checked_path
from ._engine import Engine
from ._operations.keeping import KeepsBackups
from ._operations.looking import LooksAtBackups
from ._operations.making import MakesBackups
from ._operations.reading import ReadsBackups
from ._operations.restoring import RestoresBackups
from ._requests import milvus_storage_settings, repository_settings, retry_settings
from .config import BackupRecoveryConfig
from .connection import CollectionManager, ConnectionManager

if TYPE_CHECKING:
    import os

    from pydantic import SecretStr
    from typing_extensions import Self

    from ._seam import SessionFactory


class BackupManager(MakesBackups, LooksAtBackups, ReadsBackups, RestoresBackups, KeepsBackups):
    """Makes, lists, proves, restores and deletes the backups in one repository.

    It may be used from several `asyncio.run` calls one after another, not after a fork. `async with` closes it.

    A call that fails before its work began raises (wrong arguments, not found, locked, corrupt, incompatible).
    `create_backup` and `restore_backup` tell what went wrong while they ran (server, deadline, disk) by a result with
    `success=False`; `result.raise_for_error()` raises the same typed error. Canceling the task stops the work, cleans
    up within 10 seconds, and raises `CancelledError`.

    Args:
        connection_manager: The server. Unset: that of `collection_manager`; without either, a manager that has a
            repository but no server, which can list, get, verify and delete.
        collection_manager: Looks at the server's collections.
        config: Where backups go and how they are made, whatever the environment says. Unset: what
            `BackupRecoveryConfig.load()` finds in the environment, and the defaults.

    Raises:
        InvalidArgumentError: The environment names a file of settings that cannot be read.
        pydantic.ValidationError: The environment sets something that cannot be right.

    Example:
        ```python
        async with BackupManager.connect("./milvus.db", "./milvus_backups") as manager:
            result = await manager.create_backup("articles")
            result.raise_for_error()
            print(result.backup_id, result.row_count)
        ```
    """

    def __init__(
        self,
        connection_manager: ConnectionManager | None = None,
        collection_manager: CollectionManager | None = None,
        config: BackupRecoveryConfig | None = None,
        *,
        session_factory: SessionFactory | None = None,
    ) -> None:
        if connection_manager is None and collection_manager is not None:
            connection_manager = collection_manager.connection_manager
        if collection_manager is None and connection_manager is not None:
            collection_manager = CollectionManager(connection_manager, session_factory=session_factory)
        self.connection_manager = connection_manager
        self.collection_manager = collection_manager
        self.config = config if config is not None else BackupRecoveryConfig.load()
        if collection_manager is not None:
            collection_manager.repeat_as(self.config)
        self._engine = Engine(
            connection_manager,
            repository=repository_settings(self.config),
            milvus_storage=lambda: milvus_storage_settings(self.config),
            settings={**retry_settings(self.config), "milvus_management": self.config.milvus_management},
            poll_interval=self.config.progress_poll_interval,
            session_factory=session_factory,
        )

    @classmethod
    def connect(
        cls,
        uri: str | os.PathLike[str] | None,
        root: str | os.PathLike[str] | None = None,
        *,
        token: str | SecretStr | None = None,
        db_name: str = "default",
        user: str | None = None,
        password: str | SecretStr | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        server_name: str | None = None,
        storage_options: dict[str, str] | None = None,
        config: BackupRecoveryConfig | None = None,
        session_factory: SessionFactory | None = None,
    ) -> Self:
        """A manager in one line. Nothing is contacted yet.

        Args:
            uri: `http(s)://host:port`, a path ending in `.db` for Milvus Lite, or `None` for no server.
            root: A folder or an object store's URL. Unset: the config's, or the environment's.
            token: As for `ConnectionManager`, like all up to `server_name`.
            db_name: The database.
            user: A user's name, with `password`.
            password: The user's password.
            ca_file: A PEM file of authorities to trust.
            cert_file: A PEM file with our certificate.
            key_file: A PEM file with our key.
            server_name: The name that the server's certificate has to bear.
            storage_options: Options of the object store, such as `aws_endpoint`.
            config: All other settings. Unset: what the environment says, and the defaults.
            session_factory: Makes the core's sessions; for tests.

        Raises:
            InvalidArgumentError: The URI is no server's address, or the environment names a file of settings that
                cannot be read.
            pydantic.ValidationError: A setting cannot be right.
        """
        changes: dict[str, Any] = {}
        if root is not None:
            changes["local_backup_root_path"] = checked_path("root", root)
        if storage_options is not None:
            changes["storage_options"] = storage_options
        if config is None:
            config = BackupRecoveryConfig.load(**changes)
        elif changes:
            given = {name: getattr(config, name) for name in config.model_fields_set}
            config = BackupRecoveryConfig.model_validate({**given, **changes})
        connection = None
        if uri is not None:
            connection = ConnectionManager(
                uri,
                token,
                db_name,
                user=user,
                password=password,
                ca_file=ca_file,
                cert_file=cert_file,
                key_file=key_file,
                server_name=server_name,
            )
        return cls(connection_manager=connection, config=config, session_factory=session_factory)

    async def close(self) -> None:
        """Ends all work and connections. A Milvus Lite goes on for pymilvus, until the process ends."""
        await self._engine.close()
        if self.collection_manager is not None:
            await self.collection_manager.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        server = None if self.connection_manager is None else self.connection_manager.label
        return f"BackupManager(server={server!r}, repository={self.config.local_backup_root_path!r})"
