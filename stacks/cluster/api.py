"""A way to the API server: the kubeconfig's context, and questions that have a deadline and a typed answer."""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# (the Kubernetes client's kubeconfig functions and its generic call carry no types)
import os
from pathlib import Path
from typing import TypeVar, cast

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from kubernetes.config.config_exception import ConfigException
from pydantic import BaseModel, ValidationError
from urllib3.exceptions import HTTPError

from stacks.cluster.facts import UnusableCluster

REQUEST_SECONDS = 10
CONNECTIONS = 8

Parsed = TypeVar("Parsed", bound=BaseModel)


class Forbidden(Exception):
    """The API server knows who asks, and that they may not."""


class NotThere(Exception):
    """The API server has no such thing."""


class ApiServer:
    """The API server of a context. Questions may be asked from several threads."""

    def __init__(self, api: client.ApiClient, context: str) -> None:
        self._api = api
        self.context = context

    def ask(self, path: str, answer: type[Parsed]) -> Parsed:
        """What GET `path` answers.

        Raises Forbidden, NotThere, or UnusableCluster where there is no answer that can be used.
        """
        # The client's class for each API takes a second to import; its call alone does not.
        request = self._api.param_serialize("GET", path, header_params={"Accept": "application/json"}, auth_settings=["BearerToken"])
        try:
            response = self._api.call_api(*request, _request_timeout=REQUEST_SECONDS)
            body = cast("bytes", response.read())
        except (ApiException, HTTPError, OSError) as error:
            raise UnusableCluster(
                f"the API server of context {self.context!r} does not answer ({type(error).__name__}): is the cluster up, and may you reach it?"
            ) from None
        match cast("int", response.status):
            case 200:
                return self._parse(path, body, answer)
            case 401:
                raise UnusableCluster(
                    f"the API server of context {self.context!r} does not know you (401): your credentials have ended or are another "
                    f"cluster's; log in again, then try: kubectl --context {self.context} auth whoami"
                )
            case 403:
                raise Forbidden
            case 404:
                raise NotThere
            case status:
                raise UnusableCluster(
                    f"the API server of context {self.context!r} answers {status} to GET {path}: is it healthy? "
                    f"See: kubectl --context {self.context} get --raw '/readyz?verbose'"
                )

    def _parse(self, path: str, body: bytes, answer: type[Parsed]) -> Parsed:
        try:
            return answer.model_validate_json(body)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise UnusableCluster(
                f"what the API server of context {self.context!r} answers to GET {path} cannot be read ({where}: {first['msg']}): "
                "is there something else at that address, such as a proxy?"
            ) from None

    def close(self) -> None:
        """Closes its connections."""
        self._api.close()


def connect(context: str, stack_file: str) -> ApiServer:
    """The API server of `context`, as the kubeconfig describes it. Nothing is asked yet.

    Raises UnusableCluster that names the key to change in `stack_file`.
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
        configuration = client.Configuration()
        config.load_kube_config(context=context, client_configuration=configuration)
    except ConfigException as error:
        raise UnusableCluster(
            f"settings.cluster.context = {context!r} in {stack_file}: {error}. Point KUBECONFIG at a kubeconfig, or set: {fix}"
        ) from None
    configuration.retries = 1  # by default three more, each with the whole timeout
    configuration.connection_pool_maxsize = CONNECTIONS
    return ApiServer(client.ApiClient(configuration), context)
