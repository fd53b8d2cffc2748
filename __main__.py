"""The Pulumi program: deploy the stack."""

from stacks.platform import deploy

deploy()
