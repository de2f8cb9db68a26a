"""Models: their defaults, their ranges, and what they show."""

import datetime
import json
import pickle
import traceback

import pytest
from pydantic import ValidationError

from milvault import (
    BackupManager,
    BackupMetadata,
    BackupParams,
    BackupRecoveryConfig,
    BackupResult,
    BackupState,
    BackupStorageType,
    BackupType,
    ChecksumAlgorithm,
    ConnectionManager,
    InsufficientStorageError,
    InvalidArgumentError,
    LinkPolicy,
    RestoreParams,
    RestoreResult,
    VerificationParams,
    VerificationResult,
    VerificationType,
    enums,
)
from milvault.results import BackupList

from .fake_core import METADATA, VERIFICATION


def test_config_has_the_documented_defaults():
    assert BackupRecoveryConfig().model_dump() == {
        "default_storage_type": BackupStorageType.LOCAL_FILE,
        "local_backup_root_path": "./milvus_backups",
        "storage_options": {},
        "read_only": False,
        "journal_root": None,
        "milvus_backup_bucket": None,
        "milvus_storage": None,
        "milvus_management": None,
        "link": LinkPolicy.NEVER,
        "default_chunk_size_mb": 256,
        "max_concurrent_chunks": 4,
        "compression_enabled": True,
        "compression_level": 6,
        "enable_checksum_verification": True,
        "checksum_algorithm": ChecksumAlgorithm.SHA256,
        "deep_verification_interval_days": 7,
        "auto_verify_after_backup": True,
        "auto_verify_before_restore": True,
        "default_backup_timeout": 3600.0,
        "default_restore_timeout": 3600.0,
        "verification_timeout": 1800.0,
        "retention_count": 10,
        "retention_days": 30,
        "min_backups_to_keep": 3,
        "retention_daily": 0,
        "retention_weekly": 0,
        "retention_monthly": 0,
        "retention_tags": [],
        "retry_transient_errors": True,
        "max_retries": 3,
        "retry_delay_seconds": 5.0,
        "progress_poll_interval": 2.0,
        "bandwidth_limit_mib": None,
    }


def test_params_have_the_documented_defaults():
    assert BackupParams().model_dump() == {
        "backup_type": BackupType.FULL_COLLECTION,
        "partition_names": [],
        "compression_enabled": True,
        "compression_level": 6,
        "chunk_size_mb": 256,
        "include_indexes": True,
        "backup_name": None,
        "tags": [],
        "storage_type": None,
        "base": None,
        "resume": True,
        "duplicates": "fail",
        "source": "auto",
        "link": LinkPolicy.NEVER,
        "prove_stable": False,
        "bandwidth_limit_mib": None,
    }
    restore = RestoreParams().model_dump()
    assert (
        restore
        | {
            "target_collection_name": None,
            "partition_names": [],
            "verify_before_restore": True,
            "drop_existing": False,
            "load_after_restore": False,
            "restore_indexes": True,
            "skip_failed_partitions": False,
        }
        == restore
    )
    assert VerificationParams().model_dump() == {
        "verification_type": VerificationType.CHECKSUM,
        "sample_size": 10.0,
        "seed": None,
        "fail_fast": True,
        "verify_checksums": True,
        "verify_schema": True,
        "verify_data_integrity": True,
        "deep_verify_row_count": True,
    }


