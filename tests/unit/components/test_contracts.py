"""An edge says why it is not encrypted, and ends at somebody; a use is one edge to one server."""

from __future__ import annotations

import pytest

from components.lib.contracts import Credentials, Edge, Endpoint, Placement, Protocol, Transport, Use, Workload
from components.lib.description import Demand, Description, PodShape, UnknownWorkload, together
from components.lib.workload import Resources

AT = Placement(stack="dev", namespace="groundwork-dev")
DOCUMENTS, POSTGRES = AT.workload("documents"), AT.workload("postgres")
SMALL, LARGE = Resources(cpu_m=10, memory_mib=100, cpu_limit_m=50), Resources(cpu_m=20, memory_mib=300, cpu_limit_m=40, scratch_mib=7)


def test_nothing_is_sent_in_clear_text_without_a_reason() -> None:
    with pytest.raises(ValueError, match="from documents to postgres:5432 is plain without a reason: say why, or encrypt it"):
        Edge(DOCUMENTS, POSTGRES, 5432, Transport.PLAIN)


@pytest.mark.parametrize("transport", [Transport.OWN_TLS, Transport.MESH])
def test_a_reason_for_clear_text_that_is_none_is_a_mistake(transport: Transport) -> None:
    with pytest.raises(ValueError, match=r"gives a reason \(because\), but is not plain"):
        Edge(DOCUMENTS, POSTGRES, 5432, transport, "because")


def test_a_typo_in_the_name_of_a_workload_is_refused_with_those_that_there_are() -> None:
    typo = Edge(DOCUMENTS, AT.workload("postgers"), 5432, Transport.OWN_TLS)
    with pytest.raises(
        UnknownWorkload, match="ends at groundwork-dev/postgers, which no part runs; there are: groundwork-dev/documents, groundwork-dev/postgres"
    ):
        together([Description((DOCUMENTS,), (typo,)), Description((POSTGRES,))])


def test_a_client_that_nobody_runs_is_refused_too() -> None:
    with pytest.raises(UnknownWorkload, match="groundwork-dev/documens"):
        together([Description((POSTGRES,), (Edge(AT.workload("documens"), POSTGRES, 5432, Transport.OWN_TLS),))])


def test_a_workload_of_the_same_name_elsewhere_is_another_one() -> None:
    with pytest.raises(UnknownWorkload, match="ends at elsewhere/postgres"):
        together([Description((DOCUMENTS, POSTGRES), (Edge(DOCUMENTS, Workload("postgres", "elsewhere"), 5432, Transport.OWN_TLS),))])


def test_parts_together_are_all_their_workloads_edges_and_pods() -> None:
    edge = Edge(DOCUMENTS, POSTGRES, 5432, Transport.OWN_TLS)
    whole = together(
        [Description((DOCUMENTS,), (edge,), Demand((PodShape((SMALL,), 2),))), Description((POSTGRES,), (), Demand((PodShape((LARGE,), 1),)))]
    )
    assert (whole.workloads, whole.edges, whole.demand.pods) == ((DOCUMENTS, POSTGRES), (edge,), 3)


@pytest.mark.parametrize("required", [True, False])
def test_a_use_is_an_encrypted_edge_that_is_required_as_the_use_is(required: bool) -> None:
    use = Use("postgres", POSTGRES, Endpoint("postgres.groundwork-dev.svc", 5432, "groundwork-ca"), Credentials("documents-postgres"), {}, required)
    assert use.edge(DOCUMENTS) == Edge(DOCUMENTS, POSTGRES, 5432, Transport.OWN_TLS, "", Protocol.TCP, required)


def test_the_containers_of_a_pod_count_together() -> None:
    shape = PodShape((SMALL, LARGE), pods=3)
    assert (shape.sum("cpu_m"), shape.sum("memory_mib"), shape.sum("cpu_limit_m")) == (90, 1200, 270)


def test_an_init_container_counts_where_it_is_larger_than_what_runs() -> None:
    assert PodShape((SMALL,), 2, (LARGE,)).sum("memory_mib") == 600
    assert PodShape((LARGE,), 2, (SMALL, SMALL)).sum("memory_mib") == 600


def test_the_largest_container_may_be_an_init_container_of_any_part() -> None:
    demand = Demand((PodShape((SMALL,), 2, (LARGE,)),)) + Demand((PodShape((SMALL,), 1),))
    assert (demand.largest("memory_mib"), demand.largest("cpu_limit_m")) == (300, 50)


def test_claims_are_counted_and_their_sizes_added() -> None:
    demand = Demand((PodShape((SMALL,), 3, claims=3, claim_gib=5), PodShape((SMALL,), 1, claims=1, claim_gib=2)))
    assert (demand.claims, demand.storage_gib) == (4, 17)


@pytest.mark.parametrize("bad", [{"cpu_m": 0}, {"memory_mib": 0}, {"scratch_mib": 0}, {"cpu_m": 100, "cpu_limit_m": 99}])
def test_resources_that_cannot_be_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"resources must be positive|below the request"):
        Resources(**{"cpu_m": 1, "memory_mib": 1, **bad})
