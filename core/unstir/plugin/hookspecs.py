"""Every hook of unstir, each optional; a hook returns references, so that listing imports nothing.

``{"domain/thing": "module:attribute"}``; recipes and checkpoints are files: ``{"domain/thing": "package:relative/path"}``.
"""
# mypy: disable-error-code="empty-body"

from __future__ import annotations

from unstir.plugin.markers import hookspec
from unstir.plugin.protocols import Case, Estimate, RunView

References = dict[str, str]


@hookspec
def unstir_data() -> References:
    """Datasets: loaders of files and of bundled samples, each with a card."""


@hookspec
def unstir_forward_models() -> References:
    """What turns truth into measurement."""


@hookspec
def unstir_tasks() -> References:
    """Questions: cases from data, the forward model, which metrics judge them."""


@hookspec
def unstir_methods() -> References:
    """Answers, classical baselines and diffusion methods alike, and the trainings of their priors."""


@hookspec
def unstir_metrics() -> References:
    """Numbers that judge an estimate, or all estimates of a method together."""


@hookspec
def unstir_figures() -> References:
    """Pictures of a run."""


@hookspec
def unstir_networks() -> References:
    """Network classes that a checkpoint may name."""


@hookspec
def unstir_processes() -> References:
    """Ways data becomes noise."""


@hookspec
def unstir_solvers() -> References:
    """Ways to step from one time to the next."""


@hookspec
def unstir_guides() -> References:
    """What else a denoiser may know."""


@hookspec
def unstir_steers() -> References:
    """Where a state may go after a step."""


@hookspec
def unstir_operators() -> References:
    """How the world measures, with exact adjoints."""


@hookspec
def unstir_recipes() -> References:
    """Recipe files (YAML) the plugin carries."""


@hookspec
def unstir_checkpoints() -> References:
    """Checkpoint folders the plugin carries."""


@hookspec
def unstir_apply() -> References:
    """Commands on a user's own files: enhance, forecast, reconstruct, generate."""


@hookspec
def unstir_run_started(run: RunView) -> None:
    """Observe that a run begins; nothing has been computed yet."""


@hookspec
def unstir_case_finished(run: RunView, label: str, case: Case, estimate: Estimate) -> None:
    """Observe one estimate as it is written."""


@hookspec
def unstir_run_finished(run: RunView) -> None:
    """Observe that a run is complete, metrics and report included."""
