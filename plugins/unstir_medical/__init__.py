"""The medical plugin: three-dimensional inverse problems of imaging. Names only; everything else is imported on use."""

from __future__ import annotations

from unstir import hookimpl

UNSTIR_API = 1


@hookimpl
def unstir_data() -> dict[str, str]:
    """Bundled and packaged volumes, and a reader of any file."""
    names = {"lung1": "Lung1", "lung1-full": "Lung1Full", "lung2": "Lung2", "aorta": "Aorta", "abdomen": "Abdomen"}
    names |= {"siemens": "Siemens", "head": "Head", "ch2": "Ch2", "file": "FileVolume"}
    return {f"medical/{name}": f"unstir_medical.datasets:{cls}" for name, cls in names.items()}


@hookimpl
def unstir_tasks() -> dict[str, str]:
    """Computed tomography from few views or a part of the arc."""
    names = {"sparse-view-ct": "SparseViewCT", "limited-angle-ct": "LimitedAngleCT"}
    return {f"medical/{name}": f"unstir_medical.tasks:{cls}" for name, cls in names.items()}


@hookimpl
def unstir_forward_models() -> dict[str, str]:
    """The tasks' own simulations."""
    return unstir_tasks()


@hookimpl
def unstir_methods() -> dict[str, str]:
    """Classical reconstructions, diffusion methods, and the training of the prior."""
    return {
        "medical/fbp": "unstir_medical.classical:FBP",
        "medical/sirt": "unstir_medical.classical:SIRT",
        "medical/admm-tv": "unstir_medical.classical:AdmmTV",
        "medical/dps": "unstir_medical.diffusion:DPS",
        "medical/dds": "unstir_medical.diffusion:DDS",
        "medical/diffusion-mbir": "unstir_medical.diffusion:DiffusionMBIR",
        "medical/ct-prior": "unstir_medical.prior:CTPriorTraining",
    }


@hookimpl
def unstir_metrics() -> dict[str, str]:
    """Image quality and fidelity to the data."""
    names = {"psnr": "PSNR", "ssim": "SSIM", "nmse": "NMSE", "rmse-hu": "RMSE", "data-residual": "DataResidual"}
    return {f"medical/{name}": f"unstir_medical.metrics:{cls}" for name, cls in names.items()}


@hookimpl
def unstir_operators() -> dict[str, str]:
    """Parallel-beam projection."""
    return {"medical/parallel-beam-ct": "unstir_medical.tomography:parallel_beam"}


@hookimpl
def unstir_recipes() -> dict[str, str]:
    """Sparse-view and limited-angle CT, the demo, and the training of the prior."""
    names = ("sparse-view-ct", "limited-angle-ct", "demo", "ct-prior")
    return {f"medical/{name}": f"unstir_medical:recipes/{name}.yaml" for name in names}


@hookimpl
def unstir_figures() -> dict[str, str]:
    """Pictures of a CT run."""
    names = {"overview": "Overview", "slices": "Slices", "error-maps": "ErrorMaps", "residual": "Residual"}
    names |= {"std": "StandardDeviation", "sinogram": "Sinogram"}
    return {f"medical/{name}": f"unstir_medical.figures:{cls}" for name, cls in names.items()}


@hookimpl
def unstir_checkpoints() -> dict[str, str]:
    """The CT prior."""
    return {"medical/ct-prior": "unstir_data:checkpoints/medical/ct-prior"}


@hookimpl
def unstir_apply() -> dict[str, str]:
    """Reconstruct a sinogram, or a volume from simulated views."""
    return {"medical/reconstruct": "unstir_medical.apply:Reconstruct"}
