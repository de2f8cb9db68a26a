"""Aliases that change while a restore is under way, and those that a swap with faults has to make."""

from __future__ import annotations

import grpc
import pytest

from milvault import RestoreParams
from tests.faults.proxy import first, refuse
from tests.faults.test_misbehaving_server import backed_up, milvus, proxy, restored, through
from tests.recipes import create, plain

__all__ = ["milvus", "proxy", "through"]  # fixtures

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]


def aliases(milvus, name: str) -> list[str]:
    return sorted(milvus.client.list_aliases(name)["aliases"])


async def test_an_alias_is_where_it_was_put_last(milvus, proxy, through, name, root):
    recipe, other = plain(50), f"{name}_other"
    create(milvus.client, name, recipe)
    create(milvus.client, other, plain(1))
    stays, early, late, new = (f"{name}_{word}" for word in ("stays", "early", "late", "new"))
    for alias in (stays, early, late):
        milvus.client.create_alias(name, alias)

    def while_rows_go_in() -> None:
        milvus.client.alter_alias(other, early)
        milvus.client.create_alias(name, new)

    async with through(proxy.uri) as manager:
        backup = await backed_up(manager, name, root, recipe)
        during = proxy.add("Flush", first(while_rows_go_in))
        between = proxy.add("RenameCollection", first(lambda: milvus.client.alter_alias(other, late)), skip=1)
        await restored(manager, milvus, name, root, backup, recipe)
        assert (during.struck, between.struck) == (1, 1)
    assert aliases(milvus, name) == sorted([stays, new])
    assert aliases(milvus, other) == sorted([early, late])


@pytest.mark.parametrize("taken", [False, True])
async def test_a_second_attempt_at_the_swap_makes_the_backups_aliases(milvus, proxy, through, name, root, taken):
    recipe, alias = plain(50), f"{name}_alias"
    create(milvus.client, name, recipe)
    milvus.client.create_alias(name, alias)
    async with through(proxy.uri) as manager:
        backup = await backed_up(manager, name, root, recipe)
        milvus.client.drop_alias(alias)
        milvus.client.drop_collection(name)
        if taken:
            create(milvus.client, f"{name}_other", plain(1))
            milvus.client.create_alias(f"{name}_other", alias)
        fault = proxy.add("RenameCollection", refuse(grpc.StatusCode.INVALID_ARGUMENT))
        result = await manager.restore_backup(backup.backup_id, name, RestoreParams())
        assert result.success, result.error_message
    assert fault.struck == 1
    assert any("second attempt" in warning for warning in result.warnings)
    assert any(f"alias '{alias}' was not restored" in warning for warning in result.warnings) == taken
    assert aliases(milvus, name) == ([] if taken else [alias])
