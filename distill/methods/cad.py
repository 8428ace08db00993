"""Channel-wise angular distillation: a vector per channel (Rethinking KD with Raw Features, equation 7)."""

from ._angular import Angular


class Cad(Angular):
    """Channel-wise angular distillation of the last backbone feature.

    ad = mean over images and channels of || f_s / ||f_s|| - f_t / ||f_t|| ||^2 = 2 (1 - cos), norms over H x W.
    `at` is the tap; where the channels differ a trained 1x1 convolution, BN and ReLU adapt the student's.
    The published recipe adds kd with reduction element and weight 10: ``--preset cad``.
    """

    dims = (2, 3)
