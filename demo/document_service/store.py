"""Documents in PostgreSQL. A document and its place in the outbox are one transaction, so no document is ever forgotten by the index."""

from __future__ import annotations

import re
from uuid import UUID

from asyncpg import Record

from demo.document_service.models import Document
from groundwork.engines.postgres import Pool

TABLES = """
CREATE TABLE IF NOT EXISTS documents
  (id uuid PRIMARY KEY, title text NOT NULL, body text NOT NULL, author_id uuid NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
-- One row per document that is not indexed yet. It goes when the document is indexed, not when it was sent: a message that is lost is sent again.
CREATE TABLE IF NOT EXISTS outbox (document_id uuid PRIMARY KEY REFERENCES documents, sent_at timestamptz);
CREATE TABLE IF NOT EXISTS words (word text, document_id uuid REFERENCES documents, PRIMARY KEY (word, document_id));
"""
SELECT = "SELECT d.*, o.document_id IS NULL AS indexed FROM documents d LEFT JOIN outbox o ON o.document_id = d.id"
RESEND_SECONDS = 15  # without an index entry by then, the message is taken for lost


class Documents:
    """The documents and their index."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, document: Document) -> None:
        """Keep a document; when this returns, it survives."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO documents (id, title, body, author_id, created_at) VALUES ($1, $2, $3, $4, $5)",
                document.id,
                document.title,
                document.body,
                document.author_id,
                document.created_at,
            )
            await connection.execute("INSERT INTO outbox (document_id) VALUES ($1)", document.id)

    async def get(self, document_id: UUID) -> Document | None:
        """The document, None where there is none."""
        row = await self._pool.fetchrow(f"{SELECT} WHERE d.id = $1", document_id)
        return None if row is None else _document(row)

    async def search(self, word: str, limit: int = 100) -> list[Document]:
        """The newest documents with `word`."""
        rows = await self._pool.fetch(
            f"{SELECT} JOIN words w ON w.document_id = d.id WHERE w.word = $1 ORDER BY d.created_at DESC LIMIT $2", word.lower(), limit
        )
        return [_document(row) for row in rows]

    async def unsent(self, limit: int = 100) -> list[UUID]:
        """Documents whose message was never sent or seems lost."""
        rows = await self._pool.fetch(
            "SELECT document_id FROM outbox WHERE sent_at IS NULL OR sent_at < now() - make_interval(secs => $1) LIMIT $2",
            float(RESEND_SECONDS),
            limit,
        )
        return [row["document_id"] for row in rows]

    async def sent(self, document_ids: list[UUID]) -> None:
        """RabbitMQ has confirmed the messages."""
        await self._pool.execute("UPDATE outbox SET sent_at = now() WHERE document_id = ANY($1)", document_ids)

    async def index(self, document_id: UUID) -> Document | None:
        """Put the document's words into the index; doing it twice does no harm. None where there is no such document."""
        document = await self.get(document_id)
        if document is None:
            return None
        words = sorted(set(re.findall(r"\w+", f"{document.title} {document.body}".lower())))
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("INSERT INTO words (word, document_id) SELECT unnest($1::text[]), $2 ON CONFLICT DO NOTHING", words, document_id)
            await connection.execute("DELETE FROM outbox WHERE document_id = $1", document_id)
        return document.model_copy(update={"indexed": True})


def _document(row: Record) -> Document:
    return Document.model_validate(dict(row))
