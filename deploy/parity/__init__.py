"""The gate: whether two forms of one network agree."""
