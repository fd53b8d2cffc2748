"""A kubeconfig that points at a recorded API server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from stacks.cluster.facts import ClusterFacts
from stacks.cluster.read import read
from tests.unit.cluster.apiserver import TOKEN, Answers, recorded, serving

NAMESPACE = "groundwork-dev"
Reading = Callable[..., ClusterFacts]


@pytest.fixture
def answers() -> Answers:
    """Those of a kubeadm cluster; a test changes them."""
    return Answers(recorded("kubeadm"))


@pytest.fixture
def server(answers: Answers) -> Iterator[ThreadingHTTPServer]:
    with serving(answers) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield running
        for held in answers.held.values():
            held.set()
        running.shutdown()
        thread.join()


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: ThreadingHTTPServer) -> None:
    file = tmp_path / "config"
    document: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "other",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in ("mine", "other")],
    }
    file.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))


@pytest.fixture
def facts(answers: Answers, kubeconfig: None) -> Reading:
    """Reads the cluster of the kind that is named, or the one of `answers`, with `changed` answers by path."""

    def reading(kind: str | None = None, **changed: object) -> ClusterFacts:
        if kind is not None:
            answers.by_path = recorded(kind)
        answers.by_path.update(changed)
        return read("mine", "dev", NAMESPACE)

    return reading
