"""What of the stack is in the cluster already; and what the asker may not see has a usual value and a warning with the way out."""

from __future__ import annotations

import pytest

from stacks.cluster.facts import ISSUER, Claim, StatefulSetFacts, UnusableCluster, assumed
from tests.unit.cluster.apiserver import Answers, recorded
from tests.unit.cluster.conftest import NAMESPACE, Reading

OWN = f"/api/v1/namespaces/{NAMESPACE}"
SECRETS = f"{OWN}/secrets"


@pytest.fixture(autouse=True)
def _stack(answers: Answers) -> None:
    answers.by_path |= recorded("stack")


def test_the_namespace_says_whose_it_is(facts: Reading) -> None:
    there = facts().namespace
    assert there is not None
    assert there.labels["app.kubernetes.io/instance"] == "dev"
    assert not there.terminating


def test_a_namespace_that_is_being_deleted_says_so(facts: Reading, answers: Answers) -> None:
    answers.by_path[OWN]["status"]["phase"] = "Terminating"
    answers.by_path[OWN]["metadata"]["labels"] = None
    there = facts().namespace
    assert there is not None
    assert (there.labels, there.terminating) == ({}, True)


def test_a_namespace_that_is_not_there_is_none_and_empty(facts: Reading, answers: Answers) -> None:
    answers.by_path = recorded("kubeadm")
    found = facts()
    assert found.namespace is None
    assert (found.claims, found.stateful_sets, found.done_jobs, found.kept, found.rotation) == ({}, {}, {}, {}, None)


def named(name: str, stack: str) -> dict[str, object]:
    labels = {"app.kubernetes.io/part-of": "groundwork", "app.kubernetes.io/instance": stack}
    return {"metadata": {"name": name, "labels": labels}}


def test_other_namespaces_of_the_stack_are_known_and_those_of_others_are_not(facts: Reading) -> None:
    listed = {"items": [named(NAMESPACE, "dev"), named("elsewhere", "dev"), named("theirs", "prod")]}
    assert facts(None, **{"/api/v1/namespaces": listed}).elsewhere == ("elsewhere",)


def test_volumes_are_what_was_asked_for_in_whole_gib_and_not_what_they_happen_to_hold(facts: Reading) -> None:
    assert facts().claims == {"data-postgres-0": Claim(8, "standard"), "data-redis-0": Claim(2, "fast"), "scratch": Claim(1, None)}


def test_engines_are_their_servers_their_image_and_the_class_they_name(facts: Reading) -> None:
    assert facts().stateful_sets == {
        "postgres": StatefulSetFacts(1, "postgres:17.11-bookworm", "standard"),
        "consul": StatefulSetFacts(3, "hashicorp/consul:1.22.7", None),
    }


def test_jobs_are_done_when_they_succeeded_and_not_when_they_failed_or_run(facts: Reading) -> None:
    assert facts().done_jobs == {"postgres-accounts-1f2e": "groundwork@sha256:" + "a" * 64}


