"""Stand-ins for official Pulumi plugins that cannot be had from package registries: the same protocol, the same properties, on the sandbox only."""
