"""What Consul or the way to it can answer, one type each. All of them are the platform's own errors, only more precise."""

from __future__ import annotations

from dataclasses import dataclass

from groundwork.errors import BackendUnavailable, Conflict, NotFound, PermissionDenied


class ConnectionRefused(BackendUnavailable):
    """Nothing listens at the address."""


class ConnectionLost(BackendUnavailable):
    """The connection broke before the whole answer was here."""


class AddressUnresolved(BackendUnavailable):
    """The host name of the address has no entry in DNS."""


class CertificateRefused(BackendUnavailable):
    """The server's certificate is not signed by the configured CA, has another name, or TLS failed before that."""


class NoLeader(BackendUnavailable):
    """The servers are electing a leader: reads and writes fail until they have one."""


class ServerFailure(BackendUnavailable):
    """The server answered with an error of its own (5xx)."""


class BadAnswer(BackendUnavailable):
    """The answer is not what Consul's API promises: truncated, not JSON, or of another shape. A proxy may have answered."""


class AnswerTooLarge(BackendUnavailable):
    """The body is larger than the client accepts."""


class FilteredByAccessList(PermissionDenied):
    """The token may not see all of the answer, so what is missing from it means nothing."""


class SessionUnknown(NotFound):
    """The session has expired or was destroyed."""


@dataclass(frozen=True, slots=True)
class OperationError:
    """Why one operation of a transaction failed; `operation` counts from 0."""

    operation: int
    reason: str


class TxnConflict(Conflict):
    """The transaction was rolled back as a whole; `errors` says which operations did not hold."""

    def __init__(self, errors: tuple[OperationError, ...]) -> None:
        super().__init__("transaction rolled back: " + "; ".join(f"operation {e.operation}: {e.reason}" for e in errors))
        self.errors = errors
