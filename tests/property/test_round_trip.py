"""Collections of any schema and any rows survive server → Parquet → server, bit by bit.

Two witnesses that are not ours: pymilvus says what the server shows before and after, pyarrow what the files hold. A
failing collection is printed whole, with the line that repeats it.
"""

from __future__ import annotations

import itertools
import os
import shutil

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from pymilvus import CollectionSchema, DataType, FieldSchema, MilvusException

from milvault import BackupError, RestoreParams
from tests.backup_files import leftovers
from tests.conftest import SOAK, Milvus
from tests.property.collections import HIGHEST, LITE, SERVER, Drawn, collections
from tests.property.oracle import filed, make, meant, shown
from tests.recipes import Recipe, create, plain, read_all, vector_of

ON_A_SERVER = 12
EXAMPLES = int(os.environ.get("MILVAULT_RANDOM_SCHEMAS", "20000" if SOAK else "300"))
"""How many collections are drawn: most on Milvus Lite, some on Milvus 2.3.5, where one takes seconds."""

_names = (f"random_{number}" for number in itertools.count())


def drawing(examples: int):
    """As many collections as asked; the same ones each time, but with MILVAULT_SOAK=1 others every time."""
    return settings(
        max_examples=examples,
        derandomize=not SOAK,
        database=None,
        deadline=None,
        print_blob=True,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )


async def survives(milvus: Milvus, manager, root, drawn: Drawn) -> None:
    """Makes the collection, backs it up, restores it in its own place, and looks at every stage."""
    name = next(_names)
    client = milvus.client
    try:
        make(client, name, drawn)
        before = shown(client, name, drawn)
        if not drawn.makes_keys:
            assert before == meant(drawn)
        assert len(before) == len(drawn.rows)
        backup = await manager.create_backup(name)
        assert backup.success, backup.error_message
        assert backup.row_count == len(before)
        assert filed(backup.storage_path, drawn) == before
        restored = await manager.restore_backup(
            backup.backup_id, name, RestoreParams(drop_existing=True, load_after_restore=True)
        )
        assert restored.success, restored.error_message
        assert restored.verification_passed is True
        proof = restored.verification_details
        assert proof["digest"] == proof["expected_digest"]
        assert shown(client, name, drawn) == before
        assert milvus.staging() == []
        assert leftovers(root) == []
    finally:
        if client.has_collection(name):
            client.drop_collection(name)
        shutil.rmtree(root / name, ignore_errors=True)


@pytest.mark.timeout(0 if SOAK else 600)
@drawing(max(1, EXAMPLES - EXAMPLES * ON_A_SERVER // 300))
@given(drawn=collections(LITE))
async def test_any_collection_survives_on_lite(lite, manager_on_lite, root, drawn):
    await survives(lite, manager_on_lite, root, drawn)


@pytest.mark.server
@pytest.mark.timeout(0 if SOAK else 600)
@drawing(max(1, EXAMPLES * ON_A_SERVER // 300))
@given(drawn=collections(SERVER))
async def test_any_collection_survives_on_a_server(server, manager_on_server, root, drawn):
    await survives(server, manager_on_server, root, drawn)


@pytest.fixture
async def manager_on_lite(lite, connect):
    async with connect(lite, auto_verify_after_backup=False) as manager:
        yield manager


@pytest.fixture
async def manager_on_server(server, connect):
    async with connect(server, auto_verify_after_backup=False) as manager:
        yield manager


@pytest.mark.server
async def test_a_row_that_a_server_counts_and_never_shows_is_no_quiet_loss(server, connect, name, root):
    # 2.3.5 hides the row with the highest key from every query, its own clients' too.
    create(server.client, name, Recipe(plain(3).fields, [*plain(3).rows, {"id": HIGHEST, "vector": vector_of(1)}]))
    assert HIGHEST not in read_all(server.client, name)
    async with connect(server) as manager:
        result = await manager.create_backup(name)
    assert isinstance(result.error, BackupError)
    assert "4 rows by the server's count, but 3 came" in result.error_message
    assert leftovers(root) == []


NAN, INFINITY = float("nan"), float("inf")
REFUSED = {
    "lite": [
        ("SPARSE_FLOAT_VECTOR", {5: -1.0}),
        ("SPARSE_FLOAT_VECTOR", {5: INFINITY}),
        ("SPARSE_FLOAT_VECTOR", {}),
        ("GEOMETRY", "POINT EMPTY"),
        ("GEOMETRY", "LINESTRING (0 0, 1 1)"),
    ],
    "server": [
        ("FLOAT_VECTOR", [NAN, 1.0]),
        ("FLOAT_VECTOR", [1.0, -INFINITY]),
        ("JSON", [1, 2]),
        ("JSON", 7),
        ("VARCHAR", "é" * 9),
    ],
}
"""Values that the servers do not take, and that therefore are not drawn."""


@pytest.mark.parametrize("kind", ["lite", pytest.param("server", marks=pytest.mark.server)])
def test_what_is_not_drawn_is_refused_by_the_server(request, kind, name):
    milvus = request.getfixturevalue(kind)
    for at, (data_type, value) in enumerate(REFUSED[kind]):
        fields = [FieldSchema("id", DataType.INT64, is_primary=True)]
        more = {"dim": 2} if data_type == "FLOAT_VECTOR" else {"max_length": 16} if data_type == "VARCHAR" else {}
        fields.append(FieldSchema("value", DataType[data_type], **more))
        row = {"id": 1, "value": value}
        if not data_type.endswith("VECTOR"):
            fields.append(FieldSchema("vector", DataType.FLOAT_VECTOR, dim=2))
            row["vector"] = vector_of(1, 2)
        milvus.client.create_collection(f"{name}_{at}", schema=CollectionSchema(fields))
        with pytest.raises(MilvusException):
            milvus.client.insert(f"{name}_{at}", [row])
