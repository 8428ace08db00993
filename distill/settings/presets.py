"""Published recipes by name: a method with the weights and the optimisation that it was launched with."""

from ..errors import UsageError, closest
from .config import Dotted

#: SGD at 0.02 for 40k iterations: CIRKD's recipe, to which KT and DIST change the weight decay
_CIRKD: Dotted = {
    "train.lr": 0.02,
    "train.weight_decay": 1e-4,
    "train.iters": 40000,
    "train.crop": (512, 1024),  # Cityscapes
    "task.aux_weight": 0.4,
}
#: of Pascal VOC in the same recipe
_VOC: Dotted = {"train.crop": (512, 512)}
#: the three structured baselines as their authors launched them, on one GPU with crops of 512x512
_ORIGINAL: Dotted = {
    "train.lr": 0.01,
    "train.weight_decay": 5e-4,
    "train.iters": 40000,
    "train.batch": 8,
    "train.crop": (512, 512),
    "task.aux_weight": 0.4,
}
#: a kd term of weight 10 that is the mean over elements
_ELEMENT: Dotted = {"method.kd.kd": 10.0, "method.kd.reduction": "element", "method.kd.T": 1.0}
#: Rethinking Knowledge Distillation with Raw Features; which kd it adds is inferred
_RETHINKING: Dotted = {
    "train.lr": 0.01,
    "train.weight_decay": 5e-4,
    "train.iters": 80000,
    "train.crop": (512, 1024),  # Cityscapes
    **_ELEMENT,
}
_KD = {"method.kd.kd": 1.0, "method.kd.T": 1.0}
_CWD_LOGITS = {"method.cwd.logits": 3.0, "method.cwd.T": 4.0}
#: CIRKD's form of the raw feature: a bare convolution, always there
_FITNET = {
    "method.naive.mse": 10.0,
    "method.naive.at": "dec",
    "method.naive.adapter": "conv",
    "method.naive.always": True,
}


def _adversary(method: str, loss: str, weight: float, optimizer: str, decay: bool) -> Dotted:
    """Return the settings of ``skd``'s discriminator, or of ``adv`` alone; it always trains on 0.1 of its loss."""
    values = {
        "adv": weight,
        "adv_loss" if method == "skd" else "loss": loss,
        "critic_weight": 0.1,
        "critic_optimizer": optimizer,
        "critic_lr": 4e-4,
        "critic_decay": decay,
        "critic_gp": 10.0,
    }
    return {f"method.{method}.{key}": value for key, value in values.items()}


