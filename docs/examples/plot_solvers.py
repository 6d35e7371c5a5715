"""
How many evaluations does a solver need?
========================================

Without a trained network, and with the exact answer beside it: the data are a mixture of four normal laws in the plane, whose denoiser
``E[x_0 | x_t]`` is a closed form. Every deterministic solver follows the same flow from noise to data, so its end points can be
compared with those of the flow itself.
"""

# %%
# ``error_at`` starts at the same noisy points for every solver, sigma 80, gives it a number of evaluations on a grid uniform in log sigma
# down to 0.002, and takes the median distance to where the exact flow ends. ``unstir certify`` does the same for every registered solver
# on every process.
import matplotlib.pyplot as plt

import unstir
from unstir.certify import gm4, gm4_points
from unstir.certify.solvers import error_at
from unstir.process import EDM

families = {
    "a step at a time": {
        "ddim": "DDIM",
        "heun": "Heun",
        "dpm++2s": "DPM-Solver++ 2S",
        "dpm-solver-3s": "DPM-Solver 3S",
        "bdia": "BDIA, reversible",
    },
    "multistep in x0 and eps": {
        "dpm++2m": "DPM-Solver++ 2M",
        "dpm++3m": "DPM-Solver++ 3M",
        "unipc3": "UniPC 3",
        "deis3": "DEIS 3",
        "plms": "PLMS",
    },
    "multistep in v and F": {
        "vab3": "v, 3",
        "trig3": "F in theta, 3",
        "f3": "F in log sigma, 3",
        "logistic3": "F logistic, 3: the default",
        "logistic4": "F logistic, 4",
    },
}
evaluations = (6, 9, 12, 18, 24, 36, 48)

figure, axes = plt.subplots(1, 3, figsize=(11, 4.2), sharex=True, sharey=True, layout="constrained")
for axis, (title, solvers) in zip(axes, families.items(), strict=True):
    for (name, label), marker in zip(solvers.items(), "osv^D", strict=True):
        solver = unstir.names.solver(name)
        axis.loglog(evaluations, [error_at(solver, EDM(), nfe) for nfe in evaluations], marker=marker, markersize=4, label=label)
    axis.set(title=title, xlabel="evaluations of the denoiser")
    axis.set_xticks(evaluations, [str(nfe) for nfe in evaluations], minor=False)
    axis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower left")
axes[0].set(ylabel="median distance to the exact flow")

# %%
# What a solver interpolates matters as much as its order. The median is kind to solvers that send a few points elsewhere: DEIS leads it at
# few evaluations, and not the root-mean-square error below. The grid matters too. The default, ``logistic3`` on ``logistic``, against two
# solvers on the grid that most libraries take:
denoiser = gm4()
noisy = gm4_points(sigma=80.0, count=400)
exact = denoiser.transport(noisy, 80.0, 0.002)
choices = {("dpm++2m", "karras"): "2M, Karras", ("deis3", "karras"): "DEIS 3, Karras", ("logistic3", "logistic"): "the default"}

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for ((solver, grid), title), marker in zip(choices.items(), "osD", strict=True):
    errors = []
    for steps in (5, 10, 20, 40):
        times = f"{grid}:{steps},sigma_max=80,sigma_min=0.002,to_zero=false"
        found = unstir.sample(denoiser, 400, solver=solver, grid=times, start=(noisy, 80.0))
        errors.append((found.nfe, float((found.x - exact).square().sum(1).mean().sqrt())))
    left.loglog(*zip(*errors, strict=True), marker=marker, label=title)
left.set(xlabel="evaluations of the denoiser", ylabel="RMSE to the exact flow", title="Solver and grid together")
left.set_xticks((5, 10, 20, 40), ("5", "10", "20", "40"))
left.minorticks_off()
left.grid(alpha=0.3)
left.legend()
right.plot(*exact.T, ".", markersize=3)
right.set(xlabel="first coordinate", ylabel="second coordinate", title="Where the flow ends", aspect="equal")

# %%
# A sample depends on its seed and its index alone: the tenth of a hundred is the tenth of a thousand, in batches of seven too.
many = unstir.sample(denoiser, 1000, solver="ancestral", grid="karras:20", seed=1)
few = unstir.sample(denoiser, 100, solver="ancestral", grid="karras:20", seed=1, batch=7)
print(bool((many.x[9] == few.x[9]).all()), many.nfe)
