"""The cluster is looked at before anything is registered, and what is wrong with it is said with the fix."""

from __future__ import annotations

import json
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from stacks.cluster import api, inquiry
from stacks.cluster.facts import UnusableCluster
from stacks.cluster.read import read
from tests.unit.cluster.apiserver import TOKEN, Answers
from tests.unit.cluster.conftest import NAMESPACE, Reading

KUBE_SYSTEM = "/api/v1/namespaces/kube-system"
EXEC = "client.authentication.k8s.io/v1"
OWN = f"/api/v1/namespaces/{NAMESPACE}"


@pytest.mark.parametrize(("minor", "version"), [("34", "1.34"), ("35+", "1.35"), ("36", "1.36")])
def test_a_supported_cluster_is_accepted(minor: str, version: str, facts: Reading, answers: Answers) -> None:
    answers.by_path["/version"]["minor"] = minor
    assert facts().version == version
    assert facts().warnings == ()


@pytest.mark.parametrize(("major", "minor"), [("1", "33"), ("1", "9"), ("0", "99")])
def test_an_older_version_is_refused_with_those_that_are_supported(major: str, minor: str, facts: Reading, answers: Answers) -> None:
    answers.by_path["/version"] |= {"major": major, "minor": minor}
    with pytest.raises(UnusableCluster, match=rf"runs Kubernetes {major}\.{minor}; supported are 1\.34, 1\.35, 1\.36: upgrade"):
        facts()


@pytest.mark.parametrize(("major", "minor"), [("1", "37"), ("1", "100"), ("2", "0")])
def test_a_newer_version_is_used_with_a_warning(major: str, minor: str, facts: Reading, answers: Answers) -> None:
    answers.by_path["/version"] |= {"major": major, "minor": minor}
    (warning,) = facts().warnings
    assert f"runs Kubernetes {major}.{minor}, newer than what was tried (1.34, 1.35, 1.36)" in warning


def test_a_version_that_is_none_is_refused(facts: Reading, answers: Answers) -> None:
    answers.by_path["/version"]["minor"] = "x"
    with pytest.raises(UnusableCluster, match=r"Kubernetes 1\.x, which is no version"):
        facts()


@pytest.mark.usefixtures("kubeconfig")
def test_a_context_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        UnusableCluster, match=r"settings\.cluster\.context = 'yours' in Pulumi\.dev\.yaml: no such context in .*; there are: mine, other"
    ):
        read("yours", "dev", NAMESPACE)


def test_an_api_server_that_is_gone_is_told_from_a_wrong_context(facts: Reading, server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UnusableCluster, match="the API server of context 'mine' does not answer"):
        facts()


def test_no_kubeconfig_at_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(UnusableCluster, match="Point KUBECONFIG at a kubeconfig"):
        read("mine", "dev", NAMESPACE)


def test_credentials_that_have_ended_are_told_from_a_server_that_is_down(facts: Reading, answers: Answers) -> None:
    answers.status[KUBE_SYSTEM] = 401
    with pytest.raises(UnusableCluster, match=r"does not know you \(401\).*log in again"):
        facts()


def test_a_kubeconfig_that_runs_a_program_for_its_token_is_understood(facts: Reading, tmp_path: Path) -> None:
    """As those of the clouds do."""
    credential = {"apiVersion": EXEC, "kind": "ExecCredential", "status": {"token": TOKEN}}
    program = {"apiVersion": EXEC, "command": "echo", "args": [json.dumps(credential)], "interactiveMode": "Never"}
    kubeconfig = tmp_path / "config"
    document = yaml.safe_load(kubeconfig.read_text())
    document["users"][0]["user"] = {"exec": program}
    kubeconfig.write_text(yaml.safe_dump(document))
    assert facts().uid


@pytest.mark.parametrize("path", [KUBE_SYSTEM, OWN])
def test_what_must_be_known_and_may_not_is_refused_with_the_right_that_is_missing(path: str, facts: Reading, answers: Answers) -> None:
    answers.status[path] = 403
    with pytest.raises(UnusableCluster, match=rf"you may not get namespaces \({path.rpartition('/')[2]}\) in context 'mine'"):
        facts()


def test_a_server_that_fails_is_never_taken_for_one_that_has_nothing(facts: Reading, answers: Answers) -> None:
    answers.status["/apis/storage.k8s.io/v1/storageclasses"] = 503
    with pytest.raises(UnusableCluster, match=r"answers 503 to GET /apis/storage\.k8s\.io/v1/storageclasses"):
        facts()


@pytest.mark.parametrize("body", [b"<html>Log in to the hotel</html>", b'{"major": "1"}', b"[]"])
def test_something_else_at_the_address_is_told_from_an_api_server(body: bytes, facts: Reading, answers: Answers) -> None:
    answers.raw["/version"] = body
    with pytest.raises(UnusableCluster, match="what the API server of context 'mine' answers to GET /version cannot be read"):
        facts()


def test_a_server_that_keeps_silent_ends_the_question(facts: Reading, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "REQUEST_SECONDS", 0.2)
    answers.held["/version"] = threading.Event()
    with pytest.raises(UnusableCluster, match="does not answer"):
        facts()
    assert answers.asked["/version"] <= 2, "one more attempt, not three"


def test_the_whole_has_a_deadline_of_its_own(facts: Reading, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "DEADLINE_SECONDS", 1)
    answers.held["/api/v1/nodes"] = threading.Event()
    with pytest.raises(UnusableCluster, match=r"has not answered GET \S+ within 1 s of the first question"):
        facts()


def test_everything_is_asked_once(facts: Reading, answers: Answers) -> None:
    facts()
    assert set(answers.asked.values()) == {1}
    assert len(answers.asked) <= 18


def test_one_node_stands_for_all_however_many_there_are(facts: Reading, answers: Answers) -> None:
    facts()
    assert answers.queries["/api/v1/nodes"] == "limit=1"


def test_the_questions_do_not_wait_for_each_other(facts: Reading, answers: Answers) -> None:
    held = answers.held[KUBE_SYSTEM] = threading.Event()
    arrived = answers.held["/.well-known/openid-configuration"] = threading.Event()

    def release_when_others_were_asked() -> None:
        while not answers.asked["/.well-known/openid-configuration"]:
            threading.Event().wait(0.01)
        held.set()
        arrived.set()

    threading.Thread(target=release_when_others_were_asked, daemon=True).start()
    assert facts().uid
