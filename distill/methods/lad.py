"""Layer-wise angular distillation: the whole feature as one vector (Rethinking KD with Raw Features, equation 5)."""

from ._angular import Angular


class Lad(Angular):
    """Layer-wise angular distillation of the last backbone feature.

    ad = mean over images of || F_s / ||F_s|| - F_t / ||F_t|| ||^2 = 2 (1 - cos), norms over the whole C x H x W vector.
    `at` is the tap; where the channels differ a trained 1x1 convolution, BN and ReLU adapt the student's.
    The published recipe adds kd with reduction element and weight 10: ``--preset lad``.
    """

    dims = (1, 2, 3)
