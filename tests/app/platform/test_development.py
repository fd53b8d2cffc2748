"""Development on one machine without Consul, as docs/services.md says."""

from __future__ import annotations

import re
from pathlib import Path

from tests.app.platform.world import ROOT, call, eventually, make, running

DOCS = ROOT / "docs" / "services.md"
USER_SERVICE = """
from groundwork import Platform, serving

async def main() -> None:
    async with Platform.from_env(service="user-service") as p:
        app = p.app("Users")

        @app.get("/api/v1/users/{user_id}")
        async def read(user_id: str) -> dict[str, str]:
            return {"name": user_id.title()}

        await p.serve(app)

serving.run(main())
"""


def test_the_example_of_the_docs_runs_and_two_services_see_each_other_through_the_registry(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(# greeter/__main__\.py\n.*?)```", DOCS.read_text(), re.DOTALL)
    (tmp_path / "greeter.py").write_text(example)
    (tmp_path / "users.py").write_text(USER_SERVICE)
    registry = make("app", ["app"], tmp_path, {})
    both = {"registry": {"url": registry.url}}
    users = make("user-service", ["users"], tmp_path, both)
    greeter = make("greeter", ["greeter"], tmp_path, both)
    for service in (users, greeter):
        service.python_path = tmp_path
    with running(registry, users, greeter):
        url = f"{greeter.url}/api/v1/greetings/ada"
        eventually(lambda: call("GET", url).status == 200, 60, greeter.tail())
        assert call("GET", url).json() == {"text": "Hello, Ada"}
        assert users.stop() == 0
        eventually(lambda: call("GET", url).status == 503, 60, greeter.tail())
        assert call("GET", url).json()["type"] == "urn:platform:problem:service-unknown"
