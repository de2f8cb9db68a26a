"""The retention policy through the whole package, against its rules applied by hand to one backup at a time."""

from __future__ import annotations

import datetime as dt
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from milvault import BackupManager, BackupRecoveryConfig, InvalidArgumentError
from tests.conftest import files_under
from tests.manifests import manifest, put

UTC = dt.timezone.utc
NOTHING = {
    "retention_count": 0,
    "retention_days": 0,
    "min_backups_to_keep": 0,
    "retention_daily": 0,
    "retention_weekly": 0,
    "retention_monthly": 0,
    "retention_tags": [],
}


@dataclass
class Made:
    """One backup, as the oracle sees it."""

    created_at: dt.datetime
    number: int
    verified: bool | None = None
    tags: list[str] = field(default_factory=list)
    collection: str = "articles"
    partitions: list[str] | None = None
    """Those that it holds by themselves; `None` for the whole collection."""

    @property
    def order(self) -> tuple[dt.datetime, str]:
        return (self.created_at, self.backup_id)

    @property
    def backup_id(self) -> str:
        return f"b{self.created_at:%Y%m%dT%H%M%SZ}_{self.number:06x}"

    def put(self, root: Path) -> Path:
        parts = {} if self.partitions is None else {"partition_names": self.partitions, "backup_type": "PARTITION"}
        made = manifest(self.created_at, self.number, self.collection, tags=self.tags, **parts)
        return put(root, made, self.verified)


def newest_of_period(one: Made, past: list[Made], count: int, period: Callable[[dt.datetime], tuple[int, ...]]) -> bool:
    sound = [other for other in past if other.verified is not False]
    mine = period(one.created_at)
    later = {period(other.created_at) for other in sound if period(other.created_at) > mine}
    rivals = [other for other in sound if period(other.created_at) == mine]
    return one in sound and one.order == max(other.order for other in rivals) and len(later) < count


def stays(one: Made, everything: list[Made], policy: dict, now: dt.datetime) -> bool:
    """The rules, for one backup."""
    if one.created_at > now:
        return True
    past = [other for other in everything if other.created_at <= now and other.collection == one.collection]
    ahead = sum(other.order > one.order and other.verified is not False for other in past)
    whole = [other.order for other in past if other.verified]
    full = [other.order for other in past if other.verified and other.partitions is None]
    return (
        ahead < max(policy["retention_count"], policy["min_backups_to_keep"])
        or bool(policy["retention_days"] and now - one.created_at <= dt.timedelta(days=policy["retention_days"]))
        or bool(set(one.tags) & set(policy["retention_tags"]))
        or newest_of_period(one, past, policy["retention_daily"], lambda t: (t.year, t.month, t.day))
        or newest_of_period(one, past, policy["retention_weekly"], lambda t: t.isocalendar()[:2])
        or newest_of_period(one, past, policy["retention_monthly"], lambda t: (t.year, t.month))
        or (bool(whole) and one.order == max(whole))
        or (bool(full) and one.order == max(full))
        or holds_what_no_newer_one_does(one, past)
    )


def holds_what_no_newer_one_does(one: Made, past: list[Made]) -> bool:
    newer = [other for other in past if other.verified is not False and other.order > one.order]
    if one.verified is False or any(other.partitions is None for other in newer):
        return False
    held = {name for other in newer for name in other.partitions}
    return one.partitions is None or not set(one.partitions) <= held


def random_backups(chance: random.Random, now: dt.datetime) -> list[Made]:
    made = []
    for number in range(chance.randrange(25)):
        hours = chance.choice([chance.uniform(-50, 0), chance.uniform(0, 200), chance.uniform(0, 4000)])
        # A minute's distance from any border that the clock could cross while the test runs.
        created_at = (now - dt.timedelta(hours=hours)).replace(second=30, microsecond=0)
        verified = chance.choice([None, None, True, False])
        tags = chance.choice([[], [], ["audit"], ["nightly"], ["audit", "nightly"]])
        parts = chance.choice([None, ["2025"], ["2026"], ["2026"], ["2025", "2026"], []])
        made.append(Made(created_at, number, verified, tags, chance.choice(["articles", "films"]), parts))
    return made


