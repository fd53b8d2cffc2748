"""Live configuration: layered trees from a back end, files and the environment, as typed models that are swapped whole."""
