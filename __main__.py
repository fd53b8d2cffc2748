"""The Pulumi program: deploy the stack."""

from stacks.deploy import deploy

deploy()
