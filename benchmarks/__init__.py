"""Questions about the library, one folder each, answered by scripts of a copy of the repository (``pip install -e .``)."""
