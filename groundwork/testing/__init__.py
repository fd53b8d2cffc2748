"""For tests of services that use the runtime: a simulator of Consul with faults on demand, fixtures, and the contract that back ends pass."""
