"""What a document is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field, StringConstraints


class Limits(BaseModel):
    """Live configuration, key `limits` of the service."""

    max_body_chars: Annotated[int, Field(gt=0)] = 20_000


class NewDocument(BaseModel):
    """A document as a client sends it."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
    body: Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
    author_id: UUID


class Document(NewDocument):
    """A document as it is kept. `indexed`: the search finds it."""

    id: UUID
    created_at: datetime
    indexed: bool = False


class FoundDocument(Document):
    """A document and where it was read."""

    source: Literal["cache", "database"]
