"""Last of the tier: `destroy` leaves nothing behind."""

# pyright: basic, reportOptionalMemberAccess=false
# (the Kubernetes client types every field of every answer as perhaps missing)

from __future__ import annotations

from kubernetes import client

from tests.e2e.cluster import Platform, eventually


def test_destroy_leaves_nothing(platform: Platform) -> None:
    platform.stack.destroy()

    def gone() -> bool | None:
        namespaces = {namespace.metadata.name for namespace in platform.core.list_namespace().items}
        volumes = [
            v.metadata.name
            for v in platform.core.list_persistent_volume().items
            if v.spec.claim_ref and v.spec.claim_ref.namespace == platform.namespace
        ]
        return (platform.namespace not in namespaces and not volumes) or None

    eventually("the namespace and its volumes are gone", gone, seconds=120)
    marked = client.RbacAuthorizationV1Api(platform.api).list_cluster_role(label_selector=f"app.kubernetes.io/instance={platform.stack.name}").items
    assert marked == []
