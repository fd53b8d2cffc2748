"""Registration: instances, their leases and who may change them."""

from groundwork.registry.client import RegistryClient
from groundwork.registry.discovery import RestDiscovery
from groundwork.registry.models import CheckSpec, Record, Registration, Stored
from groundwork.registry.service import Registered, ServiceRegistry

__all__ = ["CheckSpec", "Record", "Registered", "Registration", "RegistryClient", "RestDiscovery", "ServiceRegistry", "Stored"]
