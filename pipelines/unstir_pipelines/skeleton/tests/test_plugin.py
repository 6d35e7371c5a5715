"""The contract of plugins, and what is special about this one."""

import numpy as np
from unstir_skeleton.methods import Linear
from unstir_skeleton.task import Gaps, Generated

from unstir.testing import check_plugin


def test_the_plugin_keeps_the_contract() -> None:
    """Every name resolves, every noun keeps its protocol, and the recipe on generated data runs."""
    assert check_plugin("skeleton") == ["skeleton/first"]


def test_with_every_sample_and_no_noise_the_baseline_is_exact() -> None:
    """Between samples that are all seen, there is nothing to interpolate."""
    for case in Gaps(keep=1, noise=0.0).cases(Generated(count=2).load()):
        estimate = Linear()(case, None, seed=0)
        np.testing.assert_allclose(estimate.data.signal, case.truth.signal, atol=1e-12)
