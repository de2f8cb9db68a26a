"""Changes a collection only once a verified backup of it is there, and puts it back where the change goes wrong.

MILVAULT_URI=http://localhost:19530 python examples/before_migration.py articles
"""

from __future__ import annotations

import asyncio
import datetime
import sys
from typing import TYPE_CHECKING

from milvault import BackupManager, BackupParams, ConnectionManager, RestoreParams

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


async def migrate(manager: BackupManager, collection_name: str, change: Callable[[str], Awaitable[None]]) -> bool:
    """Runs `change` on a collection under the protection of a backup.

    Args:
        manager: Where backups go.
        collection_name: The collection.
        change: What is to be done to it; raises where it goes wrong.

    Returns:
        Whether the change was made. Where it went wrong, the collection is as it was.
    """
    now = datetime.datetime.now(datetime.timezone.utc)
    backup = await manager.create_backup(
        collection_name, BackupParams(backup_name=f"before_migration_{now:%Y%m%d_%H%M%S}", tags=["migration"])
    )
    if not backup.success or backup.backup_id is None:
        print(f"not migrated, for there is no backup: {backup.error_message}")
        return False
    verified = await manager.verify_backup(backup.backup_id, collection_name)
    if not verified.success:
        print(f"not migrated, for the backup is damaged: {verified.errors}")
        return False
    print(f"backed up and verified: {backup.backup_id}, {backup.row_count:,} rows")
    try:
        await change(collection_name)
    except Exception as error:  # noqa: BLE001 - whatever went wrong, the collection comes back
        print(f"the migration failed ({error}); putting {collection_name} back")
        restored = await manager.restore_backup(
            backup.backup_id, collection_name, RestoreParams(drop_existing=True, load_after_restore=True)
        )
        restored.raise_for_error()
        print(f"{restored.rows_restored:,} rows are back")
        return False
    print("migrated")
    return True


async def fail_after_dropping(collection_name: str) -> None:
    """Stands for a migration with a mistake in it: the collection is gone, and nothing has taken its place."""
    from milvault import CollectionManager

    await CollectionManager(ConnectionManager()).drop_collection(collection_name)
    raise RuntimeError("the new schema was refused")


async def main(collection_name: str) -> None:
    """Shows that a failed migration loses nothing."""
    async with BackupManager(connection_manager=ConnectionManager()) as manager:
        await migrate(manager, collection_name, fail_after_dropping)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    asyncio.run(main(sys.argv[1]))
