"""What is mounted is read strictly: nothing unknown, nothing missing, no password that somebody thought of, and no value in a message."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.accounts.__main__ import main
from app.accounts.desired import ConsulState, PostgresState, RabbitmqState, RedisState, read_state
from app.accounts.errors import AccountsError
from app.accounts.generations import Login
from tests.app.accounts.runs import program

POSTGRES: dict[str, object] = {
    "host": "postgres",
    "port": 5432,
    "admin": "postgres",
    "generation": 3,
    "retire": False,
    "certificate": None,
    "clients": [{"name": "orders", "login": "orders.3", "password": "a-password-long-enough", "database": "orders"}],
}
REDIS: dict[str, object] = POSTGRES | {
    "admin": "admin",
    "clients": [{"name": "orders", "login": "orders.3", "password": "a-password-long-enough", "rules": ["~orders:*", "+get"]}],
}


def client(**changes: object) -> list[dict[str, object]]:
    return [{"name": "orders", "login": "orders.3", "password": "a-password-long-enough", "database": "orders"} | changes]


def written(folder: Path, **changes: object) -> Path:
    (folder / "accounts.json").write_text(json.dumps(POSTGRES | changes))
    return folder


def test_a_valid_file_is_read(tmp_path: Path) -> None:
    state = read_state(written(tmp_path), PostgresState)
    assert state.clients[0].password.get_secret_value() == "a-password-long-enough"
    assert "a-password-long-enough" not in repr(state)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"colour": "blue"}, "colour"),
        ({"port": 0}, "port"),
        ({"port": None}, "port"),
        ({"clients": [{"name": "orders", "login": "orders.3", "database": "orders"}]}, "clients.0.password"),
        ({"generation": 0}, "generation"),
        ({"retire": None}, "retire"),
        ({"certificate": "AB" * 32}, "certificate"),
        ({"certificate": "ab"}, "certificate"),
        ({"clients": client(name="or.ders")}, "clients.0.name"),
        ({"clients": client(login="o" * 62 + ".3")}, "clients.0.login"),
    ],
    ids=[
        "unknown key",
        "bad port",
        "no port",
        "no password",
        "no generation",
        "no retire",
        "certificate in capitals",
        "short certificate",
        "name with a dot",
        "login that PostgreSQL would cut",
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_the_place_in_it(tmp_path: Path, changes: dict[str, object], place: str) -> None:
    with pytest.raises(AccountsError, match=rf"{place}: .*deploy the image and the program of one version"):
        read_state(written(tmp_path, **changes), PostgresState)


@pytest.mark.parametrize("password", ["password", "", "hunter2"])
def test_a_password_that_was_not_generated_is_refused(tmp_path: Path, password: str) -> None:
    with pytest.raises(AccountsError, match=r"clients\.0\.password: "):
        read_state(written(tmp_path, clients=client(password=password)), PostgresState)


@pytest.mark.parametrize("login", ["orders", "orders.2", "orders.03", "billing.3"])
def test_a_login_that_is_not_the_client_s_of_this_generation_is_refused(tmp_path: Path, login: str) -> None:
    with pytest.raises(AccountsError, match=rf"the login {login} is not orders\.3"):
        read_state(written(tmp_path, clients=client(login=login)), PostgresState)


def redis(folder: Path, *rules: str) -> RedisState:
    clients = [{"name": "orders", "login": "orders.3", "password": "a-password-long-enough", "rules": rules}]
    return read_state(written(folder, **REDIS | {"clients": clients}), RedisState)


def test_rules_of_redis_are_keys_channels_and_commands(tmp_path: Path) -> None:
    rules = ("~orders:*", "%R~prices:*", "&orders:*", "+@all", "-@dangerous", "+script|load", "-client|tracking")
    assert redis(tmp_path, *rules).clients[0].rules == rules


@pytest.mark.parametrize(
    "rule", ["on", "off", "nopass", ">secret", "#0123", "<secret", "!0123", "reset", "allkeys", "allcommands", "(~a +get)", "+get +set", ""]
)
def test_what_is_no_rule_about_keys_channels_or_commands_is_refused(tmp_path: Path, rule: str) -> None:
    with pytest.raises(AccountsError, match=r"clients\.0\.rules\.1: "):
        redis(tmp_path, "~orders:*", rule)


def test_a_user_of_redis_without_rules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AccountsError, match=r"clients\.0\.rules: "):
        redis(tmp_path)


def test_a_refused_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(AccountsError) as refused:
        read_state(written(tmp_path, clients=client(password="hunter2")), PostgresState)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("schema", [RedisState, RabbitmqState, ConsulState])
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


@pytest.mark.parametrize(
    ("name", "login"),
    [
        ("orders.3", Login("orders", 3)),
        ("user-service.12", Login("user-service", 12)),
        ("orders", Login("orders", 0)),
        ("orders.x", Login("orders.x", 0)),
        ("orders.", Login("orders.", 0)),
        ("a.b.2", Login("a.b", 2)),
    ],
)
def test_an_account_s_name_says_whose_it_is_and_of_which_generation(name: str, login: Login) -> None:
    assert Login.parse(name) == login
