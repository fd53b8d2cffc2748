"""The end of a rotation: when every client has rolled, the accounts of earlier generations lose their login.

It is a part of its own because it comes last: an engine's own Job adds accounts before the clients roll, and must not take any away.
"""

from __future__ import annotations

import pulumi
from pulumi_kubernetes import Provider, batch

from components.lib import accounts, labels, options
from components.lib.accounts import Accounts


class Retirement(pulumi.ComponentResource):
    """The Job that retires what is old in one engine. It should depend on all clients.

    The CronJob beside it brings accounts back to an engine that lost its volume. It takes none away: until an `up` has come to its end, it
    may not know of a service that was just added.
    """

    def __init__(self, name: str, args: Accounts, *, provider: Provider, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("groundwork:app:Retirement", name, None, opts)
        child = options.children(self, provider)
        done = accounts.apply(args, retire=True, child=child, depends_on=())
        workload = accounts.workload_name(args.engine)
        batch.v1.CronJob(
            workload,
            metadata=labels.metadata(workload, workload, args.at),
            spec=accounts.cron_job(accounts.template(args, workload, args.image), args.minute),
            # Version 0.1 had it in the engine's own component.
            opts=child(depends_on=[done], aliases=[pulumi.Alias(parent=args.owner)] if args.owner else ()),
        )
        self.register_outputs({})
