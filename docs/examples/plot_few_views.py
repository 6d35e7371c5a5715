"""
A chest from eight views
========================

The bundled chest CT is measured by eight parallel-beam views and reconstructed by filtered back-projection and by total variation, the two
baselines that any prior must beat.
"""

# %%
# A task makes cases of volumes: it simulates the measurement on a finer grid and keeps the truth apart.
import matplotlib.pyplot as plt

from unstir_medical.classical import FBP, AdmmTV
from unstir_medical.datasets import Lung1
from unstir_medical.metrics import PSNR
from unstir_medical.tasks import SparseViewCT

(case,) = SparseViewCT(views=8).cases(Lung1().load())
print(case.measurement)

# %%
# A method answers a case. Total variation gets a tenth of its usual work here, so that this page builds quickly.
methods = {"FBP": FBP(), "ADMM-TV": AdmmTV(outer=10)}
estimates = {title: method(case, None, seed=0) for title, method in methods.items()}
scores = {title: PSNR()(estimate, case)["psnr"].value for title, estimate in estimates.items()}

# %%
# One window for all, from -1000 to 400 HU.
figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), layout="constrained")
shown = {"truth": case.truth, **{f"{title}, {scores[title]:.1f} dB": found.data for title, found in estimates.items()}}
for axis, (title, volume) in zip(axes, shown.items(), strict=True):
    image = axis.imshow(volume.hu[24], cmap="gray", vmin=-1000, vmax=400)
    axis.set(title=title, xticks=[], yticks=[])
figure.colorbar(image, ax=axes, label="HU", shrink=0.8)

# %%
# ``unstir run medical/sparse-view-ct`` does the same with diffusion methods beside, intervals and a report.
