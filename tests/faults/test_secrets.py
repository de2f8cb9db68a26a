"""Planted secrets, looked for in everything that Milvault writes, prints, logs, returns and raises: none is there.

Credentials, and values of fields other than the primary key, which belong in the data files alone.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import logging
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import grpc
import pytest
from pydantic import ValidationError
from pymilvus import DataType, MilvusClient

from milvault import (
    BackupManager,
    BackupParams,
    BackupRecoveryConfig,
    BackupRecoveryError,
    ConnectionManager,
    InvalidArgumentError,
    ProgressStream,
    RestoreParams,
)
from milvault.results import BackupList
from tests.backup_files import data_files
from tests.conftest import files_under
from tests.recipes import create, plain
from tests.servers.fault_proxy import Proxy

pytestmark = pytest.mark.faults

TOKEN = "planted-user:planted-token-4711"
PASSWORD = "planted-password-4712"
STORE_KEY = "planted-store-key-4713"
IN_A_URL = "planted-in-a-url-4714"
# A secret key is Base64, in which slashes are.
SLASHED_KEY = f"KEY:a/{IN_A_URL}+b"
ROW_TEXT = "planted-row-text-4715"
ROW_NUMBER = 471647164716
DYNAMIC = "planted-dynamic-4717"

SECRETS = [TOKEN, "planted-token-4711", PASSWORD, STORE_KEY, IN_A_URL]
VALUES = [ROW_TEXT, str(ROW_NUMBER), DYNAMIC]


def forms(secrets: list[str]) -> list[bytes]:
    """Each secret as it is, and as it goes over the wire."""
    plain_forms = [secret.encode() for secret in secrets]
    return plain_forms + [base64.b64encode(secret) for secret in plain_forms]


class Everything:
    """What a run told, in any way."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def result(self, result: Any) -> None:
        """A result or error, in every way of showing it."""
        self.told += [repr(result), str(result)]
        if not isinstance(result, ValidationError):  # pydantic's own, which carries its input for programs
            self.told.append(repr(pickle.dumps(result)))
        for method in ("to_dict", "_repr_html_", "model_dump_json"):
            if hasattr(result, method):
                self.told.append(str(getattr(result, method)()))
        if isinstance(result, BaseException):
            self.told.append("".join(traceback.format_exception(result)))
        if getattr(result, "error", None) is not None:
            self.result(result.error)

    async def take(self, waiting: Any) -> Any:
        """Awaits a call and keeps what it told."""
        try:
            result = await waiting
        except (BackupRecoveryError, asyncio.CancelledError) as error:
            self.result(error)
            return None
        self.result(result)
        return result

    def check(self, *secrets: str) -> None:
        text = "\n".join(self.told).encode()
        assert text
        assert [form for form in forms(list(secrets)) if form in text] == []


@pytest.fixture
def everything(caplog, capfd):
    """Everything that is told, the log of every level and both streams included."""
    everything = Everything()
    with caplog.at_level(logging.DEBUG):
        yield everything
    # pymilvus is the tests' own tool here, and logs what it is given.
    ours = [record for record in caplog.records if not record.name.startswith(("pymilvus", "grpc"))]
    everything.told += [record.getMessage() + repr(vars(record)) for record in ours]
    captured = capfd.readouterr()
    everything.told += [captured.out, captured.err]
    everything.check(*SECRETS, *VALUES)


def fill(client: MilvusClient, name: str) -> None:
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("text", DataType.VARCHAR, max_length=100)
    schema.add_field("number", DataType.INT64)
    schema.add_field("json", DataType.JSON)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=4)
    client.create_collection(name, schema=schema)
    rows = [
        {
            "id": key,
            "text": f"{ROW_TEXT} {key}",
            "number": ROW_NUMBER,
            "json": {"deep": [ROW_TEXT]},
            "vector": [float(key)] * 4,
            "extra": DYNAMIC,
        }
        for key in range(200)
    ]
    client.insert(name, rows)
    client.insert(name, rows[:1])  # a key that comes twice is named, its row is not


def manager_on(uri: str, root: Path | str, **settings: Any) -> BackupManager:
    config = BackupRecoveryConfig(
        local_backup_root_path=str(root),
        storage_options={"aws_access_key_id": "planted", "aws_secret_access_key": STORE_KEY}
        if "://" in str(root)
        else {},
        retry_delay_seconds=0.01,
        progress_poll_interval=0.01,
        **settings,
    )
    return BackupManager(ConnectionManager(uri, token=TOKEN), config=config)


