"""What people and programs hand in, at random: requests, names, settings files. Typed errors, or it works."""

from __future__ import annotations

import copy
import json
import random
import string
import unicodedata
from pathlib import Path

import pytest
from pydantic import ValidationError

from milvault import (
    BackupNotFoundError,
    BackupParams,
    BackupRecoveryConfig,
    BackupRecoveryError,
    BackupStorageError,
    CollectionNotFoundError,
    InvalidArgumentError,
    RestoreParams,
    VerificationParams,
    _core,
)
from milvault._requests import backup_request, restore_request, verify_request
from tests.backup_files import leftovers
from tests.conftest import SOAK
from tests.fuzz.mutate import HOSTILE, json_value, some_bytes
from tests.recipes import create, plain

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600 if SOAK else 120)]

CONFIG = BackupRecoveryConfig(auto_verify_after_backup=False)
REQUESTS = {
    "backup": backup_request("articles", BackupParams(tags=["a"]), CONFIG, 5.0),
    "restore": restore_request("b1", "articles", RestoreParams(partition_names=["p"]), CONFIG, 5.0),
    "verify": verify_request("b1", "articles", VerificationParams(), CONFIG, 5.0),
    "list": {"collection_name": "articles", "database": "default"},
    "get": {"backup": "b1", "collection_name": "articles"},
    "delete": {"backup": "b1", "collection_name": "articles"},
    "describe_collection": {"collection_name": "articles"},
}


def rounds(small: int, full: int) -> int:
    return full if SOAK else small


@pytest.mark.parametrize("operation", REQUESTS)
def test_a_request_at_random_is_answered_with_a_typed_error(operation, tmp_path):
    rng = random.Random(operation)
    server = {"uri": "http://127.0.0.1:9", "label": "nobody", "db_name": "default"}
    session = _core.Session(
        json.dumps({"server": server, "repository": {"root": str(tmp_path), "options": {}}, "max_retries": 0})
    )
    for number in range(rounds(60, 5000)):
        text = json.dumps(json_value(rng, REQUESTS[operation]))
        if number % 4 == 3:
            text = some_bytes(rng, text.encode()).decode("utf-8", "replace")
        job = session.start(operation, text)
        assert job.wait(30), text
        told = json.loads(job.result())
        if "error" in told:
            assert told["error"]["kind"] != "internal", (text, told)
            assert told["error"]["message"]
        else:
            assert operation == "list"
            assert told["ok"] == {"backups": [], "damaged": []}
    session.close()
    assert list(tmp_path.rglob("*")) == []


def test_a_sessions_configuration_at_random_is_refused_or_taken(tmp_path):
    rng = random.Random(1)
    config = {
        "server": {"uri": "http://127.0.0.1:9", "label": "nobody", "token": "x", "db_name": "default"},
        "repository": {"root": str(tmp_path / "backups"), "options": {"aws_endpoint": "http://127.0.0.1:9"}},
        "max_retries": 0,
        "retry_delay_seconds": 0.1,
    }
    for _ in range(rounds(100, 5000)):
        changed = json_value(rng, config)
        if isinstance(changed, dict) and isinstance(changed.get("repository"), dict):
            changed["repository"] = {**changed["repository"], "root": str(tmp_path / "backups")}
        try:
            session = _core.Session(json.dumps(changed))
        except ValueError:  # says what is not right
            continue
        job = session.start("list", "{}")
        assert job.wait(30), changed
        assert json.loads(job.result()).get("error", {}).get("kind") != "internal", changed


def names(rng: random.Random, count: int) -> list[str]:
    """Names that are awkward, hostile or plain."""
    alphabet = [
        *string.ascii_letters,
        *"-_. /\\#:\x00\n\t'\"`$%&*?<>|~",
        "é",
        "e\u0301",
        "🐍",
        "\u202e",
        "\ufeff",
        "字",
    ]
    fixed = [".", "..", "../x", "/etc", "C:\\x", "con", ".hidden", "a" * 255, "a" * 256, "é" * 128, " ", "-rf", "~"]
    return fixed + ["".join(rng.choices(alphabet, k=rng.choice([1, 3, 8, 40]))) for _ in range(count)]


