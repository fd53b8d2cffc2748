"""The REST APIs of the platform: registration and discovery, configuration."""