@pytest.mark.parametrize("seed", range(30))
async def test_a_plan_is_what_the_rules_say_of_each_backup_and_is_carried_out(root, seed):
    chance = random.Random(seed)
    now = dt.datetime.now(UTC)
    made = random_backups(chance, now)
    folders = {one.backup_id: one.put(root) for one in made}
    few = {name: chance.choice([0, 0, 1, 2, 3, 5]) for name in NOTHING}
    policy = {**few, "retention_tags": chance.choice([[], ["audit"]])}
    expected = {one.backup_id for one in made if stays(one, made, policy, now)}
    before = files_under(root) if made else {}
    async with BackupManager.connect(None, root) as manager:
        plan = await manager.apply_retention_policy(dry_run=True, **policy)
        assert set(plan["kept"]) == expected
        assert all(plan["kept"].values())
        assert plan["backups_to_delete"] == len(made) - len(expected)
        assert plan["storage_to_free_gb"] == pytest.approx(len(made) - len(expected))
        assert plan["deleted_backup_ids"] == []
        assert (files_under(root) if made else {}) == before
        done = await manager.apply_retention_policy(**policy)
        assert set(done["deleted_backup_ids"]) == set(folders) - expected
        assert {**done, "deleted_backup_ids": [], "dry_run": True} == plan
        assert {backup.backup_id for backup in await manager.list_backups()} == expected
    assert {name for name, folder in folders.items() if folder.exists()} == expected


def daily(count: int, **changes) -> list[Made]:
    noon = dt.datetime.now(UTC).replace(microsecond=0) - dt.timedelta(minutes=1)
    return [Made(noon - dt.timedelta(days=number), number, **changes) for number in range(count)]


async def test_the_settings_of_the_manager_are_the_policy(root):
    made = daily(60)
    for one in made:
        one.put(root)
    config = BackupRecoveryConfig(
        local_backup_root_path=root, retention_count=2, retention_days=1, min_backups_to_keep=4, retention_tags=["x"]
    )
    async with BackupManager(config=config) as manager:
        result = await manager.apply_retention_policy(collection_name="articles", dry_run=True)
        assert result["backups_to_delete"] == 56
        assert result["storage_to_free_gb"] == pytest.approx(56.0)
        result = await manager.apply_retention_policy(collection_name="articles", dry_run=False)
        assert len(result["deleted_backup_ids"]) == 56
    assert sorted(path.name for path in (root / "articles").iterdir()) == sorted(one.backup_id for one in made[:4])


async def test_the_defaults_keep_ten_or_thirty_days(root):
    for one in daily(50):
        one.put(root)
    for one in daily(12):
        Made(one.created_at - dt.timedelta(days=100), one.number + 100, collection="films").put(root)
    async with BackupManager.connect(None, root) as manager:
        plan = await manager.apply_retention_policy(dry_run=True)
        assert len([one for one in plan["planned"] if one["collection_name"] == "articles"]) == 50 - 30
        assert len([one for one in plan["planned"] if one["collection_name"] == "films"]) == 12 - 10
        alone = await manager.apply_retention_policy("films", dry_run=True)
        assert alone["backups_to_delete"] == 2
        assert all(one["collection_name"] == "films" for one in alone["planned"])


async def test_every_reason_is_told(root):
    made = daily(3)
    made[2].tags, made[1].verified = ["audit"], True
    for one in made:
        one.put(root)
    Made(made[0].created_at + dt.timedelta(days=400), 99).put(root)
    rules = {**NOTHING, "retention_count": 1, "retention_daily": 1, "retention_tags": ["audit"]}
    async with BackupManager.connect(None, root) as manager:
        kept = (await manager.apply_retention_policy("articles", dry_run=True, **rules))["kept"]
    reasons = [kept[one.backup_id] for one in made]
    day = f"{made[0].created_at:%Y-%m-%d}"
    assert reasons[0] == f"one of the 1 newest; the newest of the day {day}; the newest of the whole collection"
    assert reasons[1:] == ["the newest that is verified", "tagged 'audit'".replace("'", '"')]
    assert "its time lies in the future" in kept.values()


async def test_only_completed_backups_count(root):
    made = daily(6)
    for one in made:
        one.put(root)
    newest = made[0].created_at
    put(root, manifest(newest, 50, "articles", state="FAILED"))
    put(root, manifest(newest, 51, "articles", state="DELETING"))
    (put(root, manifest(newest, 52, "articles")) / "metadata.json").write_text("{}")
    (root / "articles" / Made(newest, 53).backup_id / "data").mkdir(parents=True)
    (root / "articles" / Made(newest, 53).backup_id / "data" / "p-00000.parquet").write_bytes(b"rows")
    rules = {**NOTHING, "retention_count": 2}
    async with BackupManager.connect(None, root) as manager:
        plan = await manager.apply_retention_policy("articles", dry_run=True, **rules)
        assert set(plan["kept"]) == {one.backup_id for one in made[:2]}
        done = await manager.apply_retention_policy("articles", **rules)
    assert set(done["deleted_backup_ids"]) == {one.backup_id for one in made[2:]}
    alone = {Made(newest, number).backup_id: why for number, why in ((51, "begun"), (52, "read"), (53, "unfinished"))}
    assert set(plan["left_alone"]) == set(alone)
    assert all(why in plan["left_alone"][name] for name, why in alone.items())
    left = {path.name for path in (root / "articles").iterdir()}
    # What somebody began to delete is gone now; what nobody can judge is there.
    assert left == set(plan["kept"]) | {Made(newest, number).backup_id for number in (50, 52, 53)}


