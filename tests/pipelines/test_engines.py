from pathlib import Path

import pytest

from unstir.errors import UserError
from unstir_pipelines.api import Run, RunFailed, run


def go(recipe: str | Path = "toy/lines", **options) -> Run:
    return run(recipe, **{"report": False, "out": "out", **options})


def same_estimates(one: Run, two: Run) -> bool:
    return all(
        one.estimate(job.method, job.case, one.settings[job.setting]).data.identical(
            two.estimate(job.method, job.case, two.settings[job.setting]).data
        )
        for job in one.jobs()
    )


def test_spawned_workers_give_the_same_bits(read_numbers):
    overrides = {"vary.task.noise": [0.1, 0.3]}
    here, spawned = go(out="here", overrides=overrides), go(out="spawned", overrides=overrides, workers=2)
    assert read_numbers(here.folder) == read_numbers(spawned.folder)
    assert same_estimates(here, spawned)


@pytest.mark.slow
def test_a_dask_cluster_gives_the_same_bits(read_numbers):
    distributed = pytest.importorskip("distributed")
    overrides = {"vary.task.noise": [0.1, 0.3]}
    here = go(out="here", overrides=overrides)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        there = go(out="there", overrides=overrides, engine="dask", client=client)
        assert read_numbers(here.folder) == read_numbers(there.folder)
        assert same_estimates(here, there)
        by_address = go(out="address", overrides=overrides, engine="dask", scheduler=cluster.scheduler_address)
        assert read_numbers(here.folder) == read_numbers(by_address.folder)


@pytest.mark.slow
def test_a_killed_dask_worker_costs_one_job(recipe: Path):
    distributed = pytest.importorskip("distributed")
    recipe.write_text(recipe.read_text().replace("toy/keep", "toy/die"))
    with (
        distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        made = go(recipe, engine="dask", client=client)
    assert made.failures() == []
    assert made.estimate("keep", "line-1") is not None


@pytest.mark.slow
def test_a_worker_that_is_killed_once_costs_nothing(recipe: Path, toy):
    recipe.write_text(recipe.read_text().replace("toy/keep", "toy/die"))
    made = go(recipe, workers=1)
    assert made.failures() == []
    assert toy().count("die") == 1


@pytest.mark.slow
def test_a_job_that_kills_every_worker_is_one_failed_job(recipe: Path, toy):
    recipe.write_text(recipe.read_text().replace("{name: toy/keep}", "{name: toy/die, times: 99}"))
    with pytest.raises(RunFailed):
        go(recipe, workers=2)
    made = Run(Path("out"))
    assert [(record["method"], record["case"]) for record in made.failures()] == [("keep", "line-1")]
    assert made.failures()[0]["reason"] == "its worker was ended 2 times, the last by signal SIGKILL; it may need more memory than there is"
    assert toy().count("die") == 2


def test_a_run_may_go_on_with_another_engine(read_numbers):
    whole = go(out="whole")
    go(out="out")
    for path in Path("out/estimates").rglob("line-2*.job.json"):
        path.unlink()
    assert read_numbers(go(out="out", workers=1).folder) == read_numbers(whole.folder)


def test_workers_report_failures_like_the_process_does(recipe: Path):
    recipe.write_text(recipe.read_text().replace("toy/keep", "toy/fail"))
    with pytest.raises(RunFailed, match="keep failed on line-1: RuntimeError: the toy broke"):
        go(recipe, workers=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "slurm"}, "--engine must be one of local, dask, got 'slurm'"),
        ({"workers": -1}, "--workers must be at least 0, got -1"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
        ({"scheduler": "tcp://a:1"}, "--scheduler needs --engine dask"),
        ({"device": "cuda:999"}, "is not here: this machine has"),
    ],
)
def test_wrong_means_are_told_before_anything_is_written(options: dict, said: str):
    with pytest.raises(UserError, match=said):
        go(**options)
    assert not Path("out").exists()
