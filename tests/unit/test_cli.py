"""The command line: what it prints where, its exit codes, and how it is interrupted."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from milvault.cli import run

from .fake_core import METADATA, VERIFICATION, failure


@pytest.fixture
def milvault(core, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        code = run(arguments, session_factory=core)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


COMMANDS = [
    ("create", "articles"),
    ("list",),
    ("show", "b1"),
    ("get", "b1"),
    ("verify", "b1"),
    ("verify", "b1", "--quick", "--sample", "5", "--seed", "3"),
    ("restore", "b1"),
    ("delete", "b1", "--yes"),
    ("prune", "articles", "--dry-run"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_prints_one_json_document_and_nothing_else(milvault, command):
    for arguments in (("--json", *command), (*command, "--json")):
        code, out, err = milvault(*arguments)
        assert (code, err) == (0, "")
        assert isinstance(json.loads(out), dict)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
def test_every_command_tells_people(milvault, command):
    code, out, err = milvault(*command)
    assert (code, err) == (0, "")
    assert out.strip()
    with pytest.raises(ValueError):
        json.loads(out)


def test_what_could_not_be_noted_of_several_is_told(milvault, core):
    core.answers |= {
        "list_databases": {"ok": ["default"]},
        "moments": {"ok": [{"timestamp": 1}]},
        "note_set": failure("storage", "there is no room for it"),
    }
    code, out, err = milvault("--milvus-storage", "/var/lib/milvus", "create", "--native")
    assert (code, "backed up" in out) == (0, True)
    assert err.startswith("milvault: warning: which backups belong together")
    assert "there is no room for it" in err
    code, out, err = milvault("--milvus-storage", "/var/lib/milvus", "create", "--native", "--json")
    assert (code, err, len(json.loads(out)["warnings"])) == (0, "", 1)


OPERATION = {"create": "backup", "show": "get"}


@pytest.mark.parametrize(
    ("command", "kind", "code"),
    [
        (("create", "articles"), "collection_not_found", 1),
        (("create", "articles"), "in_progress", 11),
        (("create", "articles"), "already_exists", 1),
        (("create", "articles"), "invalid_argument", 2),
        (("list",), "storage", 1),
        (("show", "b1"), "backup_not_found", 10),
        (("show", "b1"), "backup_corrupted", 12),
        (("verify", "b1"), "backup_not_found", 10),
        (("restore", "b1"), "backup_not_found", 10),
        (("restore", "b1"), "backup_corrupted", 12),
        (("restore", "b1"), "restore_validation", 1),
        (("delete", "b1", "--yes"), "backup_not_found", 10),
        (("delete", "b1", "--yes"), "in_progress", 11),
    ],
)
def test_an_error_has_its_exit_code_and_is_told_on_stderr_or_as_json(milvault, core, command, kind, code):
    core.answers[OPERATION.get(command[0], command[0])] = failure(kind, "the reason", backup_id="b1")
    assert milvault(*command) == (code, "", "milvault: the reason\n")
    got, out, err = milvault(*command, "--json")
    assert (got, err) == (code, "")
    error = json.loads(out)["error"]
    assert (error["kind"], error["message"], error["backup_id"]) == (kind, "the reason", "b1")


def test_a_backup_that_fails_while_it_runs_exits_with_1(milvault, core):
    core.answers["backup"] = failure("server", "connection lost", started=True)
    code, out, err = milvault("create", "articles")
    assert (code, out) == (1, "")
    assert "connection lost" in err
    code, out, _ = milvault("create", "articles", "--json")
    document = json.loads(out)
    assert (code, document["success"], document["error"]["kind"]) == (1, False, "server")


def test_damage_exits_with_12_and_is_named(milvault, core):
    core.answers["verify"] = {"ok": {**VERIFICATION, "success": False, "errors": ["data/x.parquet differs"]}}
    code, out, _ = milvault("verify", "b1")
    assert code == 12
    assert "DAMAGED" in out
    assert "data/x.parquet differs" in out


def test_a_restore_that_left_partitions_out_exits_with_3(milvault, core):
    core.answers["restore"]["ok"]["failed_partitions"] = ["p1"]
    try:
        code, out, _ = milvault("restore", "b1")
    finally:
        core.answers["restore"]["ok"]["failed_partitions"] = []
    assert code == 3
    assert "p1" in out


def test_a_restores_options_reach_the_core(milvault, core):
    options = "--target t --target-database d --into-existing --on-conflict overwrite --where price>3 --dry-run --load"
    code, _, _ = milvault("--uri", "http://h:1", "restore", "b1", *options.split())
    wanted = {
        "target_collection_name": "t",
        "target_database": "d",
        "into_existing": True,
        "on_conflict": "OVERWRITE",
        "where": "price>3",
        "dry_run": True,
        "load_after_restore": True,
    }
    assert code == 0
    assert {name: core.request[name] for name in wanted} == wanted
    milvault("--uri", "http://h:1", "restore", "b1", "--auto-id", "regenerate", "--skip-failed-partitions")
    assert (core.request["auto_id"], core.request["skip_failed_partitions"]) == ("REGENERATE", True)


def test_a_dry_run_prints_the_plan(milvault, core):
    core.answers["restore"]["ok"] |= {"dry_run": True, "plan": {"action": "CREATE", "rows": 7}}
    try:
        code, out, _ = milvault("restore", "b1", "--dry-run")
    finally:
        core.answers["restore"]["ok"] |= {"dry_run": False, "plan": None}
    assert code == 0
    assert "CREATE" in out
    assert "nothing was written" in out


def test_a_deep_verification_is_asked_for_with_a_server(milvault, core):
    assert milvault("verify", "b1", "--deep")[0] == 0
    assert core.request["verification_type"] == "DEEP"
    assert core.configs[-1]["server"] is not None


DIFFERENCES = {kind: {"rows": 0, "examples": []} for kind in ("only_in_backup", "only_in_original", "different")}


@pytest.mark.parametrize(
    ("original", "told"),
    [
        (
            {"compared": True, "differences": DIFFERENCES},
            "  compared with the collection it was made of: they are the same",
        ),
        (
            {"compared": True, "differences": {**DIFFERENCES, "different": {"rows": 2, "examples": [1, 2]}}},
            "  compared with the collection it was made of: they differ, as the warning says",
        ),
        (
            {"compared": False, "reason": "the server has no collection of that name"},
            "  not compared with the collection it was made of: the server has no collection of that name",
        ),
    ],
    ids=["same", "different", "gone"],
)
def test_a_deep_verification_says_what_it_restored_and_compared(milvault, core, original, told):
    details = {"rows": 1797, "original": original}
    core.answers["verify"] = {"ok": {**VERIFICATION, "deep_verification_passed": True, "details": details}}
    _, out, _ = milvault("verify", "b1", "--deep")
    assert out.splitlines()[1:] == ["  restored for a trial: 1,797 rows came back as the backup has them", told]


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("create", "a*"),
        ("create", "a", "b.c.d"),
        ("create", "--filter", "a,,b"),
        ("create", "a", "--level", "high"),
        ("create", "a", "--level", "10"),
        ("create", "a", "--checksum", "CRC32"),
        ("create", "a", "--timeout", "0"),
        ("verify", "b1", "--seed", "3"),
        ("verify", "b1", "--deep", "--sample", "3"),
        ("list", "--since", "yesterday"),
        ("restore", "b1", "--on-conflict", "SKIP"),
        ("restore", "b1", "--into-existing", "--drop-existing"),
        ("list", "--since", "2026-01-01T00:00:00"),
        ("--uri", "localhost:19530", "create", "a"),
        ("--config", "nowhere.yaml", "list"),
        ("--log-level", "loud", "list"),
        ("--storage-option", "secret", "list"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2_and_says_what(milvault, core, arguments):
    code, out, err = milvault(*arguments)
    assert (code, out) == (2, "")
    assert err.strip()
    code, out, err = milvault("--json", *arguments)
    assert (code, err) == (2, "")
    assert json.loads(out)["error"]["message"]
    assert core.requests == []


def test_a_level_out_of_range_names_field_and_range(milvault):
    _, _, err = milvault("create", "a", "--level", "10")
    assert err == "milvault: --level: must be from 1 to 9, not 10\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("list", "--since", "2020-01-01"), "write --since 2020-01-01T00:00:00Z"),
        (("restore", "b1", "--as-of", "2020-01-01"), "write --as-of 2020-01-01T00:00:00Z\n"),
        (("export", "b1", "x.csv", "--as-of", "2020-01-01T06:00"), "write --as-of 2020-01-01T06:00:00Z\n"),
        (("create", "a", "--native"), "milvault: --native copies the files that Milvus keeps"),
        (
            ("restore", "b1", "--on-conflict", "SKIP"),
            "milvault: --on-conflict: it concerns rows that go into a collection, with --into-existing\n",
        ),
        (
            ("restore", "b1", "--into-existing", "--drop-existing"),
            "milvault: --into-existing: either it or --drop-existing; rows cannot go into what is replaced\n",
        ),
    ],
    ids=str,
)
def test_messages_name_options(milvault, arguments, told):
    code, _, err = milvault(*arguments)
    assert code == 2
    # The frame that typer draws breaks lines.
    assert told in err or told in " ".join(err.replace("│", " ").split())


def test_what_the_core_says_names_options_too_and_leaves_names_alone(milvault, core):
    message = (
        "collection 'drop_existing' in /x/milvus_storage/y exists: choose target_collection_name, replace it with "
        "drop_existing=True, or via=INSERT. Allow more with timeout="
    )
    told = (
        "collection 'drop_existing' in /x/milvus_storage/y exists: choose --target, replace it with "
        "--drop-existing, or --via INSERT. Allow more with --timeout"
    )
    core.answers["restore"] = failure("restore_validation", message)
    assert milvault("restore", "b1")[2] == f"milvault: {told}\n"
    assert json.loads(milvault("restore", "b1", "--json")[1])["error"]["message"] == message
    core.answers["backup"] = failure("timeout", message, started=True)
    assert milvault("create", "articles")[2].endswith(f"failed: {told}\n")
    core.answers["backup"] = {"ok": {"metadata": METADATA, "warnings": [message], "verification": None}}
    assert milvault("create", "articles")[2] == f"milvault: warning: {told}\n"


def test_options_reach_the_core(milvault, core):
    milvault("create", "articles", "--name", "n", "--partition", "p", "--partition", "q", "--tag", "t",
             "--no-compression", "--level", "3", "--checksum", "md5", "--no-verify", "--no-indexes",
             "--collapse-duplicates", "--source", "query", "--prove-stable", "--no-resume", "--timeout", "9",
             "--chunk-size-mb", "8", "--link", "reflink")  # fmt: skip
    asked = core.request
    expected = {
        "collection_name": "articles", "backup_name": "n", "backup_type": "PARTITION", "partition_names": ["p", "q"],
        "tags": ["t"], "compression_enabled": False, "compression_level": 3, "checksum_algorithm": "MD5",
        "verify_after": False, "include_indexes": False, "duplicates": "collapse", "source": "query",
        "prove_stable": True, "resume": False,
        "timeout_seconds": 9.0, "chunk_size_mb": 8, "link": "REFLINK",
    }  # fmt: skip
    assert {name: asked[name] for name in expected} == expected
    milvault("restore", "b1", "--collection", "articles", "--target", "copy", "--partition", "p", "--drop-existing",
             "--load", "--no-indexes", "--no-verify", "--proof", "count")  # fmt: skip
    asked = core.request
    expected = {
        "backup": "b1", "collection_name": "articles", "target_collection_name": "copy", "partition_names": ["p"],
        "drop_existing": True, "load_after_restore": True, "restore_indexes": False, "verify_before_restore": False,
        "verify_after": "COUNT",
    }  # fmt: skip
    assert {name: asked[name] for name in expected} == expected
    milvault("verify", "b1", "--all")
    assert core.request["fail_fast"] is False


def test_global_options_come_from_the_environment_and_are_beaten_by_arguments(milvault, core, monkeypatch):
    monkeypatch.setenv("MILVAULT_URI", "http://from-environment:1")
    monkeypatch.setenv("MILVAULT_ROOT", "/from-environment")
    monkeypatch.setenv("MILVAULT_TOKEN", "secret")
    milvault("create", "articles")
    assert core.configs[-1]["server"]["uri"] == "http://from-environment:1"
    assert core.configs[-1]["server"]["token"] == "secret"
    assert core.configs[-1]["repository"]["root"] == "/from-environment"
    milvault("--uri", "http://argument:2", "--root", "/argument", "create", "articles")
    assert core.configs[-1]["server"]["uri"] == "http://argument:2"
    assert core.configs[-1]["repository"]["root"] == "/argument"


def test_settings_come_from_a_file(milvault, core, tmp_path):
    (tmp_path / "m.yaml").write_text("compression_level: 2\nlocal_backup_root_path: /from-file\n")
    milvault("--config", "m.yaml", "create", "articles")
    assert core.request["compression_level"] == 2
    assert core.configs[-1]["repository"]["root"] == "/from-file"


def test_a_setting_that_cannot_be_right_is_named_as_the_file_has_it(milvault, tmp_path):
    (tmp_path / "m.yaml").write_text("compression_level: 20\n")
    told = "milvault: the setting 'compression_level': must be from 1 to 9, not 20\n"
    assert milvault("--config", "m.yaml", "list") == (2, "", told)


def test_storage_options_reach_the_core_and_are_never_printed(milvault, core):
    code, out, err = milvault("--storage-option", "aws_secret_access_key=hun=ter2", "list")
    assert code == 0
    assert core.configs[-1]["repository"]["options"] == {"aws_secret_access_key": "hun=ter2"}
    assert "ter2" not in out + err


def test_reading_a_repository_needs_no_server(milvault, core):
    for command in COMMANDS[1:5]:
        milvault(*command)
    assert all(config["server"] is None for config in core.configs)


def test_delete_asks_unless_told_not_to(milvault, core, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    code, _, err = milvault("delete", "b1")
    assert code == 2
    assert "--yes" in err
    assert core.requests == []


def test_delete_does_what_the_person_answers(milvault, core, monkeypatch):
    import io

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, _, _ = milvault("delete", "b1")
    assert code == 130
    assert core.requests == []
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, _, _ = milvault("delete", "b1")
    assert code == 0
    assert core.requests == [("delete", {"backup": "b1", "collection_name": None})]


def test_a_table_that_is_piped_is_not_cut(milvault, core):
    long = "n" * 600
    backups = [{**METADATA, "collection_name": long, "backup_name": long}, {**METADATA, "backup_name": "[red]x[/red]"}]
    core.answers["list"] = {"ok": {"backups": backups, "damaged": []}}
    _, out, _ = milvault("list")
    _, first, second = (line.split() for line in out.splitlines())
    assert first[:2] == [METADATA["backup_id"], long]
    assert first[-1] == long
    assert (second[0], second[-1]) == (METADATA["backup_id"], "[red]x[/red]")
    assert first[2:-1] == second[2:-1]


def test_show_tells_digest_and_consistency(milvault):
    _, out, _ = milvault("show", "b1")
    for text in (METADATA["backup_id"], "1,797", "1f" * 16, "fuzzy", "2026-11-21 06:30:00 UTC", "3.0 MiB", "nightly"):
        assert text in out


def test_a_backup_that_was_found_damaged_looks_so(milvault, core):
    found = {
        "QUICK": {"success": True, "verified_at": "2026-11-22T00:00:00Z"},
        "CHECKSUM": {"success": False, "verified_at": "2026-11-21T06:30:00.902448775+00:00"},
    }
    damaged = {**METADATA, "verifications": found}
    core.answers["list"] = {"ok": {"backups": [damaged, METADATA], "damaged": []}}
    core.answers["get"] = {"ok": damaged}
    _, out, _ = milvault("list")
    assert [line.split()[5] for line in out.splitlines()[1:]] == ["damaged", "no"]
    _, out, _ = milvault("show", "b1")
    assert "verified       DAMAGED, as found by CHECKSUM at 2026-11-21 06:30:00 UTC\n" in out
    core.answers["get"] = {"ok": METADATA}
    assert "verified       no\n" in milvault("show", "b1")[1]


def test_an_empty_repository_says_so(milvault, core):
    core.answers["list"] = {"ok": {"backups": [], "damaged": []}}
    assert milvault("list") == (0, "no backups\n", "")
    assert json.loads(milvault("list", "--json")[1]) == {"backups": [], "damaged": []}


def test_a_collection_without_backups_is_noted_on_stderr(milvault, core):
    core.answers["list"] = {"ok": {"backups": [], "damaged": []}}
    core.answers["prune"]["ok"] |= {"planned": [], "kept": {}}
    assert milvault("list", "nope") == (0, "no backups\n", "milvault: no backup of 'nope' is there\n")
    told = "milvault: no backup of 'nope' that these options choose is there\n"
    assert milvault("list", "nope", "--state", "verified")[2] == told
    told = "milvault: no backup of 'nope' in database 'db2' is there\n"
    assert milvault("--uri", "http://h:1", "--db-name", "db2", "list", "nope")[2] == told
    code, _, err = milvault("prune", "nope")
    assert (code, err) == (0, "milvault: no backup of 'nope' is there\n")
    for command in (("list", "nope", "--json"), ("prune", "nope", "--json"), ("list",), ("prune",)):
        assert milvault(*command)[2] == ""


def test_a_database_that_is_named_is_the_only_one_that_is_backed_up(milvault, core):
    core.answers["list_databases"] = {"ok": ["default", "shop"]}
    assert milvault("--db-name", "shop", "create")[0] == 0
    backed_up = [request for operation, request in core.requests if operation == "backup"]
    assert [(request["database"], request["collection_name"]) for request in backed_up] == [("shop", "articles")]
    core.requests.clear()
    assert milvault("create")[0] == 0
    backed_up = [request for operation, request in core.requests if operation == "backup"]
    assert [request["database"] for request in backed_up] == ["default", "shop"]


def test_pruning_asks_for_what_was_given_and_the_settings_for_the_rest(milvault, core):
    core.answers["prune"]["ok"]["left_alone"] = {"b7": "it is being read"}
    code, out, _ = milvault("prune", "articles", "--days", "0", "--weekly", "8", "--keep-tag", "a", "--keep-tag", "b")
    assert code == 0
    assert core.requests == [
        (
            "prune",
            {
                "collection_name": "articles",
                "database": None,
                "dry_run": False,
                "policy": {
                    "count": 10,
                    "days": 0,
                    "minimum": 3,
                    "daily": 0,
                    "weekly": 8,
                    "monthly": 0,
                    "tags": ["a", "b"],
                },
            },
        )
    ]
    for text in ("one of the 10 newest", "it is being read", "would delete 1 backup (512.0 MiB)"):
        assert text in out


def test_pruning_that_could_not_delete_everything_is_partly_done(milvault, core):
    core.answers["prune"]["ok"]["failed"] = {"b9": "permission denied"}
    code, _, err = milvault("prune")
    assert code == 3
    assert err == "milvault: b9 could not be deleted: permission denied\n"


def test_warnings_go_to_stderr(milvault, core):
    core.answers["backup"] = {"ok": {"metadata": METADATA, "warnings": ["writers were active"], "verification": None}}
    code, out, err = milvault("create", "articles")
    assert code == 0
    assert "1,797 rows" in out
    assert err == "milvault: warning: writers were active\n"


def test_interrupting_cancels_cleanly_and_exits_with_130(milvault, core):
    core.held = True

    def interrupt():
        while not core.jobs:
            time.sleep(0.005)
        time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    code, out, err = milvault("create", "articles")
    thread.join()
    assert (code, out) == (130, "")
    assert "cleaning up" in err
    assert core.jobs[0].canceled
    assert json.loads(core.jobs[0].result())["error"]["kind"] == "canceled"
    # and Python's own handling is back
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupting_while_it_starts_exits_with_130(as_json):
    script = """