@pytest.mark.parametrize(
    ("model", "field", "value", "wanted"),
    [
        (BackupRecoveryConfig, "compression_level", 0, "from 1 to 9"),
        (BackupRecoveryConfig, "compression_level", 10, "from 1 to 9"),
        (BackupRecoveryConfig, "default_chunk_size_mb", 0, "greater than 0"),
        (BackupRecoveryConfig, "max_concurrent_chunks", -1, "greater than 0"),
        (BackupRecoveryConfig, "default_backup_timeout", 0, "greater than 0"),
        (BackupRecoveryConfig, "max_retries", -1, "0 or more"),
        (BackupParams, "compression_level", 10, "from 1 to 9"),
        (BackupParams, "chunk_size_mb", 0, "greater than 0"),
        (VerificationParams, "sample_size", 0, "greater than 0 and at most 100"),
        (VerificationParams, "sample_size", 100.5, "greater than 0 and at most 100"),
        (BackupRecoveryConfig, "default_restore_timeout", -1, "greater than 0"),
        (BackupRecoveryConfig, "verification_timeout", 0, "greater than 0"),
        (BackupRecoveryConfig, "retention_count", 0, "greater than 0"),
        (BackupRecoveryConfig, "retention_days", 0, "greater than 0"),
        (BackupRecoveryConfig, "min_backups_to_keep", -1, "0 or more"),
        (BackupRecoveryConfig, "retry_delay_seconds", -0.1, "0 or more"),
        (BackupRecoveryConfig, "progress_poll_interval", 0, "greater than 0"),
        (BackupRecoveryConfig, "deep_verification_interval_days", 0, "greater than 0"),
        (BackupRecoveryConfig, "bandwidth_limit_mib", 0, "greater than 0"),
        (BackupParams, "bandwidth_limit_mib", -1, "greater than 0"),
        (RestoreParams, "bandwidth_limit_mib", 0, "greater than 0"),
        (RestoreParams, "batch_rows", 0, "greater than 0"),
    ],
)
def test_a_value_out_of_range_is_refused_with_field_and_range(model, field, value, wanted):
    with pytest.raises(ValidationError) as caught:
        model(**{field: value})
    assert field in str(caught.value)
    assert wanted in str(caught.value)


@pytest.mark.parametrize(
    ("model", "field", "value"),
    [
        (BackupRecoveryConfig, "compression_level", 1),
        (BackupRecoveryConfig, "compression_level", 9),
        (BackupRecoveryConfig, "min_backups_to_keep", 0),
        (VerificationParams, "sample_size", 100),
        (VerificationParams, "sample_size", 0.1),
    ],
)
def test_a_value_at_the_edge_of_its_range_is_taken(model, field, value):
    assert getattr(model(**{field: value}), field) == value


@pytest.mark.parametrize("model", [BackupRecoveryConfig, BackupParams, RestoreParams, VerificationParams])
def test_a_mistyped_name_is_refused(model):
    with pytest.raises(ValidationError, match="compresion"):
        model(compresion=True)


def test_a_partition_backup_needs_names_and_a_full_one_takes_none():
    with pytest.raises(ValidationError, match="partition_names"):
        BackupParams(backup_type="PARTITION")
    with pytest.raises(ValidationError, match=r"backup_type=BackupType\.PARTITION"):
        BackupParams(partition_names=["a"])
    assert BackupParams(backup_type="PARTITION", partition_names=["a"]).partition_names == ["a"]


def test_params_do_not_change_under_a_running_job():
    with pytest.raises(ValidationError, match="frozen"):
        BackupParams().tags = ["x"]


def test_enums_have_values_that_equal_their_names_and_print_as_them():
    words = [each for each in vars(enums).values() if isinstance(each, type) and issubclass(each, enums._Word)]
    members = [member for word in words for member in word]
    assert len(members) > 20
    for member in members:
        assert member.value == member.name == str(member) == f"{member}"
        assert member == member.name


def test_metadata_reads_a_manifest_and_keeps_keys_it_does_not_know():
    metadata = BackupMetadata.model_validate(METADATA)
    assert metadata.created_at == datetime.datetime(2026, 11, 21, 6, 30, tzinfo=datetime.timezone.utc)
    assert metadata.database == "default"
    assert metadata.snapshot == {"kind": "fuzzy"}
    assert metadata.to_dict()["tool_version"] == "0.1.0"
    assert (metadata.size_mb, metadata.compressed_size_mb, metadata.compression_ratio) == (3.0, 1.0, 3.0)
    assert (metadata.is_full_backup, metadata.is_partition_backup, metadata.is_completed) == (True, False, True)


