"""Two services as a team would write them on the platform."""