async def test_the_last_verified_backup_is_never_deleted(root):
    made = daily(40)
    made[35].verified = True
    made[38].verified = True
    for one in made:
        one.put(root)
    async with BackupManager.connect(None, root) as manager:
        for _ in range(2):
            await manager.apply_retention_policy("articles", **NOTHING)
        left = [backup.backup_id for backup in await manager.list_backups()]
        assert left == [made[0].backup_id, made[35].backup_id]


async def test_the_last_backup_of_a_partition_or_of_the_whole_is_never_deleted(root):
    made = [*daily(40, partitions=["2026"], verified=True), *daily(4, partitions=["2025"])]
    for number, one in enumerate(made[40:]):
        one.created_at -= dt.timedelta(days=100 + 100 * number)
        one.number = 100 + number
    made[42].partitions = made[43].partitions = None  # the last two of the whole collection, never verified
    for one in made:
        one.put(root)
    async with BackupManager.connect(None, root) as manager:
        kept = (await manager.apply_retention_policy("articles", **{**NOTHING, "retention_count": 1}))["kept"]
        assert {backup.backup_id for backup in await manager.list_backups()} == set(kept)
    assert list(kept) == sorted(made[number].backup_id for number in (0, 40, 42))
    assert kept[made[40].backup_id] == 'the newest of partition "2025"'
    assert kept[made[42].backup_id] == "the newest of the whole collection"


async def test_policies_of_databases_do_not_mix(root):
    for number, database in enumerate(("default", "shop", "default", "shop")):
        created_at = dt.datetime.now(UTC) - dt.timedelta(days=100 + number)
        put(root, manifest(created_at, number, "articles", database=database))
    rules = {**NOTHING, "retention_count": 1}
    async with BackupManager.connect(None, root) as manager:
        assert (await manager.apply_retention_policy(dry_run=True, **rules))["backups_to_delete"] == 2
        plan = await manager.apply_retention_policy("articles", dry_run=True, database="shop", **rules)
        assert [one["database"] for one in plan["planned"]] == ["shop"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"retention_count": -1},
        {"retention_days": 1.5},
        {"min_backups_to_keep": True},
        {"retention_weekly": 2**63},
        {"retention_tags": "audit"},
        {"collection_name": ""},
        {"collection_name": "../articles"},
    ],
)
async def test_a_policy_that_cannot_be_right_deletes_nothing(root, wrong):
    for one in daily(3):
        one.put(root)
    before = files_under(root)
    async with BackupManager.connect(None, root) as manager:
        with pytest.raises(InvalidArgumentError):
            await manager.apply_retention_policy(**{**NOTHING, **wrong})
    assert files_under(root) == before


async def test_a_backups_folder_that_is_a_link_is_not_followed(root):
    made = daily(4)
    folders = [one.put(root) for one in made]
    elsewhere = root.parent / "elsewhere"
    shutil.move(folders[3], elsewhere)
    folders[3].symlink_to(elsewhere)
    async with BackupManager.connect(None, root) as manager:
        done = await manager.apply_retention_policy("articles", **{**NOTHING, "retention_count": 1})
    assert set(done["deleted_backup_ids"]) == {one.backup_id for one in made[1:3]}
    assert (elsewhere / "metadata.json").exists()


async def test_due_for_a_deep_verification(root):
    now = dt.datetime.now(UTC)
    ages = {1: 1.0, 2: 6.9, 3: 7.1, 4: 400.0, 5: None, 6: -30.0, 7: -0.5}
    for number, age in ages.items():
        folder = put(root, manifest(now - dt.timedelta(days=number), number, "articles"))
        note = {"success": True, "verification_type": "CHECKSUM", "verified_at": now.isoformat()}
        if age is not None:
            deep = {"verified_at": (now - dt.timedelta(days=age)).isoformat(), "success": True}
            note["by_type"] = {"DEEP": deep, "CHECKSUM": {"verified_at": now.isoformat(), "success": True}}
        (folder / "verification.json").write_text(json.dumps(note))
    async with BackupManager.connect(None, root) as manager:
        due = {backup.backup_name for backup in await manager.verify_due("articles")}
        assert due == {f"articles_{number}" for number in (3, 4, 5, 6)}
        due = {backup.backup_name for backup in await manager.verify_due(interval_days=30)}
        assert due == {f"articles_{number}" for number in (4, 5, 6)}
        with pytest.raises(InvalidArgumentError):
            await manager.verify_due(interval_days=-1)
