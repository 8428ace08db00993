"""One interface to everything that runs a network, one file a runtime."""
