"""What the commands that make sets share: the model, the method that draws of it, the real sets beside, how long it will take.

The model says which method draws of it: a discrete diffusion, GDSS, or blocks of PARD. A run that will take long is announced before it
begins, by the time that a few samples took in two steps.
"""

from __future__ import annotations

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import xarray as xr

from unstir.errors import CheckpointError, UnstirError, UserError
from unstir.plugin.chain import part
from unstir.plugin.protocols import Case, Estimate, Progress

LONG, LARGE = 60.0, 1.0
"""Seconds and GB above which a run is announced."""
PILOT = 256
"""Samples of two steps that the time of a run is told from."""
BYTES = 40
"""Of memory that each pair of nodes takes from the model to the set."""


@dataclass(frozen=True)
class MakeSets(ABC):
    """What the commands that make sets share.

    Args:
        model: a checkpoint, a registered name or a folder.
        n: how many.
        nodes: sizes other than the learnt ones: "8", "7-9", "7:1,9:3".
        steps: of the sampler; the method's or the model's own when 0.
        train: a file of what is not new; the training part of the data that the model names when empty.
        seed: of everything drawn.

    Raises:
        UserError: an option out of range.
    """

    model: str = ""
    n: int = 1000
    nodes: str = ""
    steps: int = 0
    train: str = ""
    seed: int = 0

    name: ClassVar[str]
    makes: ClassVar[str]

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UserError(f"n is how many {self.makes} are made and must be at least 1, got {self.n}")
        if self.steps < 0 or self.seed < 0:
            raise UserError(f"steps and seed must not be negative, got {self.steps} and {self.seed}")
        if self.nodes:
            from unstir_molecules.sampling import drawn_sizes

            drawn_sizes({str(2**31): 1.0}, 0, 0, self.nodes)  # refuses what is no size

    def __call__(self, files: Sequence[Path], out: Path, *, device: str = "cpu", progress: Progress = None) -> dict[str, Any]:
        """Make a set and write it.

        Args:
            files: none.
            out: folder of the results, made if needed.
            device: of the model ("cpu", "cuda").
            progress: told of hundredths of the sampling.

        Returns:
            ``files``, the paths written; ``said``, what happened in sentences; and ``results``, numbers.

        Raises:
            UserError: files were given, no such model, or one that cannot do what is asked.
            DataError: the file of ``train`` cannot be used.
        """
        if files:
            raise UserError(f"{self.name} makes {self.makes} of a model and takes no files, got {files[0]}")
        said: list[str] = []
        prior = self.loaded(device)
        method = self.method(prior, said)
        train, test = self.real(prior, said)
        case = Case("samples", None, train, {"count": self.n, "device": device})
        if prior.facts["sizes"] is None and train is None:
            raise UserError(f"{self.model} does not say how many nodes its graphs have: --train FILE says it")
        said += announced(method, case, prior, self.seed, device)
        started = time.perf_counter()
        estimate = method(case, prior, self.seed, progress=part(progress, 0, 1))
        seconds = {"sampling": time.perf_counter() - started}
        Path(out).mkdir(parents=True, exist_ok=True)
        return self.written(Path(out), Made(estimate, method, prior, train, test, seconds, said))

    def loaded(self, device: str) -> Any:
        """The model, on its device.

        Args:
            device: "cpu" or "cuda".

        Raises:
            UserError: no name was given, no such model, or one that makes something else.
        """
        import unstir
        from unstir import registry
        from unstir_molecules.sampling import vocabulary_of

        known = ", ".join(name for name in registry.names("checkpoints") if name.startswith(("molecules/", "graphs/")))
        if not self.model:
            raise UserError(f"{self.name} needs a model: --model NAME or a checkpoint folder (there are: {known or 'none registered'})")
        prior = unstir.load(self.model)
        makes = "graphs" if vocabulary_of(prior) is None else "molecules"
        if makes != self.makes:
            other = "plain graphs" if makes == "graphs" else "molecules"
            raise UserError(f"{self.model} is a model of {other}: unstir apply {makes}/generate --model {self.model}")
        return prior.to(device)

    def method(self, prior: Any, said: list[str]) -> Any:
        """The method that draws of a model.

        Args:
            prior: the model.
            said: what a reader must know is added.

        Raises:
            CheckpointError: there is none.
            UserError: an option that its method does not have.
        """
        return method_of(prior, nodes=self.nodes, steps=self.steps, model=self.model)

    @abstractmethod
    def real(self, prior: Any, said: list[str]) -> tuple[xr.Dataset | None, xr.Dataset | None]:
        """Training and test set of a model, ``None`` where they are not to be had.

        Args:
            prior: the model.
            said: where they come from is added.
        """

    @abstractmethod
    def written(self, out: Path, made: Made) -> dict[str, Any]:
        """Judge a set and write what there is to know of it.

        Args:
            out: the folder.
            made: the set.
        """

    def facts(self, made: Made) -> dict[str, Any]:
        """How a set was made, for its page.

        Args:
            made: the set.
        """
        train = "not known" if made.train is None else f"{made.train.attrs.get('key', 'a file')}: {len(next(iter(made.train.values()))):,}"
        seconds = {name: round(value, 1) for name, value in made.seconds.items()}
        usual = type(made.method)()
        options = {item.name: getattr(made.method, item.name) for item in fields(usual)}
        return {
            "model": self.model, "model_sha256": getattr(made.prior, "sha256", None), "method": type(usual).__name__, "samples": self.n,
            "options_that_are_not_the_default": {name: value for name, value in options.items() if value != getattr(usual, name)},
            "evaluations_a_sample": made.estimate.nfe, "seed": self.seed, "training_set": train, "seconds": seconds,
        }  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A set and where it comes from.

    Args:
        estimate: the set.
        method: that drew it.
        prior: the model.
        train: what is not new; ``None`` where it is not known.
        test: real ones that the model has not seen; ``None`` where there are none.
        seconds: by what they were spent on.
        said: what a reader must know.
    """

    estimate: Estimate
    method: Any
    prior: Any
    train: xr.Dataset | None
    test: xr.Dataset | None
    seconds: dict[str, float]
    said: list[str]


def method_of(prior: Any, *, nodes: str, steps: int, model: str, steering: Mapping[str, Any] | None = None) -> Any:
    """The method that draws of a model.

    Args:
        prior: the model.
        nodes: sizes other than the learnt ones.
        steps: of the sampler; its own when 0.
        model: its name, for errors.
        steering: options of `unstir_molecules.steering.Steering` that were asked for.

    Raises:
        CheckpointError: no method draws of it.
        UserError: its method cannot be steered so, or takes no sizes.
    """
    from unstir.denoiser import TokenDenoiser
    from unstir_molecules.discrete import Discrete
    from unstir_molecules.gdss.generation import GDSS
    from unstir_molecules.pard.generation import PARD

    blocks = all(hasattr(getattr(prior, "network", None), name) for name in ("prefix", "degrees", "first"))
    kind: Any = GDSS if prior.facts.get("model") == "gdss" else PARD if blocks else Discrete if isinstance(prior, TokenDenoiser) else None
    made: Any
    if kind is None:
        raise CheckpointError(f"{model} is a model of graphs that no method here draws of")
    steered = dict(steering or {})
    if kind is PARD:
        if nodes:
            raise UserError(f"{model} is a model of blocks, which decides on the number of nodes itself: leave out --nodes")
        if steered.pop("regressor", ""):
            raise UserError(f"{model} is a model of blocks, which is steered by svdd or fk: leave out --regressor")
        made = PARD(steps=steps, **steered)
    elif kind is GDSS:
        # the published steps have no law that particles could be weighed by
        predictor = "ancestral" if steered.get("by") == "tds" and steered.get("maximise") else ""
        made = GDSS(nodes=nodes, steps=steps, predictor=predictor, **steered)
    else:
        grid: Any = {"grid": f"uniform:{steps}"} if steps else {}
        made = Discrete(nodes=nodes, **grid, **steered)
    made.check_prior(prior)
    return made


def announced(method: Any, case: Case, prior: Any, seed: int, device: str) -> list[str]:
    """Say before a large run how large it is, told from a few samples of two steps; silent where it is small.

    Args:
        method: that draws.
        case: with the number of samples.
        prior: the model.
        seed: of the draws.
        device: of the model.

    Returns:
        The sentence, also given as a warning.
    """
    from unstir import names

    count = int(case.context["count"])
    own = prior.facts.get("sampler", {}).get("steps") or prior.facts.get("diffusion") or 50
    steps = int(names.grid(method.grid).steps) if hasattr(method, "grid") else method.steps or own
    copies = method.steering.copies if hasattr(method, "steering") else 1
    few = min(count, PILOT)
    if count * steps * copies < 400 * PILOT:  # the pilot would be no small part of it
        return []
    short = replace(method, grid="uniform:2") if hasattr(method, "grid") else replace(method, steps=2)
    started = time.perf_counter()
    short(replace(case, context={**case.context, "count": few}), prior, seed)
    seconds = (time.perf_counter() - started) * steps / 2 * count / few
    largest = max(map(int, prior.facts["sizes"] or {"1": 1}))
    memory = BYTES * count * largest**2 / 1e9
    if seconds < LONG and memory < LARGE:
        return []
    how = f"{steps} steps{f' of {copies} proposals' if copies > 1 else ''}"
    words = f"{count:,} samples of up to {largest} nodes in {how} take about {spell(seconds)} on {device} and {memory:.1g} GB"
    warnings.warn(f"{words}; a smaller -n or --steps is sooner done", stacklevel=3)
    return [words]


def spell(seconds: float) -> str:
    """A length of time in words.

    Args:
        seconds: of it.
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    return f"{round(seconds / 60)} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def registered(kind: str, data: str, said: list[str]) -> xr.Dataset | None:
    """The set that a model was trained on, or a bundled sample of it.

    Args:
        kind: "molecules" or "graphs".
        data: what the model's facts call it.
        said: where it comes from is added.
    """
    from unstir import registry

    name = f"{kind}/{data}"
    known = registry.names("data")
    for tried in (name, f"{name}-sample"):
        if tried not in known:
            continue
        try:
            found = next(iter(registry.resolve("data", tried)().load()))
        except UnstirError as error:
            said.append(f"{tried} cannot be loaded ({error})")
            continue
        said.append(f"novelty is judged against the training part of {tried}{'' if tried == name else f', not of {name}'}")
        return found
    what = f"the training set of this model ({data or 'it has no name'}) is not at hand"
    said.append(f"{what}, so novelty is not judged: --train FILE names one")
    return None
