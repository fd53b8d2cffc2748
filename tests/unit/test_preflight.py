"""The cluster is looked at before anything is registered, and what is wrong with it is said with the fix."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import yaml

from stacks import preflight
from stacks.preflight import UnusableCluster


class FakeApiServer(BaseHTTPRequestHandler):
    """A fake: it answers /version and nothing else."""

    minor = "34"

    def do_GET(self) -> None:
        body = json.dumps(
            {
                "major": "1",
                "minor": self.minor,
                **dict.fromkeys(("gitVersion", "gitCommit", "gitTreeState", "buildDate", "goVersion", "compiler", "platform"), "x"),
            }
        )
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base class names it
        """Quiet."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), FakeApiServer) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: HTTPServer) -> None:
    file = tmp_path / "config"
    document: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "other",
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.server_port}"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": name, "context": {"cluster": "c", "user": "u"}} for name in ("mine", "other")],
    }
    file.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("KUBECONFIG", str(file))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(file))


@pytest.mark.usefixtures("kubeconfig")
@pytest.mark.parametrize("minor", ["34", "35+", "36"])
def test_a_supported_cluster_is_accepted(minor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeApiServer, "minor", minor)
    preflight.check("mine", "Pulumi.dev.yaml")


@pytest.mark.usefixtures("kubeconfig")
@pytest.mark.parametrize("minor", ["33", "37"])
def test_another_version_is_refused_with_those_that_are_supported(minor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeApiServer, "minor", minor)
    with pytest.raises(UnusableCluster, match=rf"runs Kubernetes 1\.{minor}; supported are 1\.34, 1\.35, 1\.36"):
        preflight.check("mine", "Pulumi.dev.yaml")


@pytest.mark.usefixtures("kubeconfig")
def test_a_context_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        UnusableCluster, match=r"settings\.cluster\.context = 'yours' in Pulumi\.dev\.yaml: no such context in .*; there are: mine, other"
    ):
        preflight.check("yours", "Pulumi.dev.yaml")


@pytest.mark.usefixtures("kubeconfig")
def test_an_api_server_that_is_gone_is_told_from_a_wrong_context(server: HTTPServer) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(UnusableCluster, match="the API server of context 'mine' does not answer"):
        preflight.check("mine", "Pulumi.dev.yaml")


def test_no_kubeconfig_at_all_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(UnusableCluster, match="Point KUBECONFIG at a kubeconfig"):
        preflight.check("mine", "Pulumi.dev.yaml")
