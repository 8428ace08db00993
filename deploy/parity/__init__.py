"""Proof that two forms of one network agree."""
