"""skeleton: a plugin of unstir. It names what it brings; nothing is imported until it is used."""

import unstir

UNSTIR_API = 1


@unstir.hookimpl
def unstir_data() -> dict[str, str]:
    """Datasets."""
    return {"skeleton/generated": "unstir_skeleton.task:Generated"}


@unstir.hookimpl
def unstir_tasks() -> dict[str, str]:
    """Questions."""
    return {"skeleton/gaps": "unstir_skeleton.task:Gaps"}


@unstir.hookimpl
def unstir_methods() -> dict[str, str]:
    """Answers."""
    return {"skeleton/linear": "unstir_skeleton.methods:Linear", "skeleton/diffusion": "unstir_skeleton.methods:Diffusion"}


@unstir.hookimpl
def unstir_metrics() -> dict[str, str]:
    """Numbers."""
    return {"skeleton/rmse": "unstir_skeleton.metrics:RootMeanSquare", "skeleton/worst": "unstir_skeleton.metrics:Worst"}


@unstir.hookimpl
def unstir_figures() -> dict[str, str]:
    """Pictures."""
    return {"skeleton/curves": "unstir_skeleton.metrics:Curves"}


@unstir.hookimpl
def unstir_recipes() -> dict[str, str]:
    """Recipes, as files of this package."""
    return {"skeleton/first": "unstir_skeleton:recipes/first.yaml"}
