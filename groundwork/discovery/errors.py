"""What discovery can say beyond the platform's own errors."""

from __future__ import annotations

from groundwork.errors import BackendUnavailable


class NotLoaded(BackendUnavailable):
    """Nothing was heard about the service yet, so nobody knows whether it has instances."""
