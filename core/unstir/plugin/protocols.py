"""The contract of each noun a plugin brings: dataclasses that cross its border, and a protocol a noun.

What crosses is an ``xarray.Dataset`` with named dimensions, coordinates and units, or the domain's own standard object;
the core sees tensors.
Nouns are frozen dataclasses whose fields are the options of a recipe, each with a default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr
    from matplotlib.figure import Figure as MatplotlibFigure

    from unstir.denoiser import Denoiser

Data: TypeAlias = "xr.Dataset | Any"
"""An ``xarray.Dataset`` with dimensions, coordinates and units, or the domain's own standard object (RDKit Mol, PyG Data...)."""

Progress: TypeAlias = "Callable[[int, int], None] | None"
"""``progress(done, total)``, called as work goes on; ``None`` is silent."""

Setting: TypeAlias = "Mapping[str, Any]"
"""The varied keys of a recipe with one value each, as ``{"task.views": 8}``; empty where a recipe varies nothing."""


@dataclass(frozen=True)
class Case:
    """One instance of a task's question.

    Args:
        key: names the case in files and tables; lower-case letters, digits, hyphens, dots and underscores, unique within the run.
        truth: what is to be found, in physical units; ``None`` where nobody knows it, and always ``None`` when a method gets the case.
        measurement: what a method sees, in physical units.
        context: what else a method may know: geometry, the operator, the noise level. The runner adds ``"estimates"``,
            a dict from the labels in the method's ``needs`` to their ``Estimate`` of this case, and ``"device"`` (``"cpu"``, ``"cuda"``).
            The report reads two entries where a task gives them: ``"facts"``, a dict of what a reader must know of the measurement
            (``{"noise": "Poisson, 1e4 photons a ray"}``), and ``"simulated"``, true or a sentence that says how; the measurement's
            attribute ``simulated`` says the same.
    """

    key: str
    truth: Data | None
    measurement: Data
    context: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Estimate:
    """A method's answer to one case.

    Args:
        data: the answer, in the variables, dimensions, coordinates and units of the task's truth.
        nfe: evaluations of the denoiser that this estimate took, counted (the mean of 4 samples of 20 each: 80); 0 for a classical method.
        info: anything that JSON can hold (``"trace"``: a dict of lists, one value a step); arrays belong to ``data``.
    """

    data: Data
    nfe: int = 0
    info: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A metric's value for one case, with the parts that its interval is made from.

    Args:
        value: the value, in the unit of its ``MetricInfo``.
        parts: values of exchangeable parts (slabs, speakers, windows), resampled for the interval; empty: cases are resampled.
        combine: how parts make the value: ``"mean"``, ``"rms"`` (root of the mean square), or ``"psnr"``
            (-10 log10 of the mean; parts are squared errors relative to the data range squared).
    """

    value: float
    parts: tuple[float, ...] = ()
    combine: Literal["mean", "rms", "psnr"] = "mean"


@dataclass(frozen=True)
class MetricInfo:
    """What a reader must know of one number.

    Args:
        key: lower-case with hyphens, without the domain (``"psnr"``).
        title: as it stands in a table's head (``"PSNR"``).
        unit: ``"dB"``, ``"mm"``, or ``""`` where there is none.
        better: ``"up"`` when larger is better, ``"down"`` when smaller is, ``"neither"`` for a fact that is no race (a coverage, a width).
        definition: one sentence with the equation and its conventions (data range, region, variant).
        digits: digits after the point that a table shows at least; else what the interval supports.
    """

    key: str
    title: str
    unit: str
    better: Literal["up", "down", "neither"]
    definition: str
    digits: int = 0


@dataclass(frozen=True)
class Drawn:
    """One picture of a report.

    Args:
        name: file name without suffix, unique within the run; lower-case with hyphens.
        title: a few words.
        caption: a sentence that states the finding.
        figure: a matplotlib figure, units on its axes, readable at half size.
        data: the numbers shown, linked from the report; ``None`` for an image.
        case: key of the case shown, ``None`` when the picture is of the whole run.
    """

    name: str
    title: str
    caption: str
    figure: MatplotlibFigure
    data: pd.DataFrame | None = None
    case: str | None = None


@runtime_checkable
class Dataset(Protocol):
    """Ground truth from files or a bundled sample (hook ``unstir_data``).

    Class attribute ``tiny = True`` (optional) says that ``load`` with default options takes seconds, no network and little memory:
    the contract test then runs the recipes that use it.
    """

    card: str
    """Name of the card: ``cards/NAME.yaml`` in the package that holds the dataset, else in ``unstir_data``; "" for the user's own files."""

    def load(self) -> Iterable[Data]:
        """Yield the items one by one, each with its key in ``attrs["key"]`` (an item without ``attrs`` comes as ``(key, item)``)."""
        ...


@runtime_checkable
class ForwardModel(Protocol):
    """What turns truth into measurement (hook ``unstir_forward_models``)."""

    def __call__(self, truth: Data, *, seed: int) -> Data:
        """Measure ``truth`` (physical units); noise depends on ``seed`` alone."""
        ...


