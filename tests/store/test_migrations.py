"""Opening databases: what is created, what is refused, and that nothing is left half-done."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from stepwell.errors import ConfigError, SchemaVersionError, StoreUnavailableError
from stepwell.store import migrate
from stepwell.store.migrate import Migration, load_migrations, pending, split_statements
from stepwell.store.open import open_store, resolve_url, sqlite_path
from stepwell.store.sqlite import connection as sqlite_connection
from tests.store.builders import SteppingClock, queue

pytestmark = pytest.mark.anyio

CLOCK = SteppingClock()

OPENER = """
import asyncio, sys
from stepwell.clock import SystemClock
from stepwell.store.open import open_store
from stepwell.store.transitions import NewExecution, Triggered

async def main(url, id):
    async with open_store(url, clock=SystemClock()) as store:
        applied = await store.apply([Triggered(NewExecution(id, "wf", "1", 1))])
        assert applied.verdicts == [None]

sys.stdin.readline()
asyncio.run(main(*sys.argv[1:]))
"""


async def opens(url: str) -> None:
    async with open_store(url, clock=CLOCK):
        pass


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def tables(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}


# URLs


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///a/b.db", Path("a/b.db")),
        ("sqlite:////a/b.db", Path("/a/b.db")),
        ("sqlite://", None),
        ("sqlite:///:memory:", None),
    ],
)
def test_sqlite_urls(url: str, path: Path | None) -> None:
    assert sqlite_path(url) == path


def test_relative_urls_start_at_their_folder(tmp_path: Path) -> None:
    assert resolve_url("sqlite:///a/../b.db", tmp_path) == f"sqlite:///{tmp_path.resolve()}/b.db"
    assert resolve_url("sqlite:////b.db", tmp_path) == "sqlite:////b.db"
    assert resolve_url("sqlite://", tmp_path) == "sqlite://"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("stepwell.db", "such as sqlite:///relative/path.db, .* got 'stepwell.db'"),
        ("", "got ''"),
        ("sqlite:", "got 'sqlite:'"),
        ("mysql://u:secret@h/d", "got 'mysql://…@h/d'"),
        ("sqlite://path.db", "three slashes"),
        ("sqlite:///", "three slashes"),
        ("sqlite:///a.db?mode=ro", "takes no options"),
        ("postgresql://u:secret@h/d", "not available in this release"),
    ],
)
def test_other_urls_are_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        resolve_url(url, Path("/"))
    assert "secret" not in str(caught.value)


# Creating


async def test_files_are_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "test.db"
    async with open_store(f"sqlite:///{path}", clock=CLOCK) as store:
        await queue(store, "e")
        files = {each.name: mode(each) for each in path.parent.iterdir()}

    assert files == {"test.db": 0o600, "test.db-wal": 0o600, "test.db-shm": 0o600}
    assert mode(path.parent) == mode(path.parent.parent) == 0o700


async def test_an_existing_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    path.touch(mode=0o640)

    await opens(f"sqlite:///{path}")

    assert mode(path) == 0o640


async def test_the_url_shows_the_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async with open_store("sqlite:///test.db", clock=CLOCK) as store:
        assert store.url == f"sqlite:///{tmp_path.resolve()}/test.db"


async def test_tables_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")

    await opens(f"sqlite:///{path}")

    assert {"mine", "executions", "steps", "schema_version"} <= tables(path)


# Refusing


async def test_newer_schema_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE schema_version (version INTEGER PRIMARY KEY)")
        connection.execute("INSERT INTO schema_version VALUES (99)")
    before = path.read_bytes()

    with pytest.raises(SchemaVersionError, match=r"is version 99; this release needs \d+. Upgrade stepwell."):
        await opens(f"sqlite:///{path}")

    assert path.read_bytes() == before


async def test_file_that_is_no_database_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "letter.txt"
    path.write_text("Dear Sir or Madam, " * 100)

    with pytest.raises(StoreUnavailableError, match=r"letter\.txt' cannot be used: it is not an SQLite database\."):
        await opens(f"sqlite:///{path}")

    assert path.read_text() == "Dear Sir or Madam, " * 100


async def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError, match="it is a folder"):
        await opens(f"sqlite:///{tmp_path}")


async def test_file_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(StoreUnavailableError, match="Not a directory"):
        await opens(f"sqlite:///{tmp_path}/file/test.db")


async def test_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(StoreUnavailableError, match="/proc/stepwell"):
        await opens("sqlite:////proc/stepwell/test.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everything")
async def test_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    path.touch(mode=0o400)

    with pytest.raises(StoreUnavailableError, match="cannot be read and written by this user"):
        await opens(f"sqlite:///{path}")


@pytest.mark.parametrize("table", ["executions (x)", "schema_version (version TEXT)"])
async def test_clash_with_another_programs_table_changes_nothing(tmp_path: Path, table: str) -> None:
    path = tmp_path / "test.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"CREATE TABLE {table}")
        connection.execute(f"INSERT INTO {table.partition(' ')[0]} VALUES ('x')")
    before = tables(path)

    with pytest.raises(StoreUnavailableError, match=r"another program's|already exists"):
        await opens(f"sqlite:///{path}")

    assert tables(path) == before


# Migrating


async def test_a_migration_that_fails_happens_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test.db"
    good = load_migrations("stepwell.store.sqlite")
    bad = Migration(len(good) + 1, "bad", ("CREATE TABLE half (x)", "CREATE TABLE half (x)"))
    monkeypatch.setattr(sqlite_connection, "_migrations", lambda: [*good, bad])

    with pytest.raises(StoreUnavailableError, match="half already exists"):
        await opens(f"sqlite:///{path}")

    assert "half" not in tables(path)
    monkeypatch.undo()
    await opens(f"sqlite:///{path}")


async def test_an_older_schema_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test.db"
    await opens(f"sqlite:///{path}")
    good = load_migrations("stepwell.store.sqlite")
    more = Migration(len(good) + 1, "more", ("CREATE TABLE more (x)",))
    monkeypatch.setattr(sqlite_connection, "_migrations", lambda: [*good, more])

    await opens(f"sqlite:///{path}")

    assert "more" in tables(path)


def test_sixteen_processes_may_open_at_once(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'test.db'}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, url, f"e{index}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for index in range(16)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 0, errors

    with closing(sqlite3.connect(tmp_path / "test.db")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM executions").fetchone() == (16,)
        assert connection.execute("SELECT COUNT(*) FROM schema_version").fetchone() == (
            len(load_migrations("stepwell.store.sqlite")),
        )
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert list(tmp_path.glob(".test.db.*")) == []


def test_pending_migrations() -> None:
    migrations = [Migration(1, "a", ()), Migration(2, "b", ())]

    assert pending(migrations, 0, "db") == migrations
    assert pending(migrations, 1, "db") == migrations[1:]
    assert pending(migrations, 2, "db") == []
    with pytest.raises(SchemaVersionError):
        pending(migrations, 3, "db")


def test_migrations_are_numbered_without_a_gap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "migrations").mkdir()
    for name in ("0001_a.sql", "0003_c.sql", "README"):
        (tmp_path / "migrations" / name).write_text("SELECT 1;")

    def files(package: str) -> Path:
        return tmp_path / package

    monkeypatch.setattr(migrate, "files", files)

    with pytest.raises(ValueError, match=r"got \[1, 3\]"):
        load_migrations(".")


def test_scripts_are_split_at_semicolons_that_end_a_line() -> None:
    script = "-- Prose; with a semicolon\nSELECT ';' AS x,\n    1; -- no end\nSELECT 2;\n\n-- The end.\n"

    assert split_statements(script) == ("-- Prose; with a semicolon\nSELECT ';' AS x,\n    1; -- no end\nSELECT 2",)
    assert split_statements("SELECT 1;\nSELECT 2;  \n") == ("SELECT 1", "SELECT 2")
