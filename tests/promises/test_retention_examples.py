"""The examples of the contract that apply a retention policy, in words of our own: what would go, and then it goes."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from milvault import BackupManager, BackupParams, BackupRecoveryConfig, BackupType, ConnectionManager
from tests.promises.conftest import Enough

pytestmark = pytest.mark.embedded

STRICT = BackupRecoveryConfig(retention_count=1, retention_days=1, min_backups_to_keep=0)


async def test_a_dry_run_says_what_the_real_one_then_does(collection, tmp_path, capsys):
    # The count is full with one, and the days are over for none: every backup is younger than one day, so all stay.
    config = STRICT.model_copy(update={"local_backup_root_path": str(tmp_path / "backups")})
    async with BackupManager(connection_manager=ConnectionManager(), config=config) as backup_manager:
        made = [(await backup_manager.create_backup("my_collection")).backup_id for _ in range(3)]
        result = await backup_manager.apply_retention_policy(collection_name="my_collection", dry_run=True)
        print(f"{result['backups_to_delete']} would go")
        print(f"{result['storage_to_free_gb']:.2f} GB would be free")
        if result["backups_to_delete"] > 0:
            result = await backup_manager.apply_retention_policy(collection_name="my_collection", dry_run=False)
        gone = result["deleted_backup_ids"]
        print(f"{len(gone)} went")
        assert sorted(made) == sorted([*gone, *(b.backup_id for b in await backup_manager.list_backups())])
        assert set(result["kept"]) == set(made) - set(gone)
        assert all(result["kept"].values())
    assert capsys.readouterr().out.splitlines() == ["0 would go", "0.00 GB would be free", "0 went"]


def test_a_backup_a_day_and_retention_after_it(backup_manager, collection, short_schedule, capsys):
    import time

    import schedule

    async def perform_backup() -> None:
        result = await backup_manager.create_backup(
            collection_name="my_collection",
            params=BackupParams(
                backup_name=f"daily_{datetime.now().strftime('%Y%m%d')}",
                backup_type=BackupType.FULL_COLLECTION,
            ),
        )
        print(f"made: {result.success}")
        applied = await backup_manager.apply_retention_policy(collection_name="my_collection", dry_run=False)
        assert applied["deleted_backup_ids"] == []

    def scheduled_backup() -> None:
        asyncio.run(perform_backup())

    def for_ever() -> None:
        schedule.every().day.at("02:00").do(scheduled_backup)
        while True:
            schedule.run_pending()
            time.sleep(60)

    with pytest.raises(Enough):
        for_ever()
    assert capsys.readouterr().out == "made: True\n"
    (made,) = asyncio.run(backup_manager.list_backups("my_collection"))
    assert made.backup_name == f"daily_{datetime.now().strftime('%Y%m%d')}"
