"""What is mounted is read strictly: nothing unknown, nothing missing, no password that somebody thought of, and no value in a message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.accounts.__main__ import main
from app.accounts.desired import ConsulState, PostgresState, RabbitmqState, read_state
from app.accounts.errors import AccountsError
from tests.app.accounts.runs import program

POSTGRES: dict[str, object] = {
    "host": "postgres",
    "port": 5432,
    "admin": "postgres",
    "clients": [{"name": "orders", "password": "a-password-long-enough", "database": "orders"}],
}


def written(folder: Path, **changes: object) -> Path:
    (folder / "accounts.json").write_text(json.dumps(POSTGRES | changes))
    return folder


def test_a_valid_file_is_read(tmp_path: Path) -> None:
    state = read_state(written(tmp_path), PostgresState)
    assert state.clients[0].password.get_secret_value() == "a-password-long-enough"
    assert "a-password-long-enough" not in repr(state)


@pytest.mark.parametrize(
    ("changes", "place"),
    [({"colour": "blue"}, "colour"), ({"port": 0}, "port"), ({"port": None}, "port"), ({"clients": [{"name": "orders"}]}, "clients.0.password")],
    ids=["unknown key", "bad port", "no port", "no password"],
)
def test_a_file_that_does_not_fit_is_refused_by_the_place_in_it(tmp_path: Path, changes: dict[str, object], place: str) -> None:
    with pytest.raises(AccountsError, match=rf"{place}: .*deploy the image and the program of one version"):
        read_state(written(tmp_path, **changes), PostgresState)


@pytest.mark.parametrize("password", ["password", "", "hunter2"])
def test_a_password_that_was_not_generated_is_refused(tmp_path: Path, password: str) -> None:
    clients = [{"name": "orders", "password": password, "database": "orders"}]
    with pytest.raises(AccountsError, match=r"clients\.0\.password: "):
        read_state(written(tmp_path, clients=clients), PostgresState)


def test_a_refused_password_is_not_shown(tmp_path: Path) -> None:
    clients = [{"name": "orders", "password": "hunter2", "database": "orders"}]
    with pytest.raises(AccountsError) as refused:
        read_state(written(tmp_path, clients=clients), PostgresState)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("schema", [RabbitmqState, ConsulState])
def test_one_engine_s_file_is_not_taken_for_another_one_s(tmp_path: Path, schema: type[RabbitmqState]) -> None:
    with pytest.raises(AccountsError):
        read_state(written(tmp_path), schema)


def test_a_missing_file_names_the_secret(tmp_path: Path) -> None:
    with pytest.raises(AccountsError, match="is the Secret mounted"):
        read_state(tmp_path, PostgresState)


def test_a_missing_ca_names_the_config_map(tmp_path: Path) -> None:
    (tmp_path / "accounts").mkdir()
    written(tmp_path / "accounts")
    (tmp_path / "accounts" / "admin").write_text("x")
    run = program("postgres", tmp_path)
    assert run.code == 1
    assert "is the ConfigMap groundwork-ca mounted?" in run.last


def test_an_unknown_engine_is_refused_with_those_that_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["mysql"])
    assert "postgres" in capsys.readouterr().err
