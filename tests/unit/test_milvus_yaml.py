"""Where a Milvus server keeps its files, by its own `milvus.yaml`; what is read from real ones is in tests/native."""

from __future__ import annotations

import pytest

from milvault import BackupRecoveryConfig, InvalidArgumentError
from milvault._milvus_yaml import storage_of
from milvault._requests import milvus_storage_settings

MINIO = """
common: {storageType: minio}
minio:
  address: minio.example
  port: 9000
  accessKeyID: minioadmin
  secretAccessKey: hunter2
  useSSL: false
  bucketName: a-bucket
  rootPath: files
"""


@pytest.fixture
def yaml(tmp_path):
    def write(text: str) -> str:
        file = tmp_path / "milvus.yaml"
        file.write_text(text)
        return str(file)

    return write


def test_a_bucket_on_a_server_of_ones_own(yaml):
    root, options = storage_of(yaml(MINIO))
    assert root == "s3://a-bucket/files"
    assert options == {
        "aws_endpoint": "http://minio.example:9000",
        "aws_access_key_id": "minioadmin",
        "aws_secret_access_key": "hunter2",
        "aws_allow_http": "true",
    }


@pytest.mark.parametrize(
    ("text", "root", "options"),
    [
        ("common: {storageType: local}\nlocalStorage: {path: /data/milvus}", "/data/milvus", {}),
        ("common: {storageType: local}", "/var/lib/milvus/data", {}),
        (
            "minio: {address: s3.amazonaws.com, useSSL: true, useIAM: true, bucketName: b, rootPath: /r/s/, region: e}",
            "s3://b/r/s",
            {"aws_region": "e"},
        ),
        (
            "minio: {address: 'store:7000', useSSL: true, bucketName: b, useVirtualHost: true}",
            "s3://b/files",
            {"aws_endpoint": "https://store:7000", "aws_virtual_hosted_style_request": "true"},
        ),
        (
            "minio: {cloudProvider: azure, accessKeyID: account, secretAccessKey: key, bucketName: container}",
            "az://container/files",
            {"azure_storage_account_name": "account", "azure_storage_account_key": "key"},
        ),
        ("minio: {cloudProvider: gcp, useIAM: true, bucketName: b, rootPath: r}", "gs://b/r", {}),
    ],
)
def test_every_sort_of_storage(yaml, text, root, options):
    assert storage_of(yaml(text)) == (root, options)


@pytest.mark.parametrize(
    ("text", "word"),
    [("{}", "describes no storage"), ("minio: [1]", "mapping"), ("minio: {", "YAML"), ("- 1", "mapping")],
)
def test_what_describes_no_storage_is_refused(yaml, text, word):
    with pytest.raises(InvalidArgumentError, match=word):
        storage_of(yaml(text))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"missing\.yaml"):
        storage_of(str(tmp_path / "missing.yaml"))


def test_options_of_ones_own_win_over_the_file_and_no_secret_is_shown(yaml):
    options = {"aws_access_key_id": "reader", "aws_secret_access_key": "other"}
    config = BackupRecoveryConfig(milvus_storage={"url": yaml(MINIO), "options": options})
    settings = milvus_storage_settings(config)
    assert settings["options"]["aws_access_key_id"] == "reader"
    assert settings["options"]["aws_secret_access_key"] == "other"
    assert settings["options"]["aws_endpoint"] == "http://minio.example:9000"
    for secret in ("hunter2", "other"):
        assert secret not in repr(config)


def test_a_path_alone_is_a_storage(tmp_path):
    assert BackupRecoveryConfig(milvus_storage=tmp_path).milvus_storage.url == str(tmp_path)
    assert milvus_storage_settings(BackupRecoveryConfig(milvus_storage="/m")) == {"root": "/m", "options": {}}
    assert milvus_storage_settings(BackupRecoveryConfig()) is None
