"""Get data and models: wheels of the package registry, and published data sets."""
