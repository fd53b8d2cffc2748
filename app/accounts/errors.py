"""What can go wrong when accounts are applied. Every message names the fix."""

from __future__ import annotations

from groundwork.errors import PlatformError


class AccountsError(PlatformError):
    """The accounts could not be applied; trying again will not help until what the message names is done."""


class NotYet(PlatformError):
    """The engine does not do its work yet; the next try may succeed."""


class Late(PlatformError):
    """The engine has seen a newer generation of accounts: this run has nothing to say any more."""
