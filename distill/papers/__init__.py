"""The claims of the papers, recomputed where that is possible."""
