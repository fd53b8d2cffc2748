"""Tables that are there before the first request, also on a database that was just created or restored empty."""

from __future__ import annotations

from groundwork.engines.postgres import Pool


class SchemaCheck:
    """A health check: ready means that `table` exists. Whoever finds it missing creates it; replicas that start together take turns."""

    name = "schema"
    component_type = "datastore"

    def __init__(self, pool: Pool, table: str, statements: str) -> None:
        self._pool = pool
        self._table = table
        self._statements = statements

    async def run(self) -> None:
        """Look, and create what is missing."""
        if await self._pool.fetchval("SELECT to_regclass($1) IS NOT NULL", self._table):
            return
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1))", self._table)
            await connection.execute(self._statements)

    async def close(self) -> None:
        """The pool belongs to the service."""
