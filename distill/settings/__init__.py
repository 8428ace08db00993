"""Settings: typed, layered from defaults, presets, files and flags."""
