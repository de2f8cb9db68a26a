"""Several backups of one collection at once: one is made, the others give way and leave it alone."""

from __future__ import annotations

import asyncio

from milvault import BackupInProgressError, BackupResult
from tests.recipes import create, plain


async def test_who_gives_way_does_not_release_the_collection_under_the_other(milvus, connect, name):
    create(milvus.client, name, plain(3000))
    for _ in range(5):
        milvus.client.release_collection(name)
        async with connect(milvus) as one, connect(milvus) as other:
            calls = (manager.create_backup(name) for manager in (one, other, one))
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
        made = [outcome for outcome in outcomes if isinstance(outcome, BackupResult)]
        assert made, outcomes
        for backup in made:
            backup.raise_for_error()
            assert backup.row_count == 3000
        others = [outcome for outcome in outcomes if not isinstance(outcome, BackupResult)]
        assert all(isinstance(error, BackupInProgressError) for error in others), others
        assert milvus.client.get_load_state(name)["state"].name == "NotLoad"
