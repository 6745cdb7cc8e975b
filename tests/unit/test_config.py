from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.config.load import load_config
from stepwell.errors import ConfigError


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text)
    return file


def mistakes(folder: Path, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(folder, environ or {})
    return str(caught.value)


def test_without_a_file_everything_is_open(tmp_path: Path) -> None:
    config = load_config(tmp_path, {})

    assert (config.app, config.database, config.root, config.file) == (None, None, tmp_path, None)


def test_file_in_a_folder_above_is_found_and_anchors_the_database(tmp_path: Path) -> None:
    file = write(tmp_path, "stepwell.toml", 'app = "shop:app"\ndatabase = "sqlite:///data/shop.db"')
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)

    config = load_config(below, {})

    assert (config.app, config.root, config.file) == ("shop:app", tmp_path, file)
    assert config.database == f"sqlite:///{tmp_path}/data/shop.db"


def test_nearest_file_wins(tmp_path: Path) -> None:
    write(tmp_path, "stepwell.toml", 'app = "far:app"')
    write(tmp_path / "near", "pyproject.toml", '[tool.stepwell]\napp = "near:app"')

    assert load_config(tmp_path / "near", {}).app == "near:app"


@pytest.mark.parametrize("url", ["sqlite:////var/lib/shop.db", "sqlite://", "sqlite:///:memory:", "postgresql://h/db"])
def test_other_urls_stay_as_they_are(tmp_path: Path, url: str) -> None:
    write(tmp_path, "stepwell.toml", f'database = "{url}"')

    assert load_config(tmp_path, {}).database == url


def test_environment_goes_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "project", "stepwell.toml", 'app = "shop:app"\ndatabase = "sqlite:///file.db"')
    environ = {"STEPWELL_APP": "other:app", "STEPWELL_DATABASE": "sqlite:///environment.db"}

    config = load_config(tmp_path / "project", environ)

    assert config.app == "other:app"
    assert config.database == f"sqlite:///{tmp_path}/environment.db"


def test_empty_variables_count_as_not_set(tmp_path: Path) -> None:
    write(tmp_path, "stepwell.toml", 'app = "shop:app"')

    assert load_config(tmp_path, {"STEPWELL_APP": "", "STEPWELL_DATABASE": ""}).app == "shop:app"


def test_pyproject_without_our_table_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "stepwell.toml", 'app = "shop:app"')
    write(tmp_path / "other", "pyproject.toml", '[project]\nname = "stepwell-user"')
    write(tmp_path / "broken", "pyproject.toml", "stepwell [")

    assert load_config(tmp_path / "other", {}).app == "shop:app"
    assert load_config(tmp_path / "broken", {}).app == "shop:app"


def test_both_files_in_one_folder_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "stepwell.toml", 'app = "shop:app"')
    write(tmp_path, "pyproject.toml", '[tool.stepwell]\napp = "shop:app"')

    assert "both stepwell.toml and [tool.stepwell] in pyproject.toml" in mistakes(tmp_path)


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, "stepwell.toml", 'databse = "sqlite:///x.db"\napp = 3\ndatabase = "shop.db"\nzzz = 1')

    message = mistakes(tmp_path, {"STEPWELL_APP": "shop app"})

    assert message.startswith("5 mistakes in the configuration:")
    assert f"{file}: unknown key 'databse'. Did you mean 'database'? Allowed: app, database." in message
    assert f"{file}: unknown key 'zzz'. Allowed: app, database." in message
    assert f"{file}: app must be text: module:attribute, such as 'shop:app'; got 3." in message
    assert f"{file}: database must be a URL, such as 'sqlite:///shop.db'; got 'shop.db'." in message
    assert "environment: STEPWELL_APP must be module:attribute, such as 'shop:app'; got 'shop app'." in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stepwell.toml", "app = "),
        ("stepwell.toml", 'app = "a"\napp = "b"'),
        ("pyproject.toml", "[tool.stepwell]\napp = "),
        ("pyproject.toml", "[tool]\nstepwell = 3"),
    ],
)
def test_malformed_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    file = write(tmp_path, name, text)

    assert str(file) in mistakes(tmp_path)


def test_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "stepwell.toml").write_bytes(b"\xff\xfe")

    assert f"{tmp_path / 'stepwell.toml'}: cannot be read" in mistakes(tmp_path)