async def test_a_backups_name_at_random_is_refused_or_finds_the_backup_again(lite, connect, name, root):
    create(lite.client, name, plain(3))
    made, refused = {}, {}
    async with connect(lite, auto_verify_after_backup=False) as manager:
        for wanted in dict.fromkeys(names(random.Random(2), rounds(20, 300))):
            try:
                result = await manager.create_backup(name, BackupParams(backup_name=wanted))
            except InvalidArgumentError as error:
                refused[wanted] = str(error)
                continue
            assert result.success, (wanted, result.error_message)
            made[wanted] = result.backup_id
        assert made
        assert all("backup_name" in why for why in refused.values())
        for wanted, backup_id in made.items():
            assert (await manager.get_backup(wanted, name)).backup_id == backup_id
        listed = {backup.backup_name: backup.backup_id for backup in await manager.list_backups(name)}
    assert listed == made
    assert {path.parent for path in root.glob("*/*/metadata.json")} == {root / name / each for each in made.values()}
    assert {path.name for path in root.iterdir()} == {name}
    assert leftovers(root) == []


async def test_a_collection_or_backup_at_random_is_not_found_and_touches_nothing(lite, connect, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "metadata.json").write_text("{}")
    (tmp_path / "backups").mkdir()
    async with connect(lite) as manager:
        for wanted in [*names(random.Random(3), rounds(40, 2000)), "../outside", "outside/../../outside"]:
            for call in (
                manager.get_backup(wanted),
                manager.verify_backup(wanted, wanted),
                manager.delete_backup(wanted, "articles"),
                manager.restore_backup("b20261121T063000Z_3f9a1c", wanted),
            ):
                with pytest.raises((BackupNotFoundError, InvalidArgumentError)):
                    await call
            with pytest.raises((CollectionNotFoundError, InvalidArgumentError, BackupRecoveryError)) as failure:
                (await manager.create_backup(wanted)).raise_for_error()
            assert failure.value.kind != "internal", wanted
            assert not isinstance(failure.value, BackupStorageError), wanted
    assert {path.name for path in tmp_path.iterdir()} - {"embedded.db"} == {"outside", "backups"}
    assert [path.name for path in outside.iterdir()] == ["metadata.json"]


def test_a_settings_file_at_random_is_refused_or_loaded(tmp_path):
    yaml = pytest.importorskip("yaml")
    rng = random.Random(5)
    settings = {
        "local_backup_root_path": "./x",
        "compression_level": 3,
        "storage_options": {"aws_endpoint": "http://store"},
        "checksum_algorithm": "MD5",
        "retry_transient_errors": True,
        "default_backup_timeout": 5.5,
        "milvus_storage": {"url": "s3://milvus/files", "options": {"aws_region": "x"}},
    }
    file, loaded = Path(tmp_path, "settings.yaml"), 0
    hostile = ["&a [*a]", "!!python/object:os.system {}", "a: &a [*a, *a]", "? [1]\n: 2", "%YAML 9.9\n---", "- " * 3000]
    texts = [yaml.safe_dump(settings), *hostile, *(f"compression_level: {json.dumps(value)}" for value in HOSTILE)]
    for number in range(rounds(300, 20_000)):
        if number < len(texts):
            content = texts[number].encode()
        elif number % 2:
            content = some_bytes(rng, texts[0].encode())
        else:
            content = json.dumps(json_value(rng, copy.deepcopy(settings))).encode()
        file.write_bytes(content)
        try:
            config = BackupRecoveryConfig.load(file)
        except (ValidationError, InvalidArgumentError):
            continue
        loaded += 1
        assert 1 <= config.compression_level <= 9
        assert unicodedata.normalize("NFC", repr(config))
    assert loaded > 10