@runtime_checkable
class Task(Protocol):
    """A question: cases from data, and what judges an answer (hook ``unstir_tasks``).

    Class attributes ``case_noun`` and ``part_noun`` (optional) are the domain's words, in the singular, for a case and for a part of one
    that intervals resample (``"patient"``, ``"slab"``); tables and reports say "case" and "part" without them.
    """

    metrics: tuple[str, ...]
    """Registered metrics that judge it when a recipe names none."""
    figures: tuple[str, ...]
    """Registered figures drawn when a recipe names none."""

    def read(self, path: Path) -> Data:
        """Read a user's own ground truth (``--data FILE``) as an item like those of a dataset; reads what ``export`` writes, too.

        Other arguments, each with a default, are options of the data (``--set data.series=2``).

        Raises:
            DataError: the file is missing or is not what the task needs, in one sentence.
        """
        ...

    def cases(self, items: Iterable[Data]) -> Iterable[Case]:
        """Make the cases, with their truth; the same items give the same cases, bit for bit."""
        ...

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        """Write the estimate in the domain's own formats beside ``stem`` (suffix added) and return what was written.

        The runner keeps an ``xarray.Dataset`` as netCDF itself; any other estimate it reads back from the first of these files.
        """
        ...


@runtime_checkable
class Method(Protocol):
    """An answer to a task: a classical baseline or a diffusion method (hook ``unstir_methods``).

    A method of a prior may have ``check_prior(prior)``, which raises ``CheckpointError`` where the checkpoint does not fit: the runner
    asks before anything is computed or written.
    """

    needs: tuple[str, ...]
    """Labels of the methods of the same recipe whose estimates it starts from (``case.context["estimates"][label]``)."""
    uses_prior: bool
    """Does it need a checkpoint?"""

    def __call__(self, case: Case, prior: Denoiser | None, seed: int, *, progress: Progress = None) -> Estimate:
        """Answer a case whose truth was taken out; the same case, prior and seed give the same bits."""
        ...


@runtime_checkable
class Metric(Protocol):
    """Numbers that judge one estimate (hook ``unstir_metrics``)."""

    def describe(self) -> list[MetricInfo]:
        """Say what each number is: one entry a key."""
        ...

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Score an estimate against a case with its truth; keys are those of ``describe``."""
        ...


@runtime_checkable
class SetMetric(Protocol):
    """Numbers that judge all estimates of a method together, as a distance of distributions does (hook ``unstir_metrics``)."""

    def describe(self) -> list[MetricInfo]:
        """Say what each number is: one entry a key."""
        ...

    def over(self, pairs: Sequence[tuple[Estimate, Case]]) -> dict[str, Score]:
        """Score the whole set at once; ``parts`` carry what the interval is made from, if anything."""
        ...


@runtime_checkable
class Figure(Protocol):
    """Pictures of a run (hook ``unstir_figures``)."""

    def draw(self, run: RunView) -> Iterable[Drawn]:
        """Draw from what the run folder holds; one colour scale a row, units on axes."""
        ...


@runtime_checkable
class Apply(Protocol):
    """A command on a user's own files (hook ``unstir_apply``); its other keyword arguments are the command's options."""

    def __call__(self, files: Sequence[Path], out: Path, *, device: str, progress: Progress, **options: Any) -> dict[str, Any]:
        """Write results under ``out``; a JSON-able summary with ``"files"``, the paths written, and, if any, ``"said"``, sentences to show.

        Raises:
            DataError: a file is not what the command needs, in one sentence.
        """
        ...


@runtime_checkable
class Training(Protocol):
    """How a method gets its prior: what the ``train`` key of a recipe names (hook ``unstir_methods``)."""

    def run(self, out: Path, *, device: str, progress: Progress, resume: bool) -> Any:
        """Train and write a checkpoint folder at ``out``; resumed after a kill it ends in the same weights."""
        ...


@runtime_checkable
class RunView(Protocol):
    """A run folder as figures, reports and observers see it."""

    @property
    def folder(self) -> Path:
        """Where the run is written."""
        ...

    @property
    def recipe(self) -> Any:
        """The recipe with every override applied; ``recipe.title`` is its title."""
        ...

    @property
    def labels(self) -> Sequence[str]:
        """Methods in the recipe's order, baselines first."""
        ...

    @property
    def settings(self) -> Sequence[Setting]:
        """One entry a combination of the varied keys; ``[{}]`` where nothing varies."""
        ...

    @property
    def rows(self) -> pd.DataFrame:
        """A row a job and metric: ``method``, ``case``, ``seed``, ``setting`` (a dict), ``metric``, ``value``, ``unit`` and more."""
        ...

    def cases(self) -> Sequence[str]:
        """Keys of the cases, in order."""
        ...

    def case(self, key: str, setting: Setting) -> Case:
        """The case with its truth, under one setting."""
        ...

    def estimate(self, label: str, case_key: str, setting: Setting) -> Estimate | None:
        """What a method answered; ``None`` where its job failed or has not run."""
        ...