import os, signal, sys
class Interrupts:
    def find_spec(self, name, *_):
        if name in ("typer", "pydantic"):
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
from milvault.cli import main
main()
"""
    command = [sys.executable, "-c", script, "list", *(["--json"] if as_json else [])]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 130
    if as_json:
        assert (json.loads(done.stdout)["error"]["type"], done.stderr) == ("Interrupted", "")
    else:
        assert (done.stdout, done.stderr) == ("", "milvault: interrupted\n")


def test_interrupting_while_the_interpreter_ends_changes_nothing():
    script = """
import os, signal
class Interrupts:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT):
        kill(process, number)
last = Interrupts()
from milvault.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("milvault ")


def test_without_the_extra_it_says_how_to_install_it():
    script = "import sys; sys.modules['typer'] = None\nfrom milvault.cli import run\nsys.exit(run(sys.argv[1:]))"
    done = subprocess.run([sys.executable, "-c", script, "list"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "pip install 'milvault[cli]'" in done.stderr
    done = subprocess.run([sys.executable, "-c", script, "list", "--json"], capture_output=True, text=True)
    assert "milvault[cli]" in json.loads(done.stdout)["error"]["message"]


def test_help_names_every_command():
    done = subprocess.run([sys.executable, "-m", "milvault", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    for command in ("create", "list", "show", "verify", "restore", "delete", "prune"):
        assert command in done.stdout


def test_no_event_loop_is_left_behind(milvault):
    milvault("list")
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()
