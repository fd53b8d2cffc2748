"""What the components share: contracts, names, the safe pod, the stateful server. Nothing here is a component of the platform."""
