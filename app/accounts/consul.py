"""Tokens and policies of Consul: one of each for every client, and one for the servers themselves.

https://developer.hashicorp.com/consul/api-docs/acl/tokens, https://developer.hashicorp.com/consul/api-docs/acl/policies
"""

from __future__ import annotations

import json
import logging
import ssl

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.accounts import https, waiting
from app.accounts.desired import ConsulAccount, ConsulState
from app.accounts.errors import AccountsError, NotYet
from app.accounts.https import Api

MARK = "groundwork: "  # begins the description of our tokens: others are left alone
PREFIX = "groundwork-"  # begins the names of our policies
HEADER = "X-Consul-Token"

log = logging.getLogger(__name__)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Link(_Answer):
    """A policy, as a token names it."""

    name: str = Field(alias="Name")


class Token(_Answer):
    """A token, without its secret."""

    accessor: str = Field(alias="AccessorID")
    description: str = Field(alias="Description", default="")
    policies: list[Link] | None = Field(alias="Policies", default=None)

    @property
    def policy_names(self) -> list[str]:
        """The names of the token's policies."""
        return [policy.name for policy in self.policies or ()]


class Policy(_Answer):
    """A policy; its rules stand in single answers only."""

    id: str = Field(alias="ID")
    name: str = Field(alias="Name")
    rules: str = Field(alias="Rules", default="")


TOKEN = TypeAdapter(Token)
TOKENS = TypeAdapter(list[Token])
POLICY = TypeAdapter(Policy)
POLICIES = TypeAdapter(list[Policy])


async def own_token(api: Api, secret: str) -> Token | None:
    """The token with this secret id, or None where there is none."""
    answer = await api.call("GET", "/v1/acl/token/self", headers={HEADER: secret})
    return TOKEN.validate_python(answer.body) if answer.status == 200 else None


async def log_in(api: Api, management: str) -> None:
    """Raises NotYet until the servers know the management token: the first leader writes it a moment after it was elected."""
    if await own_token(api, management) is None:
        raise NotYet(
            "Consul does not know the management token (if that does not pass: its volumes were created with another one; "
            "bring it back, or delete the claims to begin anew)"
        )


async def ensure_policy(api: Api, client: ConsulAccount, existing: dict[str, Policy]) -> bool:
    """Makes the client's policy say what is declared. True where something changed."""
    name = PREFIX + client.name
    rules = json.dumps(client.rules, sort_keys=True)
    body = {"Name": name, "Description": f"What {client.name} may do.", "Rules": rules}
    if name not in existing:
        await api.must("PUT", "/v1/acl/policy", body)
        log.info("policy %s: created", name)
        return True
    path = f"/v1/acl/policy/{existing[name].id}"
    if POLICY.validate_python(await api.must("GET", path)).rules == rules:
        return False
    await api.must("PUT", path, body)
    log.info("policy %s: changed", name)
    return True


async def ensure_token(api: Api, client: ConsulAccount) -> tuple[str, bool]:
    """Makes the client's token exist with its policy alone. Its accessor id, and True where something changed."""
    secret = client.token.get_secret_value()
    policies = [PREFIX + client.name]
    body: dict[str, object] = {"Description": MARK + client.name, "Policies": [{"Name": name} for name in policies]}
    token = await own_token(api, secret)
    if token is None:
        token = TOKEN.validate_python(await api.must("PUT", "/v1/acl/token", {**body, "SecretID": secret}))
        log.info("token of %s: created", client.name)
        return token.accessor, True
    if token.policy_names == policies and token.description == body["Description"]:
        return token.accessor, False
    await api.must("PUT", f"/v1/acl/token/{token.accessor}", {**body, "AccessorID": token.accessor})
    log.info("token of %s: changed", client.name)
    return token.accessor, True


async def remove_strangers(api: Api, state: ConsulState, accessors: set[str]) -> int:
    """Removes our tokens and policies that are no longer declared: old ones of a rotation, and those of clients that are gone."""
    removed = 0
    for token in TOKENS.validate_python(await api.must("GET", "/v1/acl/tokens")):
        if token.description.startswith(MARK) and token.accessor not in accessors:
            await api.must("DELETE", f"/v1/acl/token/{token.accessor}")
            log.warning("a token of %s: not declared, removed; what was written with it is kept", token.description.removeprefix(MARK))
            removed += 1
    declared = {PREFIX + client.name for client in state.tokens}
    for policy in POLICIES.validate_python(await api.must("GET", "/v1/acl/policies")):
        if policy.name.startswith(PREFIX) and policy.name not in declared:
            await api.must("DELETE", f"/v1/acl/policy/{policy.id}")
            log.warning("policy %s: not declared, removed", policy.name)
    return removed


async def apply(state: ConsulState, management: str, trust: ssl.SSLContext, *, wait_seconds: float) -> str:
    """Applies `state` and returns a line about what was done. Raises AccountsError."""
    what = f"Consul at {state.host}:{state.port}"
    async with https.api(what, state.host, state.port, trust, headers={HEADER: management}) as api:
        await waiting.until(what, lambda: log_in(api, management), seconds=wait_seconds)

        async def agree() -> tuple[int, int]:
            existing = {policy.name: policy for policy in POLICIES.validate_python(await api.must("GET", "/v1/acl/policies"))}
            changed, accessors = 0, set[str]()
            for client in state.tokens:
                policy = await ensure_policy(api, client, existing)
                accessor, token = await ensure_token(api, client)
                accessors.add(accessor)
                changed += policy or token
            return changed, await remove_strangers(api, state, accessors)

        async def verify() -> None:
            for client in state.tokens:
                token = await own_token(api, client.token.get_secret_value())
                if token is None:  # a follower may lag behind the leader for a moment
                    raise NotYet(f"the token of {client.name} is not accepted yet")
                if token.policy_names != [PREFIX + client.name]:
                    raise AccountsError(f"the token of {client.name} has the policies {token.policy_names} after all was applied: run the Job again")

        changed, removed = await waiting.until(what, agree, seconds=wait_seconds)
        await waiting.until(what, verify, seconds=wait_seconds)
    return f"{len(state.tokens)} tokens are accepted, {changed} of them changed, {removed} removed"
