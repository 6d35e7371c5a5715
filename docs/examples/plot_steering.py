"""
Guidance is no law, weighted particles are
==========================================

Classifier-free guidance with weight w is often taken for sampling ``p(x|c)^w p(x)^(1-w)``. It does not. In the plane that law can be
written down, so that the samples of guidance, and of particles that carry the weights which guidance leaves out, can be held against it.
The same particles follow a reward that nobody differentiates.
"""

# %%
# Two classes that overlap: of the wanted one, the mode on the left stands alone, and the one on the right in the crowd of the other class.
# A weight above 1 prefers what is the class's own. How much, is the question.
import matplotlib.pyplot as plt
import torch

import unstir
from unstir.certify.laws import ClassOracle
from unstir.guide import CFG
from unstir.steer import FK, TiltedCFG

law = ClassOracle([0.25, 0.25, 0.5], [[-1.2, 0.5], [1.2, 0.0], [1.2, -0.3]], [[0.35, 0.35], [0.35, 0.35], [0.7, 0.7]], [0, 0, 1])
wanted, anything = {"class": torch.tensor([0])}, {"class": torch.tensor([-1])}
weight, particles, problems = 3, 64, 48

line = torch.linspace(-4, 4, 161, dtype=torch.float64)
points = torch.cartesian_prod(line, line)
given, free = law.log_density(points, 0.0, wanted), law.log_density(points, 0.0)


def on_grid(log_density):
    """Probabilities of the points."""
    return torch.softmax(log_density, 0)


# %%
# Guidance moves every sample by the difference of two scores at its own noise level. ``TiltedCFG`` makes the same moves, and weighs them:
# 48 problems of 64 particles each, resampled where weights differ. Particles are samples: ``count`` is their product.
options = {"solver": "ancestral", "grid": "log-snr:150,sigma_max=20,sigma_min=0.01", "condition": wanted, "seed": 1}
count = problems * particles
guided = unstir.sample(law, count, guides=[CFG(weight, null=anything)], **options)
weighted = unstir.sample(law, count, steers=[TiltedCFG(weight, null=anything, particles=particles)], **options)


# %%
# A reward: keep near (0.5, 0.5). ``FK`` asks for its value at the estimates on the way and for nothing else.
def reward(x0, condition):
    return -2.0 * (x0 - 0.5).abs().sum(1)


rewarded = unstir.sample(law, count, steers=[FK(reward, particles=particles)], **options)

# %%
# Contours hold 50 and 95 % of the exact law of each column.
panels = {
    f"CFG, w = {weight}": (guided.x, on_grid(weight * given + (1 - weight) * free)),
    f"weighted particles, w = {weight}": (weighted.x, on_grid(weight * given + (1 - weight) * free)),
    "FK steering by a reward": (rewarded.x, on_grid(given + reward(points, None))),
}
figure, axes = plt.subplots(1, 3, figsize=(10, 3.9), sharex=True, sharey=True, layout="constrained")
for axis, (title, (x, probability)) in zip(axes, panels.items(), strict=True):
    highest = probability.sort(descending=True).values
    levels = [float(highest[int((highest.cumsum(0) < share).sum())]) for share in (0.95, 0.5)]
    found, exact = float((x[:, 0] > 0).double().mean()), float(probability[points[:, 0] > 0].sum())
    axis.plot(*x.T, ".", markersize=2, color="tab:blue", alpha=0.4)
    axis.contour(line, line, probability.view(161, 161).T, levels=levels, colors="black", linewidths=1)
    axis.axvline(0, color="gray", linewidth=0.8, linestyle=":")
    axis.set(title=f"{title}\n{found:.0%} on the right, exact {exact:.0%}", xlabel="first coordinate")
    axis.set(xlim=(-3, 3), ylim=(-1.5, 2), aspect="equal")
axes[0].set(ylabel="second coordinate")

# %%
# What the particles say of themselves: the smallest number of them that still counted.
print(f"smallest effective number of particles: {weighted.info['ess'].min():.0f} and {rewarded.info['ess'].min():.0f} of {particles}")
