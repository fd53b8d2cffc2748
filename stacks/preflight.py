"""Looks at the cluster before anything is registered: does the context exist, does the API server answer, is its version supported?"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false
# (the Kubernetes client's kubeconfig functions carry no types)
import os
from pathlib import Path
from typing import cast

import pulumi
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from urllib3.exceptions import HTTPError

from components import versions

TIMEOUT_SECONDS = 10


class UnusableCluster(pulumi.RunError):
    """The cluster cannot take the platform. Pulumi prints the message alone and touches nothing."""


def supported(major: str, minor: str) -> bool:
    """Whether Groundwork supports Kubernetes `major`.`minor`; providers write things like `34+`."""
    return f"{major}.{minor.rstrip('+')}" in versions.KUBERNETES_SUPPORTED


def check(context: str, stack_file: str) -> None:
    """Asks the API server of `context` for its version, within ten seconds.

    Raises UnusableCluster that names the key to change.
    """
    kubeconfig = os.environ.get("KUBECONFIG", str(Path.home() / ".kube" / "config"))
    fix = "pulumi config set --path settings.cluster.context NAME"
    try:
        contexts = {known["name"] for known in cast("list[dict[str, str]]", config.list_kube_config_contexts()[0])}
        if context not in contexts:
            names = ", ".join(sorted(contexts)) or "none"
            raise UnusableCluster(
                f"settings.cluster.context = {context!r} in {stack_file}: no such context in {kubeconfig}; there are: {names}. Set it: {fix}"
            )
        api = config.new_client_from_config(context=context)
    except ConfigException as error:
        raise UnusableCluster(
            f"settings.cluster.context = {context!r} in {stack_file}: {error}. Point KUBECONFIG at a kubeconfig, or set: {fix}"
        ) from None
    try:
        version = client.VersionApi(api).get_code(_request_timeout=TIMEOUT_SECONDS)
    except (ApiException, HTTPError, OSError) as error:
        raise UnusableCluster(
            f"the API server of context {context!r} does not answer ({type(error).__name__}): is the cluster up, and may you reach it?"
        ) from None
    if not supported(str(version.major), str(version.minor)):
        raise UnusableCluster(
            f"context {context!r} runs Kubernetes {version.major}.{version.minor}; "
            f"supported are {', '.join(versions.KUBERNETES_SUPPORTED)}: upgrade the cluster, or choose another context"
        )
