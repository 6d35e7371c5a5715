"""The plugin host: markers, hook specifications, the protocols of every noun, and discovery."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstir.lazy import attach

_LAZY = {
    "PROJECT": "markers",
    "API_VERSION": "markers",
    "hookspec": "markers",
    "hookimpl": "markers",
    "Apply": "protocols",
    "Case": "protocols",
    "Dataset": "protocols",
    "Drawn": "protocols",
    "Estimate": "protocols",
    "Figure": "protocols",
    "ForwardModel": "protocols",
    "Method": "protocols",
    "Metric": "protocols",
    "MetricInfo": "protocols",
    "RunView": "protocols",
    "Score": "protocols",
    "SetMetric": "protocols",
    "Task": "protocols",
    "Training": "protocols",
    "Host": "host",
    "PluginInfo": "host",
    "Reference": "reference",
}

__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.plugin.host import Host as Host
    from unstir.plugin.host import PluginInfo as PluginInfo
    from unstir.plugin.markers import API_VERSION as API_VERSION
    from unstir.plugin.markers import PROJECT as PROJECT
    from unstir.plugin.markers import hookimpl as hookimpl
    from unstir.plugin.markers import hookspec as hookspec
    from unstir.plugin.protocols import Apply as Apply
    from unstir.plugin.protocols import Case as Case
    from unstir.plugin.protocols import Dataset as Dataset
    from unstir.plugin.protocols import Drawn as Drawn
    from unstir.plugin.protocols import Estimate as Estimate
    from unstir.plugin.protocols import Figure as Figure
    from unstir.plugin.protocols import ForwardModel as ForwardModel
    from unstir.plugin.protocols import Method as Method
    from unstir.plugin.protocols import Metric as Metric
    from unstir.plugin.protocols import MetricInfo as MetricInfo
    from unstir.plugin.protocols import RunView as RunView
    from unstir.plugin.protocols import Score as Score
    from unstir.plugin.protocols import SetMetric as SetMetric
    from unstir.plugin.protocols import Task as Task
    from unstir.plugin.protocols import Training as Training
    from unstir.plugin.reference import Reference as Reference

__getattr__, __dir__ = attach(__name__, _LAZY)
