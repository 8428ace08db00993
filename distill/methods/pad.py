"""Pixel-wise angular distillation: a vector per position (Rethinking KD with Raw Features, equation 8)."""

from ._angular import Angular


class Pad(Angular):
    """Pixel-wise angular distillation of the last backbone feature.

    ad = mean over images and positions of || f_s / ||f_s|| - f_t / ||f_t|| ||^2 = 2 (1 - cos), norms over channels.
    `at` is the tap; where the channels differ a trained 1x1 convolution, BN and ReLU adapt the student's.
    The published recipe adds kd with reduction element and weight 10: ``--preset pad``.
    """

    dims = (1,)
