"""The machine that a measurement is taken on."""
