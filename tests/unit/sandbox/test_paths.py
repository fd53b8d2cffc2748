"""Where the sandbox keeps things."""

from pathlib import Path

import pytest

from sandbox import paths
from sandbox.errors import SandboxError


def test_everything_lies_in_the_users_cache() -> None:
    assert paths.locate({"HOME": "/home/ada"}).root == Path("/home/ada/.cache/groundwork")


def test_the_cache_may_lie_elsewhere() -> None:
    assert paths.locate({"HOME": "/home/ada", "XDG_CACHE_HOME": "/var/cache"}).root == Path("/var/cache/groundwork")


def test_a_folder_too_deep_for_a_socket_is_refused_with_the_fix() -> None:
    with pytest.raises(SandboxError, match="too deep") as refused:
        paths.locate({"HOME": "/home/" + "a" * 60})
    assert "XDG_CACHE_HOME" in refused.value.fix


def test_sockets_stay_below_the_limit_of_their_name() -> None:
    place = paths.locate({"HOME": "/home/" + "a" * 24})
    assert len(str(place.containerd_socket)) < paths.SOCKET_LIMIT


def test_what_down_keeps_is_apart_from_the_caches() -> None:
    place = paths.Paths(Path("/c"))
    kept = (place.node, place.volumes, place.pulumi, place.passphrase, place.kubeconfig, place.pki)
    assert all(place.state in path.parents for path in kept)
    assert not any(place.state in path.parents for path in (place.tools, place.go_build, place.go_modules, place.images))