def test_a_state_that_only_the_manifest_knows_is_not_whole():
    metadata = BackupMetadata.model_validate({**METADATA, "state": "DELETING"})
    assert metadata.state is BackupState.FAILED
    assert not metadata.is_completed


def test_metadata_without_a_size_of_files_has_no_ratio():
    metadata = BackupMetadata.model_validate({**METADATA, "compressed_size_bytes": None})
    assert metadata.compression_ratio is None
    assert metadata.compressed_size_mb is None


def test_metadata_refuses_a_time_without_a_zone_and_turns_others_to_utc():
    with pytest.raises(ValidationError, match="time zone"):
        BackupMetadata.model_validate({**METADATA, "created_at": "2026-11-21T06:30:00"})
    metadata = BackupMetadata.model_validate({**METADATA, "created_at": "2026-11-21T08:30:00+02:00"})
    assert metadata.created_at.isoformat() == "2026-11-21T06:30:00+00:00"


def results():
    metadata = BackupMetadata.model_validate(METADATA)
    return [
        metadata,
        VerificationResult.model_validate(VERIFICATION),
        BackupResult(success=True, collection_name="articles", state="COMPLETED", metadata=metadata, row_count=1797),
        RestoreResult(success=True, backup_id=metadata.backup_id, rows_restored=1797),
    ]


@pytest.mark.parametrize("result", results(), ids=lambda result: type(result).__name__)
def test_results_are_frozen_json_ready_picklable_and_short_to_read(result):
    with pytest.raises(ValidationError, match="frozen"):
        result.success = False
    assert json.loads(json.dumps(result.to_dict())) == result.to_dict()
    assert pickle.loads(pickle.dumps(result)) == result
    assert repr(result).startswith(f"{type(result).__name__}(")
    assert len(repr(result)) < 400
    assert "<table>" in result._repr_html_()


def test_to_dict_holds_derived_values():
    metadata, verification, backup, restore = results()
    assert metadata.to_dict()["size_mb"] == 3.0
    assert verification.to_dict()["has_errors"] is False
    assert backup.to_dict()["metadata"]["backup_id"] == metadata.backup_id
    assert backup.to_dict()["error"] is None
    assert restore.to_dict()["execution_time_seconds"] == 0.0


def test_a_failed_result_carries_its_typed_error():
    error = InsufficientStorageError("no room", required_bytes=10, available_bytes=1)
    result = BackupResult(
        success=False, collection_name="a", state=BackupState.FAILED, error_message=str(error), error=error
    )
    with pytest.raises(InsufficientStorageError) as caught:
        result.raise_for_error()
    assert caught.value is error
    assert result.to_dict()["error"]["required_bytes"] == 10
    assert "no room" in repr(result)
    restored = pickle.loads(pickle.dumps(result))
    assert isinstance(restored.error, InsufficientStorageError)


def test_a_good_result_raises_nothing():
    BackupResult(success=True, collection_name="a", state=BackupState.COMPLETED).raise_for_error()


def test_html_escapes_what_people_named():
    evil = "<script>alert('x')</script>"
    metadata = BackupMetadata.model_validate({**METADATA, "backup_name": evil, "tags": [evil]})
    for html in (metadata._repr_html_(), BackupList([metadata])._repr_html_()):
        assert "<script>" not in html
        assert "&lt;script&gt;" in html


def test_config_loads_arguments_over_environment_over_yaml_over_defaults(tmp_path, monkeypatch):
    file = tmp_path / "milvault.yaml"
    file.write_text("compression_level: 2\nretention_count: 5\nmax_retries: 7\n")
    monkeypatch.setenv("MILVAULT_COMPRESSION_LEVEL", "3")
    monkeypatch.setenv("MILVAULT_RETENTION_COUNT", "6")
    monkeypatch.setenv("MILVAULT_ROOT", "/elsewhere")
    config = BackupRecoveryConfig.load(file, compression_level=4, checksum_algorithm=None)
    assert (config.compression_level, config.retention_count, config.max_retries) == (4, 6, 7)
    assert config.retention_days == 30
    assert config.local_backup_root_path == "/elsewhere"


