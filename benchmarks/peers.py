"""Parts of other libraries that their packages hide behind imports the measurements do not need."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from functools import cache


@cache
def k_diffusion_sampling() -> types.ModuleType:
    """The samplers of k-diffusion alone."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None:
        raise ModuleNotFoundError("No module named 'k_diffusion'")
    # Its package imports torchvision and training code; the samplers need one function of it.
    package, helpers = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
    package.__path__ = list(spec.submodule_search_locations or [])
    helpers.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]  # type: ignore[attr-defined]
    package.utils = helpers  # type: ignore[attr-defined]
    sys.modules.update({"k_diffusion": package, "k_diffusion.utils": helpers})
    return importlib.import_module("k_diffusion.sampling")
