"""The ground: errors, checked arguments, registries, random numbers, processes."""
