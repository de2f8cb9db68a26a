"""Files as the compaction of later servers writes them, which do not say when their rows were written."""

from __future__ import annotations

import pyarrow as pa
import pytest

from milvault import BackupParams
from tests.conftest import Milvus
from tests.native.theirs import make_untimed
from tests.recipes import create, plain

pytestmark = [pytest.mark.server]


@pytest.mark.parametrize("storage_type", ["MILVUS_NATIVE", "LOCAL_FILE"])
async def test_rows_that_came_after_the_moment_are_left_out(storage_type, server: Milvus, native, mirror, name):
    create(server.client, name, plain(300))
    server.client.flush(name)
    server.client.delete(name, ids=list(range(100)))
    server.client.flush(name)
    mirror.refresh()
    make_untimed(mirror.folder)
    async with native(milvus_storage=str(mirror.folder)) as manager:
        made = await manager.create_backup(name, BackupParams(storage_type=storage_type, source="auto"))
        made.raise_for_error()
        assert made.row_count == 200
        with await manager.open_backup(made.backup_id, columns=["id"]) as reader:
            assert sorted(pa.table(reader)["id"].to_pylist()) == list(range(100, 300))
        if storage_type == "MILVUS_NATIVE":
            before = made.metadata.snapshot["timestamp"] - (1 << 18) * 10**7
            with await manager.open_backup(made.backup_id, columns=["id"], as_of=before) as reader:
                assert pa.table(reader).num_rows == 0
        assert (await manager.verify_backup(made.backup_id)).success
