"""Files that Milvus left of an upload that it tried again: in some fields' folders there are more than in others."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from milvault import BackupParams, RestoreParams, VerificationParams
from tests.conftest import Milvus
from tests.recipes import create, plain, read_all

pytestmark = [pytest.mark.server]

ROW_ID, TIMESTAMP, KEY, VECTOR = 0, 1, 100, 101


def leave_over(files: list[Path], fields: set[int]) -> None:
    """Puts a file beside each of these fields' that says it holds other rows, as the first try of an upload does."""
    for file in files:
        if int(file.parent.name) in fields:
            again = bytearray(file.read_bytes())
            again[53] ^= 1  # the earliest timestamp
            (file.parent / str(int(file.name) + 1_000_000)).write_bytes(again)


@pytest.mark.parametrize(
    "fields",
    [{ROW_ID, TIMESTAMP, KEY}, {TIMESTAMP, KEY}, {KEY, VECTOR}, {VECTOR}],
    ids=["all but vectors", "keys and timestamps", "keys and vectors", "vectors"],
)
async def test_whichever_fields_have_them_they_are_no_rows(fields, server: Milvus, native, mirror, connect, name):
    create(server.client, name, plain(300))
    server.client.flush(name)
    living = read_all(server.client, name)
    mirror.refresh()
    leave_over(mirror.files(server.client.describe_collection(name)["collection_id"]), fields)
    async with native(milvus_storage=str(mirror.folder)) as manager, connect(server) as by_queries:
        for storage_type in ("MILVUS_NATIVE", "LOCAL_FILE"):
            for duplicates in ("fail", "collapse"):
                how = BackupParams(storage_type=storage_type, source="auto", duplicates=duplicates)
                made = await manager.create_backup(name, how)
                made.raise_for_error()
                assert made.row_count == 300
                assert "timestamp" in made.metadata.snapshot
                for columns in (["id"], ["vector"], ["id", "vector"]):
                    with await manager.open_backup(made.backup_id, columns=columns) as reader:
                        assert pa.table(reader).num_rows == 300
        moment = next(one for one in await manager.list_backups(name) if one.storage_type == "MILVUS_NATIVE")
        # An earlier moment is looked at anew for rows that share a key.
        at = moment.snapshot["timestamp"] - 1
        with await manager.open_backup(moment.backup_id, as_of=at) as reader:
            assert pa.table(reader).num_rows == 300
        whole = VerificationParams(verification_type="QUICK", sample_size=100.0)
        assert (await manager.verify_backup(moment.backup_id, params=whole)).success
        params = RestoreParams(target_collection_name=f"{name}_back", via="INSERT")
        (await by_queries.restore_backup(moment.backup_id, params=params)).raise_for_error()
    server.client.load_collection(f"{name}_back")
    assert read_all(server.client, f"{name}_back") == living
