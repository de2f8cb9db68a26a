"""Ways to a server: `ConnectionManager` knows where it is and who we are, `CollectionManager` what it holds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from ._arguments import checked_name, checked_number, checked_path
from ._engine import Engine
from ._requests import retry_settings
from .errors import BackupRecoveryError, InvalidArgumentError

if TYPE_CHECKING:
    from ._seam import SessionFactory
    from .config import BackupRecoveryConfig

DEFAULT_URI = "http://localhost:19530"
_DEFAULT_PORTS = {"http": 19530, "https": 443}


class ConnectionManager:
    """Where a Milvus is and how to get in. Connects when first needed; never shows its secrets.

    Args:
        uri: `http(s)://host:port`, or a path ending in `.db` for an embedded Milvus Lite. A Lite server is shared with
            pymilvus in the same process, so that an open client keeps working. Unset: the environment's
            `MILVAULT_URI`, else `http://localhost:19530`.
        token: A token, or `user:password`.
        db_name: The database.
        user: A user's name, with `password`, instead of a token.
        password: The user's password.
        ca_file: A PEM file of authorities to trust, for `https`.
        cert_file: A PEM file with our certificate, with `key_file`, where the server asks for one.
        key_file: A PEM file with our key.
        server_name: The name that the server's certificate has to bear, where it is not the host's.
        connect_timeout_seconds: How long connecting may take.
        request_timeout_seconds: How long one request may take.

    Raises:
        InvalidArgumentError: The URI is neither, or user and password are not given together.

    Example:
        >>> ConnectionManager("http://milvus.example:19530", token="root:Milvus")
        ConnectionManager(uri='http://milvus.example:19530', db_name='default', token='**********')
    """

    def __init__(
        self,
        uri: str | os.PathLike[str] | None = None,
        token: str | SecretStr | None = None,
        db_name: str = "default",
        *,
        user: str | None = None,
        password: str | SecretStr | None = None,
        ca_file: str | os.PathLike[str] | None = None,
        cert_file: str | os.PathLike[str] | None = None,
        key_file: str | os.PathLike[str] | None = None,
        server_name: str | None = None,
        connect_timeout_seconds: float = 10.0,
        request_timeout_seconds: float = 120.0,
    ) -> None:
        given = checked_path("uri", uri) if uri is not None else os.environ.get("MILVAULT_URI") or DEFAULT_URI
        self._lite_path = os.path.abspath(given) if _is_lite(given) else None
        self._uri = self._lite_path or _server_address(given)
        self._token = _secret("token", token)
        self._password = _secret("password", password)
        self._user = user or None
        self._db_name = checked_name("db_name", db_name or "default")
        self._tls = {
            "ca_file": _path("ca_file", ca_file),
            "cert_file": _path("cert_file", cert_file),
            "key_file": _path("key_file", key_file),
            "server_name": server_name,
        }
        self._timeouts = {
            "connect_timeout_seconds": _positive("connect_timeout_seconds", connect_timeout_seconds),
            "request_timeout_seconds": _positive("request_timeout_seconds", request_timeout_seconds),
        }
        if (self._user is None) != (self._password is None):
            raise InvalidArgumentError("user and password go together; give both, or a token")
        if self._user is not None and self._token is not None:
            raise InvalidArgumentError("give a token, or user and password, not both")
        if (cert_file is None) != (key_file is None):
            raise InvalidArgumentError("cert_file and key_file go together; give both or neither")

    @property
    def uri(self) -> str:
        """The server's address, or the absolute path of the Milvus Lite database."""
        return self._uri

    @property
    def label(self) -> str:
        """What names the server to people and in journals: its address, or the database's absolute path."""
        return self._uri

    @property
    def db_name(self) -> str:
        """The database."""
        return self._db_name

    @property
    def is_lite(self) -> bool:
        """Whether it is an embedded Milvus Lite."""
        return self._lite_path is not None

    async def server_info(self) -> dict[str, Any]:
        """Connects and tells the server's `version`, `kind` (`lite` or `server`) and `uri`.

        Raises:
            BackupRecoveryError: It cannot be reached, or does not let us in.
        """
        engine = Engine(self)
        try:
            info: dict[str, Any] = (await engine.run("server_info", {})).unwrap()
            return info
        finally:
            await engine.close()

    async def core_settings(self, *, may_create: bool) -> dict[str, Any]:
        """What the core is told of the server, secrets included; a Milvus Lite is started first.

        Args:
            may_create: Whether a Lite database may be made where there is none.

        Raises:
            DatabaseLockedError: Another process has the Lite database open.
            BackupRecoveryError: Milvus Lite cannot be started.
        """
        uri = self._uri
        if self._lite_path is not None:
            import asyncio

            from ._lite import start_lite

            uri = await asyncio.to_thread(start_lite, self._lite_path, may_create=may_create)
        return {
            "uri": uri,
            "label": self.label,
            "token": _reveal(self._token),
            "user": self._user,
            "password": _reveal(self._password),
            "db_name": self._db_name,
            **self._tls,
            **self._timeouts,
        }

    def __repr__(self) -> str:
        parts = [f"uri={self._uri!r}", f"db_name={self._db_name!r}"]
        if self._token is not None:
            parts.append("token='**********'")
        if self._user is not None:
            parts.append(f"user={self._user!r}, password='**********'")
        return f"ConnectionManager({', '.join(parts)})"


