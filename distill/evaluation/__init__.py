"""A network judged on labelled images."""
