"""No number of any metric of molecules, graphs and trajectories depends on the hash seed, the order of samples or the numbering of nodes.

Run as a script, this file prints the numbers of every registered metric, so that another interpreter can be asked for them.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from unstir import registry
from unstir.plugin.protocols import Case, Estimate

pytest.importorskip("rdkit", reason="RDKit is not installed")
pytest.importorskip("networkx", reason="networkx is not installed")

SMILES = [f"{'C' * left}{middle}{tail}" for left in (1, 2, 3) for middle in ("O", "N", "C#C") for tail in ("C", "CC", "c1ccccc1", "C1CC1")]
METRICS = [name for name in registry.names("metrics") if name.startswith(("molecules/", "graphs/"))]
CLOSE = 1e-9
"""Sums of float64 in another order; activations are float32, and are the same."""


def molecules(turned=False):
    """A case with as few made molecules as there are others, and an answer; or the same set in another order, its atoms too."""
    from rdkit import Chem

    from unstir_molecules.molecules import molecule_set

    pool = [Chem.CanonSmiles(one) for one in SMILES]
    made = [*pool[::3], pool[0], "", "C.O"]
    if turned:
        order = np.random.default_rng(1).permutation(len(made))
        made = [Chem.CanonSmiles(Chem.MolToSmiles(Chem.MolFromSmiles(made[i]), doRandom=True)) if made[i] else "" for i in order]
    return Estimate(molecule_set(made)), Case("toy", molecule_set(pool[1::2]), molecule_set(pool[::2]), {"count": len(made)})


def graphs(turned=False):
    """A case, and random graphs beside it; or the same graphs in another order, their nodes too."""
    from unstir_molecules.generators import Community
    from unstir_molecules.graphs import Graphs, part
    from unstir_molecules.opponents import ErdosRenyi

    (data,) = Community(count=20).load()
    case = Case("toy", part(data, "test"), part(data, "train"), {"count": 8})
    made = Graphs.of_dataset(ErdosRenyi()(Case("toy", None, case.measurement, case.context), None, 0).data)
    return Estimate((made.take(np.random.default_rng(1).permutation(8)).permuted(3) if turned else made).dataset("made")), case


def trajectories(turned=False):
    """A case, and futures a little off; or the same with its bodies and trajectories in another order."""
    from unstir_molecules.trajectories.datasets import Springs
    from unstir_molecules.trajectories.tasks import Trajectories, futures

    (case,) = Trajectories(given=6).cases(list(Springs(count=20).load()))
    y = case.truth["position"].values
    made, truth = futures(y + 0.05 * np.random.default_rng(0).standard_normal((2, *y.shape)), case), case.truth
    if turned:
        bodies, order = (np.random.default_rng(seed).permutation(truth.sizes[name]) for seed, name in ((1, "body"), (2, "trajectory")))
        made = made.isel(body=bodies, trajectory=order)
        truth = truth.isel(body=bodies, other=bodies, trajectory=order)
    return Estimate(made), Case(case.key, truth, case.measurement, case.context)


def numbers(turned=False):
    """Every number of every metric on the set that it judges, by metric and key."""
    sets = {"molecules": molecules(turned), "graphs": graphs(turned), "bodies": trajectories(turned)}
    found = {}
    for name in METRICS:
        domain = "bodies" if name in ("molecules/displacement", "molecules/energy") else name.partition("/")[0]
        estimate, case = sets[domain]
        found |= {f"{name} {key}": score.value for key, score in registry.resolve("metrics", name)()(estimate, case).items()}
    return found


@pytest.fixture(scope="module")
def here():
    """The numbers in this process."""
    pytest.importorskip("fcd", reason="fcd is not installed")
    return numbers()


def test_every_metric_gives_numbers(here):
    assert {name.partition(" ")[0] for name in here} == set(METRICS)
    assert len(here) > 40
    assert all(np.isfinite(value) for name, value in here.items() if not name.endswith("scaf"))  # no scaffold has two rings


def test_no_number_depends_on_the_hash_seed(here):
    other = str(1 + int(os.environ.get("PYTHONHASHSEED", "0").replace("random", "0")))
    environment = {**os.environ, "PYTHONHASHSEED": other, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True, check=True).stdout
    there = json.loads(told)
    assert list(there) == list(here)
    assert {name: repr(value) for name, value in there.items()} == {name: repr(value) for name, value in here.items()}


def test_no_number_depends_on_the_order_of_samples_or_the_numbering_of_nodes(here):
    assert numbers(turned=True) == pytest.approx(here, rel=CLOSE, abs=CLOSE, nan_ok=True)


if __name__ == "__main__":
    print(json.dumps(numbers()))
