"""Finding instances of a service, from an in-process snapshot that a shared watch keeps current, and choosing one of them."""
