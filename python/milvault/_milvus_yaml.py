"""Where a Milvus server keeps its files, read from its own `milvus.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import InvalidArgumentError

LOCAL_PATH, ROOT_PATH = "/var/lib/milvus/data", "files"
"""What Milvus takes where nothing is said."""


def storage_of(path: str) -> tuple[str, dict[str, str]]:
    """The root that `insert_log` lies in, as a path or a URL, and the object store's options, secrets included.

    Args:
        path: A `milvus.yaml`, of which `common.storageType`, `localStorage.path` and `minio` are read.

    Raises:
        InvalidArgumentError: It cannot be read, or describes no storage.
    """
    from .config import _read_yaml

    values = _read_yaml(Path(path))
    common, local, minio = (_section(values, name, path) for name in ("common", "localStorage", "minio"))
    if _text(common, "storageType") == "local":
        return _text(local, "path") or LOCAL_PATH, {}
    bucket = _text(minio, "bucketName")
    if not bucket:
        raise InvalidArgumentError(
            f"{path} describes no storage: neither is common.storageType local, nor is there a minio.bucketName"
        )
    place = f"{bucket}/{(_text(minio, 'rootPath') or ROOT_PATH).strip('/')}".rstrip("/")
    secret = not _flag(minio, "useIAM")
    key, password = (_text(minio, name) if secret else "" for name in ("accessKeyID", "secretAccessKey"))
    provider = _text(minio, "cloudProvider")
    if provider == "azure":
        return f"az://{place}", _present(azure_storage_account_name=key, azure_storage_account_key=password)
    if provider == "gcp" and not secret:
        return f"gs://{place}", {}
    encrypted = _flag(minio, "useSSL")
    return f"s3://{place}", _present(
        aws_endpoint=_endpoint(minio, encrypted),
        aws_access_key_id=key,
        aws_secret_access_key=password,
        aws_region=_text(minio, "region"),
        aws_allow_http="" if encrypted else "true",
        aws_virtual_hosted_style_request="true" if _flag(minio, "useVirtualHost") else "",
    )


def _endpoint(minio: dict[str, Any], encrypted: bool) -> str:
    address, port = _text(minio, "address"), _text(minio, "port")
    if not address or address.endswith("amazonaws.com"):
        return ""  # the region says where it is
    if port and ":" not in address:
        address = f"{address}:{port}"
    return f"{'https' if encrypted else 'http'}://{address}"


def _section(values: dict[str, Any], name: str, path: str) -> dict[str, Any]:
    section = values.get(name) or {}
    if not isinstance(section, dict):
        raise InvalidArgumentError(f"{name} in {path} has to be a mapping of settings to values")
    return section


def _text(section: dict[str, Any], name: str) -> str:
    value = section.get(name)
    return "" if value is None else str(value)


def _flag(section: dict[str, Any], name: str) -> bool:
    return _text(section, name).lower() == "true"


def _present(**options: str) -> dict[str, str]:
    return {name: value for name, value in options.items() if value}
