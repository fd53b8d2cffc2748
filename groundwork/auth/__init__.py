"""Who calls: an OAuth2 resource server for the platform's APIs (RFC 6750, RFC 8725, RFC 9068)."""

from groundwork.auth.principal import ANONYMOUS, Principal
from groundwork.auth.verifier import InvalidToken, KeysUnavailable, TokenVerifier

__all__ = ["ANONYMOUS", "InvalidToken", "KeysUnavailable", "Principal", "TokenVerifier"]
