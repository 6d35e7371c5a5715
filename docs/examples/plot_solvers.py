"""
How many evaluations does a solver need?
========================================

Without a trained network, and with the exact answer beside it: the data are a mixture of four normal laws in the plane, whose denoiser
:math:`E[x_0 | x_t]` is a closed form. Every deterministic solver follows the same flow from noise to data, so its end points can be
compared with those of the flow itself.
"""

# %%
# The denoiser, 400 starting points at the noisy end, and where the exact flow takes them.
import matplotlib.pyplot as plt

import unstir
from unstir.certify import gm4, gm4_points

denoiser = gm4()
noisy = gm4_points(sigma=80.0, count=400)
exact = denoiser.transport(noisy, 80.0, 0.002)

# %%
# Each solver starts at the same points, ``start=(state, t)``, and is given more and more steps. ``nfe`` counts what it used.
solvers = {"ddim": "DDIM, order 1", "heun": "Heun, order 2", "dpm++2m": "2M, order 2", "f3": "multistep F, order 3"}
errors = {name: [] for name in solvers}
for name in solvers:
    for steps in (5, 10, 20, 40, 80):
        grid = f"karras:{steps},sigma_max=80,sigma_min=0.002,to_zero=false"
        found = unstir.sample(denoiser, 400, solver=name, grid=grid, start=(noisy, 80.0))
        errors[name].append((found.nfe, float((found.x - exact).norm(dim=1).mean())))

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for name, title in solvers.items():
    left.loglog(*zip(*errors[name], strict=True), "o-", label=title)
left.set(xlabel="evaluations of the denoiser", ylabel="distance to the exact flow", title="Error against cost")
left.legend()
right.plot(*exact.T, ".", markersize=3)
right.set(xlabel="first coordinate", ylabel="second coordinate", title="Where the flow ends", aspect="equal")

# %%
# A sample depends on its seed and its index alone: the tenth of a hundred is the tenth of a thousand, in batches of seven too.
many = unstir.sample(denoiser, 1000, solver="ancestral", grid="karras:20", seed=1)
few = unstir.sample(denoiser, 100, solver="ancestral", grid="karras:20", seed=1, batch=7)
print(bool((many.x[9] == few.x[9]).all()), many.nfe)
