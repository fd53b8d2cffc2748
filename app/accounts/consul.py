"""Tokens and policies of Consul: a policy for every client and for the servers themselves, and a token of each generation for each.

https://developer.hashicorp.com/consul/api-docs/acl/tokens, https://developer.hashicorp.com/consul/api-docs/acl/policies
"""

from __future__ import annotations

import json
import logging
import ssl
from base64 import b64decode

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from app.accounts import certificates, https, waiting
from app.accounts.certificates import Listener
from app.accounts.desired import ConsulAccount, ConsulState
from app.accounts.errors import AccountsError, NotYet
from app.accounts.generations import obsolete, refuse_late
from app.accounts.https import Api

MARK = "groundwork: "  # begins the description of our tokens, `<client>.<generation>` follows: others are left alone
PREFIX = "groundwork-"  # begins the names of our policies
SEEN = "/v1/kv/groundwork/generation"  # the newest generation that was applied here
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


class Entry(_Answer):
    """A key of the key-value store."""

    value: str = Field(alias="Value")
    index: int = Field(alias="ModifyIndex")


ENTRIES = TypeAdapter(list[Entry])
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


async def keep_up(api: Api, generation: int) -> None:
    """Remembers `generation` in the key-value store. Raises Late where Consul has seen a newer one, NotYet where another run was faster."""
    answer = await api.call("GET", f"{SEEN}?consistent")
    entries = ENTRIES.validate_python(answer.body) if answer.status == 200 else []
    seen, index = (int(b64decode(entries[0].value)), entries[0].index) if entries else (0, 0)
    refuse_late("Consul", generation, seen)
    if generation > seen and await api.must("PUT", f"{SEEN}?cas={index}", generation) is not True:
        raise NotYet("another run has just written its generation")


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


async def ensure_token(api: Api, client: ConsulAccount, generation: int) -> bool:
    """Makes the client's token exist with its policy alone. True where something changed."""
    secret = client.token.get_secret_value()
    policies = [PREFIX + client.name]
    login = login_of(client, generation)
    body: dict[str, object] = {"Description": MARK + login, "Policies": [{"Name": name} for name in policies]}
    token = await own_token(api, secret)
    if token is None:
        await api.must("PUT", "/v1/acl/token", {**body, "SecretID": secret})
        log.info("token of %s: created", login)
        return True
    if token.policy_names == policies and token.description == body["Description"]:
        return False
    await api.must("PUT", f"/v1/acl/token/{token.accessor}", {**body, "AccessorID": token.accessor})
    log.info("token of %s: changed", login)
    return True


def login_of(client: ConsulAccount, generation: int) -> str:
    """What the other engines call the login: whose token it is, and of which generation."""
    return f"{client.name}.{generation}"


async def retire(api: Api, state: ConsulState) -> int:
    """Removes our obsolete tokens, and the policies of clients that are gone. How many tokens went."""
    logins = {login_of(client, state.generation) for client in state.tokens}
    retired = 0
    for token in TOKENS.validate_python(await api.must("GET", "/v1/acl/tokens")):
        login = token.description.removeprefix(MARK)
        if token.description.startswith(MARK) and obsolete(login, logins, state.generation):
            await api.must("DELETE", f"/v1/acl/token/{token.accessor}")
            log.warning("a token of %s: removed; what was written with it is kept", login)
            retired += 1
    declared = {PREFIX + client.name for client in state.tokens}
    for policy in POLICIES.validate_python(await api.must("GET", "/v1/acl/policies")):
        if policy.name.startswith(PREFIX) and policy.name not in declared:
            await api.must("DELETE", f"/v1/acl/policy/{policy.id}")
            log.warning("policy %s: not declared, removed", policy.name)
    return retired


async def reload(state: ConsulState, management: str, trust: ssl.SSLContext) -> None:
    """Makes every server read its files again. Raises NotYet where one did not, after all were asked."""
    problems: list[str] = []
    for server in state.servers:
        what = f"Consul at {server}:{state.port}"
        async with https.api(what, server, state.port, trust, headers={HEADER: management}) as api:
            try:
                await api.must("PUT", "/v1/agent/reload")
            except ssl.SSLCertVerificationError:
                raise
            except (NotYet, OSError) as error:
                problems.append(f"{what} does not read its files ({error})")
    if problems:
        raise NotYet("; ".join(problems))


async def apply(state: ConsulState, management: str, trust: ssl.SSLContext, *, wait_seconds: float) -> str:
    """Applies `state` and returns a line about what was done. Raises AccountsError, and Late where nothing was."""
    what = f"Consul at {state.host}:{state.port}"
    async with https.api(what, state.host, state.port, trust, headers={HEADER: management}) as api:
        await waiting.until(what, lambda: log_in(api, management), seconds=wait_seconds)

        async def agree() -> tuple[int, int]:
            await keep_up(api, state.generation)
            existing = {policy.name: policy for policy in POLICIES.validate_python(await api.must("GET", "/v1/acl/policies"))}
            changed = 0
            for client in state.tokens:
                policy = await ensure_policy(api, client, existing)
                token = await ensure_token(api, client, state.generation)
                changed += policy or token
            return changed, await retire(api, state) if state.retire else 0

        async def verify() -> None:
            for client in state.tokens:
                token = await own_token(api, client.token.get_secret_value())
                if token is None:  # a follower may lag behind the leader for a moment
                    raise NotYet(f"the token of {client.name} is not accepted yet")
                if token.policy_names != [PREFIX + client.name]:
                    raise AccountsError(f"the token of {client.name} has the policies {token.policy_names} after all was applied: run the Job again")

        changed, retired = await waiting.until(what, agree, seconds=wait_seconds)
        listeners = [Listener(server, state.port) for server in state.servers]
        await certificates.wait_for(what, state.certificate, listeners, trust, reload=lambda: reload(state, management, trust), seconds=wait_seconds)
        await waiting.until(what, verify, seconds=wait_seconds)
    return f"{len(state.tokens)} tokens are accepted, {changed} of them changed, {retired} retired"
