"""
What a guide or a steer makes of a measurement
==============================================

Three unknowns with a normal prior, two noisy measurements of them: the posterior is a closed form. Samples that know the measurement
by a guide or by a steer can be held against it.
"""

# %%
# The problem, its prior as a denoiser, and two ways to tell it the measurement: the solver sees a corrected estimate (guide), or the
# state is corrected after each step and keeps its noise (steer, as in DDS).
import matplotlib.pyplot as plt
import torch

import unstir
from unstir.certify import lg3
from unstir.guide import ProximalData
from unstir.operator import Dense
from unstir.steer import DataConsistency

problem = lg3()
operator = Dense(problem.matrix)
grid = "karras:60,sigma_max=80,sigma_min=0.002"
knowledge = {
    "nothing: the prior": {},
    "guide ProximalData": {"guides": [ProximalData(operator, problem.y[None], noise=0.3)]},
    "steer DataConsistency": {"steers": [DataConsistency(operator, problem.y[None], noise=0.3)]},
}
samples = {title: unstir.sample(problem.prior(), 600, solver="ddim", grid=grid, **extra).x.double() for title, extra in knowledge.items()}

# %%
# The ellipse holds 95 % of the exact posterior.
angle = torch.linspace(0, 6.2832, 200, dtype=torch.float64)
circle = torch.stack((angle.cos(), angle.sin()))
ellipse = problem.posterior_mean[:2, None] + 5.991**0.5 * torch.linalg.cholesky(problem.posterior_cov[:2, :2]) @ circle

figure, axes = plt.subplots(1, 3, figsize=(10, 3.6), sharex=True, sharey=True, layout="constrained")
for axis, (title, found) in zip(axes, samples.items(), strict=True):
    axis.plot(*found[:, :2].T, ".", markersize=3)
    axis.plot(*ellipse, color="black", linewidth=1)
    axis.set(title=title, xlabel="first unknown")
axes[0].set(ylabel="second unknown")

# %%
# The guide comes near to the posterior, the steer's samples spread too little: good for a reconstruction, no error bar.
print(f"exact posterior        trace of the covariance {problem.posterior_cov.trace():.3f}")
for title, found in samples.items():
    print(f"{title:22s} trace of the covariance {found.T.cov().trace():.3f}")
