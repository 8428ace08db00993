"""kdc: distil, calibrate, export, prove and measure semantic-segmentation networks."""

__version__ = "0.1.0.dev0"