def test_every_setting_is_read_from_its_environment_variable(monkeypatch):
    given = {
        "default_storage_type": "MILVUS_NATIVE",
        "local_backup_root_path": "s3://bucket/prefix",
        "storage_options": '{"aws_endpoint": "http://store"}',
        "read_only": "true",
        "journal_root": "/var/lib/milvault",
        "milvus_backup_bucket": "backups",
        "milvus_storage": '{"url": "s3://milvus/files", "options": {"aws_secret_access_key": "hunter2"}}',
        "milvus_management": "http://milvus:9091",
        "link": "HARDLINK",
        "default_chunk_size_mb": "17",
        "max_concurrent_chunks": "3",
        "compression_enabled": "false",
        "compression_level": "9",
        "enable_checksum_verification": "0",
        "checksum_algorithm": "BLAKE2B",
        "deep_verification_interval_days": "2",
        "auto_verify_after_backup": "no",
        "auto_verify_before_restore": "off",
        "default_backup_timeout": "1.5",
        "default_restore_timeout": "2.5",
        "verification_timeout": "3.5",
        "retention_count": "4",
        "retention_days": "5",
        "min_backups_to_keep": "0",
        "retention_daily": "6",
        "retention_weekly": "7",
        "retention_monthly": "8",
        "retention_tags": "keep, for-ever",
        "retry_transient_errors": "False",
        "max_retries": "7",
        "retry_delay_seconds": "0.25",
        "progress_poll_interval": "0.5",
        "bandwidth_limit_mib": "12.5",
    }
    assert set(given) == set(BackupRecoveryConfig.model_fields)
    for field, text in given.items():
        monkeypatch.setenv(f"MILVAULT_{field.upper()}", text)
    config = BackupRecoveryConfig.load()
    defaults = BackupRecoveryConfig()
    assert [field for field in given if getattr(config, field) == getattr(defaults, field)] == []
    assert config.storage_options["aws_endpoint"].get_secret_value() == "http://store"
    assert config.milvus_storage.options["aws_secret_access_key"].get_secret_value() == "hunter2"
    assert "hunter2" not in repr(config)
    assert (config.auto_verify_after_backup, config.min_backups_to_keep, config.bandwidth_limit_mib) == (False, 0, 12.5)


async def test_a_manager_without_a_config_takes_what_the_environment_says(tmp_path, monkeypatch, core):
    file = tmp_path / "milvault.yaml"
    file.write_text("max_retries: 1\nretention_count: 5\n")
    for name, text in (
        ("CONFIG", str(file)),
        ("ROOT", "/from/environment"),
        ("READ_ONLY", "true"),
        ("MAX_RETRIES", "7"),
        ("STORAGE_OPTIONS", '{"aws_endpoint": "http://store"}'),
    ):
        monkeypatch.setenv(f"MILVAULT_{name}", text)
    uri = "http://127.0.0.1:19530"
    managers = [
        BackupManager(ConnectionManager(uri), session_factory=core),
        BackupManager.connect(uri, session_factory=core),
        BackupManager.connect(uri, tmp_path, storage_options={}, session_factory=core),
        BackupManager.connect(uri, config=BackupRecoveryConfig(retention_count=3), session_factory=core),
    ]
    for manager in managers:
        await manager.list_backups()
    said = {"root": "/from/environment", "options": {"aws_endpoint": "http://store"}, "read_only": True}
    given = {"root": str(tmp_path), "options": {}, "read_only": True}
    plain = {"root": "./milvus_backups", "options": {}}
    assert [made["repository"] for made in core.configs] == [said, said, given, plain]
    assert [made["max_retries"] for made in core.configs] == [7, 7, 7, 3]
    assert [manager.config.retention_count for manager in managers] == [5, 5, 5, 3]


