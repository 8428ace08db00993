"""The images that networks are evaluated on, as flags and as one value."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ...distill.errors import UsageError

if TYPE_CHECKING:
    from ...distill.data import Dataset
    from ...distill.run.folder import Run


@dataclass(frozen=True)
class EvaluationData:
    """Images of a split.

    Attributes:
        data: a data set's name or folder; None is the data of the run that is evaluated.
        split: of the data.
        classes: how many a folder of masks has, where it does not say.
        ignore_index: label value in its files that counts nowhere.
        limit: only the first so many images.
        sets: other options of the data, as ``--set data.KEY=VALUE`` names them.
    """

    data: Annotated[str | None, typer.Option(metavar="NAME|DIR|CARD", help="Data; those of the run if not named.")] = (
        None
    )
    split: Annotated[str, typer.Option(help="Split of the data.")] = "val"
    classes: Annotated[int | None, typer.Option(min=1, help="Number of classes of a folder of masks.")] = None
    ignore_index: Annotated[int | None, typer.Option(help="Label value in the files that counts nowhere.")] = None
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first images.")] = None
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="data.KEY=VALUE", help="Describe the data further, as a card does."),
    ] = None

    def open(self, run: "Run | None") -> "Dataset":
        """Open the split; ``run`` is what is evaluated, None a file of no run.

        Raises:
            UsageError: no data are known, or flags that describe none.
            DataError: as ``open_data``.
        """
        described = (self.classes, self.ignore_index, self.sets)
        if self.data is not None:
            from ...distill.data import open_data
            from ...distill.settings.layers import data_options

            return open_data(self.data, self.split, **data_options(self.data, *described))
        if any(value is not None for value in described):
            raise UsageError("--classes, --ignore-index and --set describe --data DIR; name the data too")
        if run is None:
            raise UsageError("files that are not in a run folder have no data of their own; name them: --data NAME|DIR")
        return run.open_data(self.split)


OWN_DATA = EvaluationData()
