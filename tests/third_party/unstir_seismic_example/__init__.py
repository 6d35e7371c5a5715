"""Deconvolution of seismic traces: a plugin for unstir."""

import unstir

UNSTIR_API = 1
HERE = "unstir_seismic_example"


@unstir.hookimpl
def unstir_data():
    return {"seismic-example/generated": f"{HERE}.data:Generated"}


@unstir.hookimpl
def unstir_tasks():
    return {"seismic-example/deconvolution": f"{HERE}.task:Deconvolution"}


@unstir.hookimpl
def unstir_methods():
    return {"seismic-example/wiener": f"{HERE}.methods:Wiener", "seismic-example/diffusion": f"{HERE}.methods:Diffusion"}


@unstir.hookimpl
def unstir_metrics():
    return {"seismic-example/correlation": f"{HERE}.judges:Correlation"}


@unstir.hookimpl
def unstir_figures():
    return {"seismic-example/traces": f"{HERE}.judges:Traces"}


@unstir.hookimpl
def unstir_recipes():
    return {"seismic-example/first": f"{HERE}:recipes/first.yaml"}