async def test_nothing_of_a_whole_story_tells_a_secret_or_a_value(lite_tcp, name, root, everything):
    fill(lite_tcp.client, name)
    collapse = BackupParams(duplicates="collapse")
    async with manager_on(lite_tcp.uri, root) as manager:
        everything.told.append(repr(manager) + repr(manager.config) + repr(manager.connection_manager))
        await everything.take(manager.create_backup(name))  # refused: a key comes twice
        stream = ProgressStream()
        task = asyncio.create_task(manager.create_backup(name, collapse, progress=stream))
        async for progress in stream:
            everything.result(progress)
        backup = await everything.take(task)
        assert backup.success, backup.error_message
        everything.result(await manager.list_backups())
        everything.result(BackupList([backup.metadata]))
        await everything.take(manager.collection_manager.describe_collection(name))
        await everything.take(manager.verify_backup(backup.backup_id, name))
        copy = RestoreParams(target_collection_name=f"{name}_copy", load_after_restore=True)
        restored = await everything.take(manager.restore_backup(backup.backup_id, name, copy))
        assert restored.success, restored.error_message
        # And where things go wrong.
        await everything.take(manager.restore_backup(backup.backup_id, name, copy))  # exists
        await everything.take(manager.create_backup(name, collapse, timeout=0.05))
        await everything.take(manager.create_backup("not_there"))
        canceled = asyncio.create_task(manager.create_backup(name, collapse))
        await asyncio.sleep(0.05)
        canceled.cancel()
        await everything.take(canceled)
        files = files_under(root)
        # Damage in the middle of the rows: found by the checksum, or by the reader where nobody checks.
        damaged = data_files(backup.storage_path)[0]
        content = bytearray(damaged.read_bytes())
        for at in range(100, len(content) - 100, 97):
            content[at] ^= 0x55
            damaged.write_bytes(content)
        await everything.take(manager.verify_backup(backup.backup_id, name))
        for verify in (True, False):
            params = RestoreParams(target_collection_name=f"{name}_bad", verify_before_restore=verify)
            bad = await everything.take(manager.restore_backup(backup.backup_id, name, params))
            assert bad is None or not bad.success
    assert files
    for path, content in files.items():
        found = [form for form in forms(SECRETS) if form in content]
        assert found == [], path
        if not path.endswith(".parquet"):
            assert [form for form in forms(VALUES) if form in content] == [], path


async def test_a_server_that_repeats_what_it_was_sent_is_not_repeated(lite_tcp, name, root, everything):
    create(lite_tcp.client, name, plain(20))
    proxy = Proxy(lite_tcp.uri).start()
    try:
        for method in ("Connect", "DescribeCollection", "Query"):
            proxy.fail(method, grpc.StatusCode.UNAUTHENTICATED, 100)
            async with manager_on(proxy.uri, root, max_retries=1) as manager:
                assert not (await everything.take(manager.create_backup(name))).success
            proxy.fail(method, grpc.StatusCode.UNAVAILABLE, 0)
    finally:
        proxy.stop()


@pytest.mark.s3
async def test_an_object_stores_key_is_told_nowhere(lite_tcp, name, bucket, s3_server, everything, monkeypatch):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(variable, raising=False)
    create(lite_tcp.client, name, plain(20))
    async with manager_on(lite_tcp.uri, f"s3://{bucket}/prefix") as manager:
        everything.told.append(repr(manager) + repr(manager.config) + manager.config.model_dump_json())
        backup = await everything.take(manager.create_backup(name))
        assert backup.success, backup.error_message
        await everything.take(manager.verify_backup(backup.backup_id, name))
        await everything.take(manager.get_backup("nothing like it"))
    objects = s3_server.client().list_objects_v2(Bucket=bucket)["Contents"]
    for entry in objects:
        content = s3_server.client().get_object(Bucket=bucket, Key=entry["Key"])["Body"].read()
        assert [form for form in forms(SECRETS) if form in content] == [], entry["Key"]
    # A bucket that is not there, and a store that is not there.
    for place, options in (
        ("s3://no-such-bucket-4711/x", {}),
        (f"s3://{bucket}/x", {"aws_endpoint": "http://127.0.0.1:9", "aws_allow_http": "true"}),
    ):
        config = BackupRecoveryConfig(
            local_backup_root_path=place, storage_options={"aws_secret_access_key": STORE_KEY, **options}
        )
        keeper = BackupManager(config=config)
        if not options:
            await everything.take(keeper.list_backups())
        everything.told.append(repr(keeper))


def test_a_password_in_an_address_is_refused_and_not_shown(everything):
    attempts = [
        lambda: ConnectionManager(f"http://user:{IN_A_URL}@host:19530"),
        lambda: ConnectionManager(f"user:{IN_A_URL}@host:19530"),
        lambda: ConnectionManager(f"http://user:{IN_A_URL}@host:port"),
        lambda: BackupManager.connect(None, f"s3://key:{IN_A_URL}@bucket/prefix"),
        lambda: BackupManager.connect(None, f"s3://{IN_A_URL}@bucket/prefix"),
        lambda: BackupManager.connect(None, f"az://container/prefix?sig={IN_A_URL}"),
        lambda: BackupManager.connect(None, f"s3://{SLASHED_KEY}@bucket/prefix"),
        lambda: BackupManager.connect(None, f"S3://bucket/{IN_A_URL}@prefix"),
        lambda: BackupRecoveryConfig(journal_root=f"s3://{SLASHED_KEY}@bucket/prefix"),
        lambda: BackupRecoveryConfig(milvus_storage=f"s3://{SLASHED_KEY}@bucket/files"),
        lambda: BackupRecoveryConfig(milvus_storage={"url": f"s3://{SLASHED_KEY}@bucket/files"}),
        lambda: BackupManager.connect(None, "/backups", storage_options={"aws_secret_access_key": [IN_A_URL]}),
        lambda: BackupRecoveryConfig(password=IN_A_URL),
    ]
    for attempt in attempts:
        with pytest.raises((InvalidArgumentError, ValidationError)) as failure:
            attempt()
        everything.result(failure.value)


