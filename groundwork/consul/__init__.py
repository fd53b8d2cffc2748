"""A thin, typed client of Consul's HTTP API, and the watch loop on top of its blocking queries."""
