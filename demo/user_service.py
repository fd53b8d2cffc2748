"""Users in PostgreSQL. `python -m demo.user_service`."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID, uuid4

import asyncpg
from fastapi import FastAPI
from pydantic import BaseModel, StringConstraints

from demo.schema import SchemaCheck
from groundwork import Platform, serving
from groundwork.engines.postgres import Pool, postgres_pool
from groundwork.errors import Conflict, InvalidSettings, NotFound
from groundwork.web.problem import responses

TABLES = """
CREATE TABLE IF NOT EXISTS users (id uuid PRIMARY KEY, name text NOT NULL, email text NOT NULL UNIQUE, created_at timestamptz NOT NULL DEFAULT now());
"""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00]*$")]


class NewUser(BaseModel):
    """A user as a client sends it."""

    name: Text
    email: Annotated[Text, StringConstraints(pattern=r"^[^@\s\x00]+@[^@\s\x00]+$")]


class User(NewUser):
    """A user as it is kept."""

    id: UUID


def routes(app: FastAPI, users: Pool) -> None:
    """The service's API."""

    @app.post("/api/v1/users", status_code=201, responses=responses(400, 409, 413, 503))
    async def create(new: NewUser) -> User:
        user = User(id=uuid4(), name=new.name, email=new.email)
        try:
            await users.execute("INSERT INTO users (id, name, email) VALUES ($1, $2, $3)", user.id, user.name, user.email)
        except asyncpg.UniqueViolationError:
            raise Conflict(f"a user with email {new.email} exists") from None
        return user

    @app.get("/api/v1/users/{user_id}", responses=responses(400, 404, 503))
    async def read(user_id: UUID) -> User:
        row = await users.fetchrow("SELECT id, name, email FROM users WHERE id = $1", user_id)
        if row is None:
            raise NotFound(f"there is no user {user_id}")
        return User.model_validate(dict(row))

    del create, read


async def main() -> None:
    """Serve until SIGTERM."""
    p = Platform.from_env(service="user-service")
    if p.settings.postgres is None:
        raise InvalidSettings("user-service needs `postgres`: add it to the service's `uses` in the stack file")
    async with postgres_pool(p.settings.postgres) as pool, p:
        p.health.add(SchemaCheck(pool, "users", TABLES), timeout=5.0)
        app = p.app("User service")
        routes(app, pool)
        await p.serve(app)


if __name__ == "__main__":
    serving.run(main())
