"""The platform's own API services: registry, configuration, or both in one process for development."""