@pytest.mark.parametrize(
    "place",
    [
        f"s3://{SLASHED_KEY}@bucket/prefix",
        f"s3://user:{IN_A_URL}@bucket/prefix",
        f"az://container/prefix?sig={IN_A_URL}",
        f"s3://{SLASHED_KEY}",  # no '@', but a password where a port would be
    ],
)
async def test_a_secret_in_the_url_that_a_call_is_given_is_refused_and_not_shown(place, root, everything):
    manager = BackupManager.connect(None, root)
    for refused in (
        manager.get_backup(place),
        manager.verify_backup(place, "films"),
        manager.restore_backup(place, "films"),
        manager.export_backup(place, root / "rows.parquet"),
        manager.delete_backup(place),
        manager.copy_backup("first", to=place),
        manager.adopt_backup(place),
        manager.open_backup(place),
    ):
        with pytest.raises(BackupRecoveryError) as failure:
            await refused
        everything.result(failure.value)


async def test_a_root_that_is_not_understood_is_not_repeated(everything):
    with pytest.raises(InvalidArgumentError) as failure:
        await BackupManager.connect(None, f"s3://{SLASHED_KEY}").list_backups()
    everything.result(failure.value)


def test_the_command_line_tells_no_secret(lite_tcp, name, root, tmp_path):
    create(lite_tcp.client, name, plain(20))
    settings = tmp_path / "settings.yaml"
    settings.write_text(f"storage_options: {{aws_secret_access_key: {STORE_KEY}}}\n")
    broken = tmp_path / "broken.yaml"
    broken.write_text(f"storage_options: {{aws_secret_access_key: {STORE_KEY}\n")
    environment = {
        **os.environ,
        "MILVAULT_URI": lite_tcp.uri,
        "MILVAULT_ROOT": str(root),
        "MILVAULT_TOKEN": TOKEN,
        "MILVAULT_MAX_RETRIES": "0",
    }
    told = ""
    for arguments in (
        ["create", name, "--name", "first", "--json"],
        ["create", name, "--name", "first"],
        ["list", "--json"],
        ["show", "first", "--json"],
        ["verify", "first"],
        ["--config", settings, "list"],
        ["--config", broken, "list"],
        ["--config", broken, "list", "--json"],
        ["--root", f"s3://key:{IN_A_URL}@bucket/prefix", "list"],
        ["--root", f"s3://key:{IN_A_URL}@bucket/prefix", "list", "--json"],
        ["--root", f"s3://{SLASHED_KEY}@bucket/prefix", "list"],
        ["--root", f"s3://{SLASHED_KEY}@bucket/prefix", "list", "--json"],
        ["--journal-root", f"s3://{SLASHED_KEY}@bucket/prefix", "list", "--json"],
        ["--milvus-storage", f"s3://{SLASHED_KEY}@bucket/prefix", "list", "--json"],
        ["copy", "first", "--to", f"s3://{SLASHED_KEY}@bucket/prefix", "--json"],
        ["adopt", f"s3://{SLASHED_KEY}@bucket/prefix", "--json"],
        ["show", f"s3://{SLASHED_KEY}@bucket/prefix", "--json"],
        ["--uri", f"http://user:{IN_A_URL}@127.0.0.1:9", "create", name],
        ["--uri", "http://127.0.0.1:9", "create", name, "--json"],
        ["restore", "first"],
    ):
        command = [sys.executable, "-m", "milvault", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        assert "Traceback" not in done.stderr
        told += done.stdout + done.stderr
    assert [form for form in forms(SECRETS) if form.decode() in told] == []
    assert name in told
    for path, content in files_under(root).items():
        assert [form for form in forms(SECRETS) if form in content] == [], path


def test_the_search_finds_what_is_there():
    """The tests above would not pass by looking at nothing."""
    everything = Everything()
    everything.result(BackupRecoveryError(f"told: {TOKEN}"))
    with pytest.raises(AssertionError):
        everything.check(*SECRETS)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        print(json.dumps({"token": base64.b64encode(PASSWORD.encode()).decode()}))
    everything = Everything()
    everything.told.append(out.getvalue())
    with pytest.raises(AssertionError):
        everything.check(PASSWORD)