#: flat settings, as a configuration file would hold them; crops are those of the data set that a recipe is for
PRESETS: dict[str, Dotted] = {
    "cirkd-kd": {"method.name": "kd", **_KD, **_CIRKD},
    "cirkd-skd": {
        "method.name": "skd",
        "method.skd.pixel": 1.0,
        "method.skd.pixel_reduction": "pixel",
        "method.skd.pair": 10.0,
        "method.skd.pool": "2x2",
        **_adversary("skd", "hinge", 0.001, "adam", decay=False),
        **_CIRKD,
    },
    "cirkd-ifvd": {
        "method.name": "kd+ifvd+adv",
        **_KD,
        "method.ifvd.ifvd": 20.0,
        **_adversary("adv", "hinge", 0.001, "adam", decay=False),
        **_CIRKD,
    },
    "cirkd-cwd": {
        "method.name": "kd+cwd+adv",
        **_KD,
        **_CWD_LOGITS,
        "method.cwd.feature": 50.0,
        "method.cwd.adapter": "conv",
        "method.cwd.divide": "student",
        **_adversary("adv", "hinge", 0.001, "adam", decay=False),
        **_CIRKD,
    },
    "cirkd-at": {"method.name": "kd+at", **_KD, "method.at.att": 10000.0, **_CIRKD},
    "cirkd-fitnet": {"method.name": "kd+naive", **_KD, **_FITNET, **_CIRKD},
    "cirkd-dsd": {"method.name": "dsd", "method.dsd.psd": 1000.0, "method.dsd.csd": 10.0, **_CIRKD},
    # on VOC CIRKD weighs both memory terms 0.01
    "cirkd": {
        "method.name": "cirkd",
        "method.cirkd.kd": 1.0,
        "method.cirkd.mb": 1.0,
        "method.cirkd.mp": 0.1,
        "method.cirkd.mr": 0.1,
        **_CIRKD,
    },
    "fitnet": {"method.name": "naive", **_FITNET, **_CIRKD},
    "skd-original": {
        "method.name": "skd",
        "method.skd.pixel": 10.0,
        "method.skd.pixel_reduction": "skd",
        "method.skd.pair": 0.5,
        "method.skd.pool": "scale:0.5",
        **_adversary("skd", "wgan-gp", 0.1, "sgd", decay=True),
        **_ORIGINAL,
    },
    "ifvd-original": {
        "method.name": "kd+ifvd+adv",
        **_ELEMENT,
        "method.ifvd.ifvd": 200.0,
        **_adversary("adv", "wgan-gp", 0.001, "adam", decay=True),
        **_ORIGINAL,
    },
    "cwd-original": {"method.name": "cwd", **_CWD_LOGITS, "method.cwd.feature": 0.0, **_ORIGINAL},
    "dist": {
        "method.name": "dist",
        "method.dist.dist": 1.0,
        "method.dist.aux_weight": 0.4,
        **_CIRKD,
        "train.weight_decay": 5e-4,
    },
    "mgd": {
        "method.name": "mgd+cwd",
        "method.mgd.mgd": 2e-5,
        "method.mgd.mask": 0.75,
        "method.mgd.at": "bb",
        **_CWD_LOGITS,
        "method.cwd.feature": 0.0,
        "train.lr": 0.01,
        "train.weight_decay": 5e-4,
        "train.iters": 40000,
        "train.crop": (512, 512),
    },
    "kt": {
        "method.name": "kt",
        **{f"method.kt.{term}": 1.0 for term in ("kd", "lt", "ft", "tri")},
        "method.kt.T": 4.0,
        "method.kt.aux_weight": 0.4,
        "method.kt.tuning_point": 0.25,
        **_CIRKD,
        "train.weight_decay": 5e-4,
    },
    "label-assisted": {
        "method.name": "label-assisted",
        "method.label-assisted.logits": 3.0,
        "method.label-assisted.T": 4.0,
        "model.dropout": 0.01,
        "model.teacher_dropout": 0.01,
        **_CIRKD,
        **_VOC,
        "task.aux_weight": 0.02,
    },
    # the teacher of label-assisted, by itself: kdc train
    "label-assist-teacher": {
        "method.name": "none",
        "model.hint": True,
        "model.dropout": 0.01,
        "task.dual_path": True,
        "task.consistency": 5.0,
        "task.hint_noise": 0.03,
        **_CIRKD,
        **_VOC,
    },
    # 50 epochs of VOC
    "pixel-pair": {
        "method.name": "pixel-pair",
        "method.pixel-pair.pa": 1.0,
        "method.pixel-pair.pi": 100.0,
        "model.arch": "deeplabv3plus",
        "model.student": "r18",
        "model.output_stride": 16,
        "model.teacher_stride": 16,
        "task.divide_by_batch": True,
        "train.lr": 0.007,
        "train.head_lr": 0.07,
        "train.weight_decay": 5e-4,
        "train.iters": 88200,
        "train.batch": 6,
        "train.crop": (513, 513),
    },
    # 90k steps are Cityscapes without COCO; VOC is trained 300k on COCO, then 30k; no crop is published
    "ka": {
        "method.name": "ka",
        "method.ka.adapt": 50.0,
        "method.ka.aff": 1.0,
        "train.lr": 0.007,
        "train.weight_decay": 4e-5,
        "train.iters": 90000,
    },
    **{name: {"method.name": f"{name}+kd", f"method.{name}.ad": 10.0, **_RETHINKING} for name in ("lad", "cad", "pad")},
}


#: dropout that the published code changes in its DeepLabV3 alone
DROPOUTS = ("model.dropout", "model.teacher_dropout")


def preset(name: str) -> Dotted:
    """Return a copy of the preset's settings.

    Raises:
        UsageError: there is no such preset; the message names the nearest.
    """
    if name not in PRESETS:
        raise UsageError(f"no preset '{name}'{closest(name, PRESETS)}; there are: {', '.join(PRESETS)}")
    return dict(PRESETS[name])
