"""Everything that can go wrong with the platform, one type each. Every error is a `PlatformError` whose message says what to do."""

from __future__ import annotations


class PlatformError(Exception):
    """The root of all errors of the runtime."""


class InvalidSettings(PlatformError):
    """A setting has a value that cannot work; the message names the key, the value and the fix."""


class UnusableToken(InvalidSettings):
    """A token's file holds characters that cannot stand in an HTTP header."""


class BackendUnavailable(PlatformError):
    """The registry's or configuration's back end cannot be reached or has no leader. Not the same as "nothing there"."""


class DeadlineExceeded(BackendUnavailable):
    """The back end did not answer within the deadline."""


class RateLimited(BackendUnavailable):
    """The server asks to come back later (429, or 503 with Retry-After). `retry_after` is in seconds, None where it did not say."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class BackendRefused(PlatformError):
    """The back end calls invalid what the platform itself made up. Whoever asked the platform can do nothing about it."""


class UnreadableRecord(BackendUnavailable):
    """What is stored under a name is nothing that this version can read: written by hand, or by a later version."""


class PermissionDenied(PlatformError):
    """The credentials do not allow the operation, or an answer was filtered by an access list."""


class NotOwner(PlatformError):
    """The caller acts on a service that belongs to somebody else."""


class QuotaExceeded(PlatformError):
    """The caller has as much of something as one caller may have; the message names the limit and its setting."""


class NotFound(PlatformError):
    """A successful answer says that the thing does not exist."""


class ServiceUnknown(NotFound):
    """No instance of the service was ever seen."""


class InstanceUnknown(NotFound):
    """The instance is not registered (any more): register it again."""


class Conflict(PlatformError):
    """The write lost against another one; read again and retry."""


class InstanceConflict(Conflict):
    """The instance id is registered by another owner or with another body."""


class InstanceAmbiguous(PlatformError):
    """Several services have an instance of that id, and the caller may change all of them: it must say which one it means."""


class InvalidConfig(PlatformError):
    """A configuration value cannot be used; the generation before it stays in force."""


class InvalidRequest(PlatformError):
    """An argument has a value that cannot work; the message names the field, the value and the fix."""


class AddressNotAllowed(InvalidRequest):
    """The address or path of a health check is outside what the policy allows."""


class PayloadTooLarge(InvalidRequest):
    """The value is larger than the back end keeps."""


class NoInstances(PlatformError):
    """The service is known, but no instance can be picked now."""


class StaleData(PlatformError):
    """The last known good answer is older than the caller accepts."""
