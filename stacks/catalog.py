"""The kinds of engine: one entry each. Whatever must know all of them walks this table.

What a new kind touches besides its own files (components/NAME.py, stacks/kinds/NAME.py) is listed in docs/decisions/0005-a-new-engine.md; a test
walks the table and fails for each of these places that was forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping

from components.lib.engine import EngineArgs
from stacks.kind import Kind
from stacks.kinds import consul, postgres, rabbitmq, redis

_KINDS = (postgres.KIND, redis.KIND, rabbitmq.KIND, consul.KIND)
ENGINES: Mapping[str, Kind[EngineArgs]] = {kind.name: kind for kind in _KINDS}  # type: ignore[misc]
USABLE = tuple(kind.name for kind in _KINDS if not kind.for_all)  # what a service may have in its `uses`
FOR_ALL = tuple(kind.name for kind in _KINDS if kind.for_all)
