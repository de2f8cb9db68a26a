"""Where a server is, who we are, and that secrets stay ours."""

import logging
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from milvault import BackupRecoveryError, ConnectionManager, DatabaseLockedError, InvalidArgumentError


def test_the_address_comes_from_argument_then_environment_then_default(monkeypatch):
    assert ConnectionManager().uri == "http://localhost:19530"
    monkeypatch.setenv("MILVAULT_URI", "http://elsewhere:1")
    assert ConnectionManager().uri == "http://elsewhere:1"
    assert ConnectionManager("http://here:2").uri == "http://here:2"


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("http://host", "http://host:19530"),
        ("https://host", "https://host:443"),
        ("http://[::1]:7", "http://[::1]:7"),
        ("http://host:5/", "http://host:5"),
    ],
)
def test_a_port_is_filled_in(given, uri):
    assert ConnectionManager(given).uri == uri


@pytest.mark.parametrize(
    "given", ["localhost:19530", "ftp://host", "http://", "http://host:port", "milvus", "http://h:99999"]
)
def test_what_is_no_address_is_refused_with_what_would_be(given):
    with pytest.raises(InvalidArgumentError, match="http://host:port"):
        ConnectionManager(given)


def test_a_path_ending_in_db_is_a_lite_database_named_by_its_absolute_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    connection = ConnectionManager("./x.db")
    assert connection.is_lite
    assert connection.label == str(tmp_path / "x.db")


def test_no_secret_is_ever_shown():
    for connection in (
        ConnectionManager("http://h", token="hunter2"),
        ConnectionManager("http://h", user="root", password="hunter2"),
    ):
        assert "hunter2" not in repr(connection) + str(connection) + str(vars(connection))
    for address in (
        "http://root:hunter2@h:1",
        "root:hunter2@h:1",
        "http://root:hunter2@h:port",
        "http://h:1?token=hunter2",
        "grpc://root:hunter2@h",
        "http://[root:hunter2@h",
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            ConnectionManager(address)
        assert "hunter2" not in str(caught.value) + repr(caught.value)


def test_a_database_in_the_address_is_refused_and_not_ignored():
    with pytest.raises(InvalidArgumentError, match="db_name"):
        ConnectionManager("http://host:19530/mydb")


async def test_the_core_is_told_the_secrets_and_the_files():
    connection = ConnectionManager("https://h", user="root", password="hunter2", ca_file="/ca.pem", db_name="x")
    settings = await connection.core_settings(may_create=False)
    assert settings == {
        "uri": "https://h:443",
        "label": "https://h:443",
        "token": None,
        "user": "root",
        "password": "hunter2",
        "db_name": "x",
        "ca_file": "/ca.pem",
        "cert_file": None,
        "key_file": None,
        "server_name": None,
        "connect_timeout_seconds": 10.0,
        "request_timeout_seconds": 120.0,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"user": "root"},
        {"password": "x"},
        {"user": "root", "password": "x", "token": "t"},
        {"cert_file": "c.pem"},
        {"connect_timeout_seconds": 0},
    ],
)
def test_halves_and_contradictions_are_refused(arguments):
    with pytest.raises(InvalidArgumentError):
        ConnectionManager("http://h", **arguments)


async def test_a_mistyped_lite_path_is_not_made_into_an_empty_database(tmp_path):
    with pytest.raises(BackupRecoveryError, match="no such database"):
        await ConnectionManager(tmp_path / "mistyped.db").core_settings(may_create=False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BackupRecoveryError, match=r"folder .* does not exist"):
        await ConnectionManager(tmp_path / "no" / "x.db").core_settings(may_create=True)


async def test_without_milvus_lite_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "milvus_lite.server_manager", None)
    with pytest.raises(BackupRecoveryError, match=r"pip install 'milvault\[lite\]'"):
        await ConnectionManager(tmp_path / "x.db").core_settings(may_create=True)


@pytest.mark.embedded
async def test_a_lite_database_held_by_another_process_is_an_error_that_names_lock_and_holder(tmp_path, caplog):
    path = tmp_path / "held.db"
    script = textwrap.dedent(f"""
        from milvus_lite import MilvusLite
        with MilvusLite({str(path)!r}):
            print("held", flush=True)
            input()
    """)
    holder = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with caplog.at_level(logging.ERROR), pytest.raises(DatabaseLockedError) as caught:
            await ConnectionManager(path).core_settings(may_create=False)
        assert caught.value.lock_file == str(path / "LOCK")
        assert str(path / "LOCK") in str(caught.value)
        if Path("/proc/locks").exists():
            assert caught.value.holder_pid in (holder.pid, None)
        assert "Traceback" not in caplog.text
    finally:
        holder.communicate("\n", timeout=30)


@pytest.mark.embedded
async def test_a_lite_database_is_served_by_the_server_that_pymilvus_uses(tmp_path):
    from milvus_lite.server_manager import server_manager_instance

    path = str(tmp_path / "shared.db")
    theirs = server_manager_instance.start_and_get_uri(path)
    try:
        settings = await ConnectionManager(path).core_settings(may_create=False)
        assert (settings["uri"], settings["label"]) == (theirs, path)
    finally:
        server_manager_instance.release_server(path)
