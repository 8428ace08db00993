"""The data of a run as it begins: opened, looked at as a whole, and described."""

from ..console import warn
from ..data import Dataset, open_data
from ..data._check import check_data
from ..data._labels import LabelCounts
from ..errors import DataError
from ..run.card import DataCard
from ..settings.config import Config


def open_checked(config: Config, decode: bool = False) -> tuple[Dataset, Dataset | None, DataCard]:
    """Open the data; with ``decode`` everything is looked at first, as ``kdc data check`` does.

    Raises:
        DataError: what that command calls a problem, or no pixel to learn from.
    """
    options = config.data.options()
    data = open_data(config.data.source, "train", **options)
    for line in data.notes:
        warn(line)
    if not data.labelled:
        raise DataError(str(data.why_unlabelled()[0]))

    val: Dataset | None = None
    try:
        val = open_data(config.data.source, config.data.split, **options)
    except DataError as error:
        if config.data.split != "val":  # named by the user
            raise
        warn(f"no validation: {error}")
    if val is not None and not val.labelled:
        warn(f"{data.name} {val.split} has no labels: nothing is validated, the last weights are kept")
        val = None

    if decode and data.name != "builtin":
        labels = _checked(config)
        if val is not None and val.split in labels and not labels[val.split].labelled:
            warn(f"nothing is validated on {val.split}, the last weights are kept")
            val = None
        if config.task.weight and not labels["train"].labelled:
            raise DataError(
                f"no pixel of {data.name} train is labelled: there is nothing to learn but from a teacher alone, which "
                "kdc distill does with --set task.weight=0"
            )

    card = DataCard(
        name=data.name,
        source=data.source,
        options=data.options,
        classes=list(data.classes),
        palette=[list(colour) for colour in data.palette],
        num_classes=data.num_classes,
        size=(val or data).size(),
        fit=config.data.fit,
        train_images=len(data),
        val_images=len(val) if val else 0,
        fingerprint=data.fingerprint(),
        notes=list(data.notes),
    )
    return data, val, card


def _checked(config: Config) -> dict[str, LabelCounts]:
    """Check the data as ``kdc data check`` does, pass on what it warns of, and return the labels of each split."""
    report = check_data(config.data.source, **config.data.options())
    for line in report.warnings:
        warn(line)
    if report.problems:
        more = f" and {len(report.problems) - 1} more" if len(report.problems) > 1 else ""
        raise DataError(f"{report.problems[0]}{more}; see all with: kdc data check {config.data.source}")
    return report.labels
