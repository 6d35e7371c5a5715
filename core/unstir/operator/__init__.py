"""Linear measurements y = A x: operators with exact adjoints, batched conjugate gradients, total variation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstir.lazy import attach

_LAZY = {
    "Operator": "base",
    "Sensor": "base",
    "Compose": "linear",
    "Dense": "linear",
    "Diagonal": "linear",
    "Identity": "linear",
    "Mask": "linear",
    "SliceWise": "linear",
    "SparseMatrix": "sparse",
    "Stack": "linear",
    "CGReport": "cg",
    "conjugate_gradients": "cg",
    "inner": "cg",
    "gmres": "krylov",
    "singular": "svd",
    "Singular": "svd",
    "Proximal": "proximal",
    "Trust": "proximal",
    "Gradient": "tv",
    "admm_tv": "tv",
    "Convolution": "convolution",
    "GaussianBlur": "convolution",
    "AveragePool": "resample",
    "Downsample": "resample",
    "Pad": "resample",
    "Fourier": "fourier",
    "Magnitude": "nonlinear",
    "Nonlinear": "nonlinear",
    "Saturation": "nonlinear",
    "gauss_newton": "nonlinear",
}
__all__ = list(_LAZY)

if TYPE_CHECKING:
    from unstir.operator.base import Operator as Operator
    from unstir.operator.base import Sensor as Sensor
    from unstir.operator.cg import CGReport as CGReport
    from unstir.operator.cg import conjugate_gradients as conjugate_gradients
    from unstir.operator.cg import inner as inner
    from unstir.operator.convolution import Convolution as Convolution
    from unstir.operator.convolution import GaussianBlur as GaussianBlur
    from unstir.operator.fourier import Fourier as Fourier
    from unstir.operator.krylov import gmres as gmres
    from unstir.operator.linear import Compose as Compose
    from unstir.operator.linear import Dense as Dense
    from unstir.operator.linear import Diagonal as Diagonal
    from unstir.operator.linear import Identity as Identity
    from unstir.operator.linear import Mask as Mask
    from unstir.operator.linear import SliceWise as SliceWise
    from unstir.operator.linear import Stack as Stack
    from unstir.operator.nonlinear import Magnitude as Magnitude
    from unstir.operator.nonlinear import Nonlinear as Nonlinear
    from unstir.operator.nonlinear import Saturation as Saturation
    from unstir.operator.nonlinear import gauss_newton as gauss_newton
    from unstir.operator.proximal import Proximal as Proximal
    from unstir.operator.proximal import Trust as Trust
    from unstir.operator.resample import AveragePool as AveragePool
    from unstir.operator.resample import Downsample as Downsample
    from unstir.operator.resample import Pad as Pad
    from unstir.operator.sparse import SparseMatrix as SparseMatrix
    from unstir.operator.svd import Singular as Singular
    from unstir.operator.svd import singular as singular
    from unstir.operator.tv import Gradient as Gradient
    from unstir.operator.tv import admm_tv as admm_tv

__getattr__, __dir__ = attach(__name__, _LAZY)
