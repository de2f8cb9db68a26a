"""Milvus's Insert does not deduplicate: two rows may share a key, `count(*)` counts both, a query shows one."""

from __future__ import annotations

import pytest

from milvault import BackupError, BackupParams, RestoreParams
from tests.backup_files import leftovers, rows_of
from tests.recipes import count, create, expected, fill, plain, read_all


@pytest.fixture
def collection_with_duplicates(server, name):
    recipe = plain(1000)
    create(server.client, name, recipe)
    fill(server.client, name, recipe, [recipe.rows[7], recipe.rows[7], recipe.rows[500]])
    if count(server.client, name) != 1003:
        pytest.fail("this server deduplicates inserts; the test has lost its subject")
    return recipe


async def test_duplicate_keys_fail_the_backup_and_are_named(server, connect, name, root, collection_with_duplicates):
    async with connect(server) as manager:
        result = await manager.create_backup(name)
    assert not result.success
    assert isinstance(result.error, BackupError)
    for word in ("same primary key", "7", "500", "collapse"):
        assert word in result.error_message
    assert leftovers(root) == []


async def test_duplicate_keys_can_be_collapsed_with_a_warning(server, connect, name, collection_with_duplicates):
    async with connect(server) as manager:
        result = await manager.create_backup(name, BackupParams(duplicates="collapse"))
        assert result.success, result.error_message
        assert any("primary key" in warning and "500" in warning for warning in result.warnings)
        assert result.row_count == 1000
        assert rows_of(result.storage_path, collection_with_duplicates) == expected(collection_with_duplicates)
        server.client.drop_collection(name)
        restored = await manager.restore_backup(result.backup_id, name, RestoreParams(load_after_restore=True))
        assert restored.success, restored.error_message
    assert read_all(server.client, name) == expected(collection_with_duplicates)
    assert count(server.client, name) == 1000
