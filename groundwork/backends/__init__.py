"""Where registrations and configuration are kept: the embedded memory or Consul."""
