"""Reading a backup that lies on S3: the same rows, the same proof, no temporary file left."""

from __future__ import annotations

import pyarrow as pa
import pytest

from milvault import BackupCorruptedError, BackupManager
from tests.recipes import create, partitioned

pytestmark = pytest.mark.s3


async def test_rows_are_read_and_proven_from_s3(lite, connect, name, bucket, s3_server, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    url = f"s3://{bucket}/prefix"
    create(lite.client, name, partitioned())
    async with connect(lite, root=url) as manager:
        backup = await manager.create_backup(name)
        backup.raise_for_error()
    async with BackupManager.connect(None, url) as manager:
        with await manager.open_backup(backup.backup_id, columns=["id"], where="id < 30") as reader:
            assert sorted(pa.table(reader)["id"].to_pylist()) == list(range(30))
        await manager.export_backup(backup.backup_id, tmp_path / "rows.csv", columns=["id"])
        assert len((tmp_path / "rows.csv").read_text().split()) == 301
        client = s3_server.client()
        listed = client.list_objects_v2(Bucket=bucket)["Contents"]
        assert not [entry["Key"] for entry in listed if ".readers" in entry["Key"]]
        (key, *_) = [entry["Key"] for entry in listed if "/data/" in entry["Key"]]
        body = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
        body[len(body) // 3] ^= 4
        client.put_object(Bucket=bucket, Key=key, Body=bytes(body))
        damaged = f"data/{key.rsplit('/', 1)[1]}"
        reader = await manager.open_backup(backup.backup_id)
        with pytest.raises(BackupCorruptedError, match=damaged) as damage, reader:
            pa.table(reader)
        assert damage.value.failed_files == [damaged]
    assert list((tmp_path / "temporary").iterdir()) == []