def test_what_the_environment_says_wrongly_is_told_where_a_manager_is_made(monkeypatch):
    monkeypatch.setenv("MILVAULT_MAX_RETRIES", "-1")
    for make in (BackupManager, lambda: BackupManager.connect(None)):
        with pytest.raises(ValidationError, match="max_retries"):
            make()
    assert BackupManager.connect(None, config=BackupRecoveryConfig()).config.max_retries == 3
    monkeypatch.setenv("MILVAULT_CONFIG", "not there.yaml")
    with pytest.raises(InvalidArgumentError, match="not there"):
        BackupManager()


def test_a_variable_that_is_out_of_range_names_the_field_and_one_that_is_empty_is_not_set(monkeypatch):
    monkeypatch.setenv("MILVAULT_COMPRESSION_LEVEL", "12")
    with pytest.raises(ValidationError, match=r"(?s)compression_level.*from 1 to 9"):
        BackupRecoveryConfig.load()
    monkeypatch.setenv("MILVAULT_COMPRESSION_LEVEL", "")
    assert BackupRecoveryConfig.load().compression_level == 6


def test_the_file_can_be_named_by_the_environment(tmp_path, monkeypatch):
    file = tmp_path / "milvault.yaml"
    file.write_text("retention_count: 5\nmilvus_storage: {url: /var/lib/milvus}\n")
    monkeypatch.setenv("MILVAULT_CONFIG", str(file))
    assert BackupRecoveryConfig.load().retention_count == 5
    assert BackupRecoveryConfig.load().milvus_storage.url == "/var/lib/milvus"
    other = tmp_path / "other.yaml"
    other.write_text("retention_count: 6\n")
    assert BackupRecoveryConfig.load(other).retention_count == 6


@pytest.mark.parametrize(
    "text",
    [
        "storage_options: {aws_secret_access_key: hunter2",
        "storage_options:\n  aws_secret_access_key: hunter2\n token: x",
        "storage_options: hunter2\n",
        "storage_options: {aws_secret_access_key: [hunter2]}\n",
        "aws_secret_access_key: hunter2\n",
        "local_backup_root_path: s3://key:hunter2@bucket/prefix\n",
        "local_backup_root_path: az://container/prefix?sig=hunter2\n",
        "milvus_storage: {url: 's3://hunter2@bucket'}\n",
        "compression_level: hunter2\n",
        "default_storage_type: hunter2\n",
    ],
)
def test_no_error_of_a_configuration_shows_what_was_typed(tmp_path, monkeypatch, text):
    file = tmp_path / "secret.yaml"
    file.write_text(text)
    with pytest.raises((ValidationError, InvalidArgumentError)) as failure:
        BackupRecoveryConfig.load(file)
    assert "hunter2" not in str(failure.value) + repr(failure.value) + "".join(
        traceback.format_exception(failure.value)
    )
    for broken in ('{"a": "hunter2"', '"hunter2"', '["hunter2"]'):
        monkeypatch.setenv("MILVAULT_STORAGE_OPTIONS", broken)
        with pytest.raises((ValidationError, InvalidArgumentError)) as failure:
            BackupRecoveryConfig.load()
        assert "hunter2" not in str(failure.value) + repr(failure.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\x00", "1: 2\n", "a: 2001-99-99\n", "[" * 5000])
def test_a_bad_configuration_file_is_named(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(InvalidArgumentError, match=r"bad\.yaml"):
        BackupRecoveryConfig.load(file)


def test_a_missing_configuration_file_is_named(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"nowhere\.yaml cannot be read"):
        BackupRecoveryConfig.load(tmp_path / "nowhere.yaml")


def test_config_shows_no_storage_secret():
    config = BackupRecoveryConfig(storage_options={"aws_secret_access_key": "hunter2"})
    assert "hunter2" not in repr(config) + str(config) + str(config.model_dump(mode="json"))