def test_a_condition_that_does_not_hold_is_no_success(facts: Reading, answers: Answers) -> None:
    (job, *_) = answers.by_path[f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs"]["items"]
    job["status"]["conditions"] = [{"type": "Complete", "status": "Unknown"}]
    assert facts().done_jobs == {}


def test_kept_secrets_are_those_with_the_label_and_no_others(facts: Reading) -> None:
    kept = facts().kept
    assert {name: {key: value.get_secret_value() for key, value in values.items()} for name, values in kept.items()} == {
        "postgres-admin": {"password": "correct horse", "username": "postgres"},
        "empty": {},
    }


def test_no_value_of_a_secret_is_ever_printed(facts: Reading) -> None:
    found = facts()
    for text in (repr(found), str(found), repr(found.kept)):
        assert "correct horse" not in text
        assert "postgres-admin" in text


@pytest.mark.parametrize("value", ["no base64!", "/w=="])
def test_a_kept_secret_that_is_damaged_is_refused_by_name_and_not_by_value(value: str, facts: Reading, answers: Answers) -> None:
    answers.by_path[SECRETS]["items"][0]["data"]["password"] = value
    with pytest.raises(UnusableCluster, match="key password of the kept Secret postgres-admin is no text") as error:
        facts()
    assert value not in str(error.value)


def test_kept_secrets_that_may_not_be_read_stop_everything(facts: Reading, answers: Answers) -> None:
    answers.status[SECRETS] = 403
    with pytest.raises(UnusableCluster, match=f"you may not list secrets in namespace {NAMESPACE} in context 'mine'"):
        facts()


def test_where_there_is_no_namespace_its_secrets_are_nobody_s_business(facts: Reading, answers: Answers) -> None:
    answers.by_path = recorded("kubeadm")
    answers.status[SECRETS] = 403
    assert facts().warnings == ()


def test_the_rotation_that_was_reached_is_read_from_the_namespace(facts: Reading) -> None:
    assert facts().rotation == 3


def test_a_namespace_from_before_rotation_was_noted_has_none(facts: Reading, answers: Answers) -> None:
    answers.by_path[OWN]["metadata"]["annotations"] = {}
    assert facts().rotation is None


def test_a_rotation_that_is_no_number_is_refused_with_the_command_that_mends_it(facts: Reading, answers: Answers) -> None:
    answers.by_path[OWN]["metadata"]["annotations"] = {"groundwork/rotation": "three"}
    with pytest.raises(UnusableCluster, match=rf"is 'three', which is no number.*kubectl annotate --overwrite namespace {NAMESPACE}"):
        facts()


@pytest.mark.parametrize(
    ("path", "right", "way_out"),
    [
        ("/.well-known/openid-configuration", "get /.well-known/openid-configuration", "settings.cluster.issuer"),
        ("/apis", "get /apis", "network plugin"),
        ("/api/v1/namespaces/default/services/kubernetes", "get services in namespace default", "settings.cluster.api_server_cidrs"),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            "list endpointslices.discovery.k8s.io in namespace default",
            "settings.cluster.api_server_cidrs",
        ),
        ("/api/v1/namespaces/kube-system/services", "list services in namespace kube-system", "settings.cluster.dns"),
        (
            "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices",
            "list endpointslices.discovery.k8s.io in namespace kube-system",
            "settings.cluster.dns",
        ),
        ("/apis/apps/v1/daemonsets", "list daemonsets.apps in all namespaces", "settings.cluster.dns"),
        ("/api/v1/nodes", "list nodes", "IP families"),
        ("/apis/storage.k8s.io/v1/storageclasses", "list storageclasses.storage.k8s.io", "grow"),
        (f"{OWN}/persistentvolumeclaims", f"list persistentvolumeclaims in namespace {NAMESPACE}", "not checked"),
        (f"/apis/apps/v1/namespaces/{NAMESPACE}/statefulsets", f"list statefulsets.apps in namespace {NAMESPACE}", "not checked"),
        (f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", f"list jobs.batch in namespace {NAMESPACE}", "run again"),
    ],
)
def test_what_may_not_be_seen_is_one_warning_with_the_right_and_the_consequence(
    path: str, right: str, way_out: str, facts: Reading, answers: Answers
) -> None:
    answers.status[path] = 403
    (warning,) = facts().warnings
    assert warning.startswith(f"you may not {right} in context 'mine': ")
    assert way_out in warning


def test_what_may_not_be_seen_has_the_usual_value(facts: Reading, answers: Answers) -> None:
    complete = facts()
    for path in [*recorded("kubeadm"), *recorded("stack")]:
        if path not in {"/version", "/api/v1/namespaces/kube-system", OWN, SECRETS}:
            answers.status[path] = 403
    found, usual = facts(), assumed()
    assert (found.issuer, found.jwks_url, found.jwks_in_cluster) == (usual.issuer, usual.jwks_url, usual.jwks_in_cluster)
    assert (found.dns, found.network_plugin, found.ip_families) == (usual.dns, usual.network_plugin, usual.ip_families)
    assert (found.storage_classes, found.api_servers, found.claims) == ((), (), {})
    assert (found.uid, found.version, found.kept, found.rotation) == (complete.uid, complete.version, complete.kept, complete.rotation)


def test_a_cluster_whose_issuer_is_no_url_serves_no_discovery_and_is_warned_of(facts: Reading, answers: Answers) -> None:
    del answers.by_path["/.well-known/openid-configuration"]
    (warning,) = facts().warnings
    assert "does not serve /.well-known/openid-configuration" in warning
    assert "settings.cluster.issuer" in warning
    assert facts().issuer == ISSUER
