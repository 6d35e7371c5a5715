"""Short names: what they stand for, what they refuse, and that objects print as one would type them."""

from __future__ import annotations

import inspect

import pytest

import unstir.grid
import unstir.process
import unstir.solver
from unstir import names
from unstir.errors import UnknownName, UserError
from unstir.grid import Karras, LogSNR, Times, Uniform
from unstir.process import EDM, VP
from unstir.solver import DDIM, Heun, Multistep, PredictorCorrector, Solver

MODULES = (unstir.solver, unstir.grid, unstir.process)
SPACE = {name: value for module in MODULES for name in dir(module) if inspect.isclass(value := getattr(module, name))}


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("dpm++2m", Multistep(start_up="none", variant="midpoint")),
        ("ddim", DDIM()),
        ("ddim:eta=0.85,temperature=0", DDIM(eta=0.85, temperature=0)),
        ("ddim:0.85", DDIM(eta=0.85)),
        (" ddim : eta = 0.5 , kind = dds ", DDIM(eta=0.5, kind="dds")),
        ("ancestral:temperature=0.5", DDIM(eta=1.0, temperature=0.5)),
        ("multistep:F,theta,3", Multistep("F", "theta", 3)),
        ("f4:scale=0.8", Multistep("F", predictor=4, start_up="full", scale=0.8)),
        ("heun", Heun()),
    ],
)
def test_solver_names(text: str, meant: Solver) -> None:
    assert names.solver(text) == meant
    assert names.solver(meant) is meant


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        ("karras:20", Karras(20)),
        ("karras:20,sigma_max=80,to_zero=false", Karras(20, sigma_max=80, to_zero=False)),
        ("log-snr:7,sigma-min=1e-3", LogSNR(7, sigma_min=1e-3)),
        ("logsnr:7", LogSNR(7)),
        ("uniform:50,t_max=none", Uniform(50)),
        ("times:1,0.5,0", Times((1, 0.5, 0))),
        ([1.0, 0.25, 0.0], Times((1.0, 0.25, 0.0))),
    ],
)
def test_grid_names(value: object, meant: object) -> None:
    assert names.grid(value) == meant


def test_process_names() -> None:
    assert names.process("vp:beta_max=10") == VP(beta_max=10)
    assert names.process("edm") == EDM()


@pytest.mark.parametrize("kind", ["solver", "grid", "process"])
def test_every_name_makes_an_object_that_prints_as_one_would_type_it(kind: str) -> None:
    for name, typed in names.known(kind).items():
        made = names.make(kind, {"times": "times:2,1"}.get(name, name if kind != "grid" else f"{name}:9"))
        assert eval(repr(made), dict(SPACE)) == made
        if kind != "grid":
            assert eval(typed, dict(SPACE)) == made


def test_a_solvers_print_leaves_out_what_is_not_changed() -> None:
    assert repr(DDIM(eta=0.85)) == "DDIM(eta=0.85)"
    assert repr(Multistep()) == "Multistep()"
    assert eval(repr(PredictorCorrector(DDIM(eta=0.5), snr=0.1)), dict(SPACE)) == PredictorCorrector(DDIM(eta=0.5), snr=0.1)


def test_what_a_name_stands_for_is_the_object_it_makes() -> None:
    target, options = names.stands_for("solver", "unipc2") or ("", {})
    assert (target, options) == ("unstir.solver.multistep:Multistep", {"corrector": 3})
    assert names.stands_for("grid", "karas") is None
    assert names.stands_for("task", "karras") is None


def test_an_unknown_name_lists_the_nearest_three() -> None:
    with pytest.raises(UnknownName, match=r"there is no solver 'dpm\+2m'; did you mean 'dpm\+\+2m'") as caught:
        names.solver("dpm+2m")
    assert len(caught.value.nearest) == 3
    with pytest.raises(UnknownName, match="there is no grid 'karas'; did you mean 'karras'"):
        names.grid("karas:20")
    with pytest.raises(UnknownName, match="process"):
        names.process("vpp")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("ddim:etta=0.5", "no option 'etta'; did you mean 'eta'"),
        ("heun:order=2", "no option 'order'"),
        ("ddim:eta=0.5,eta=0.6", "given twice"),
        ("ddim:eta=0.5,1", "must come before"),
        ("ddim:eta=2", r"eta must lie in \[0, 1\]"),
        ("ddim:1,2,dds,4", "does not make a solver"),
        ("multistep:output=y", "output must be one of"),
    ],
)
def test_an_option_that_does_not_fit_is_refused_in_a_sentence(text: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        names.solver(text)


def test_an_object_of_another_kind_is_refused() -> None:
    with pytest.raises(UserError, match="a solver is a short name such as"):
        names.solver(Karras(20))
    with pytest.raises(UserError, match="a grid is a short name"):
        names.grid(20)


def test_a_grid_without_steps_is_refused() -> None:
    with pytest.raises(UserError, match="'karras' does not make a grid"):
        names.grid("karras")