class CollectionManager:
    """Looks at a server's collections, and drops them.

    Args:
        connection_manager: The server.
        config: How failures that may pass are repeated. Unset: as the `BackupManager` says that it belongs to, else
            the defaults.
    """

    def __init__(
        self,
        connection_manager: ConnectionManager,
        *,
        config: BackupRecoveryConfig | None = None,
        session_factory: SessionFactory | None = None,
    ) -> None:
        self.connection_manager = connection_manager
        self._has_config = config is not None
        settings = None if config is None else retry_settings(config)
        self._engine = Engine(connection_manager, settings=settings, session_factory=session_factory)

    def repeat_as(self, config: BackupRecoveryConfig) -> None:
        """Takes the settings of the manager that it belongs to, where it has none of its own."""
        if not self._has_config:
            self._engine.configure(retry_settings(config))

    async def list_collections(self) -> list[str]:
        """The names of the database's collections.

        Raises:
            BackupRecoveryError: The server cannot be reached.
        """
        names: list[str] = (await self._engine.run("list_collections", {})).unwrap()
        return names

    async def has_collection(self, collection_name: str) -> bool:
        """Whether there is a collection of that name."""
        return bool((await self._engine.run("has_collection", _named(collection_name))).unwrap())

    async def describe_collection(self, collection_name: str) -> dict[str, Any]:
        """A collection's fields, partitions, properties, aliases, `indexes`, and `row_count` (`None` if not loaded).

        Raises:
            CollectionNotFoundError: There is none of that name.
        """
        outcome = await self._engine.run("describe_collection", _named(collection_name))
        description: dict[str, Any] = outcome.unwrap()
        return description

    async def count(self, collection_name: str) -> int:
        """How many rows a collection has.

        Raises:
            CollectionNotFoundError: There is none of that name.
            BackupRecoveryError: It is not loaded, so that the server cannot count.
        """
        rows = (await self.describe_collection(collection_name)).get("row_count")
        if rows is None:
            raise BackupRecoveryError(
                f"collection {collection_name} is not loaded, and Milvus counts only what is; load it first",
                collection_name=collection_name,
            )
        return int(rows)

    async def drop_collection(self, collection_name: str) -> None:
        """Drops a collection and all its rows.

        Raises:
            CollectionNotFoundError: There is none of that name.
        """
        (await self._engine.run("drop_collection", _named(collection_name))).unwrap()

    async def close(self) -> None:
        """Ends the connection."""
        await self._engine.close()

    def __repr__(self) -> str:
        return f"CollectionManager({self.connection_manager!r})"


def _named(collection_name: str) -> dict[str, str]:
    return {"collection_name": checked_name("collection_name", collection_name)}


def _is_lite(uri: str) -> bool:
    return uri.endswith(".db") and "://" not in uri


def _server_address(uri: str) -> str:
    """`uri` with its port filled in; what is no address, or holds a password, is refused."""
    wanted = "give http://host:port, https://host:port, or a path ending in .db for Milvus Lite"
    # Before anything that shows the address: what stands before an @ is a password, or may be one.
    if "@" in uri:
        raise InvalidArgumentError("an address must not hold a password; give token, or user and password")
    if "?" in uri or "#" in uri:
        raise InvalidArgumentError(f"an address ends with the port; {wanted}")
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise InvalidArgumentError(f"{uri!r} is no server's address ({error}); {wanted}") from None
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise InvalidArgumentError(f"{uri!r} is no server's address; {wanted}")
    if parts.path not in ("", "/"):
        raise InvalidArgumentError(f"{uri!r} has a path behind the port; name a database by db_name")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port or _DEFAULT_PORTS[parts.scheme]}"


def _secret(name: str, value: str | SecretStr | None) -> SecretStr | None:
    if value is None or isinstance(value, SecretStr):
        return value
    if not isinstance(value, str):
        raise InvalidArgumentError(f"{name} has to be a text, and is of type {type(value).__name__}")
    return SecretStr(value) if value else None


def _reveal(value: SecretStr | None) -> str | None:
    return None if value is None else value.get_secret_value()


def _path(name: str, value: str | os.PathLike[str] | None) -> str | None:
    return None if value is None else os.path.abspath(checked_path(name, value))


def _positive(name: str, value: float) -> float:
    if not checked_number(name, value) > 0:
        raise InvalidArgumentError(f"{name} must be greater than 0, not {value}")
    return float(value)
