"""Generation of PARD: block after block, all graphs of a batch together.

    size_b ~ p(size | G_<b),   degree_b ~ p(degree | G_<b, size_b),   block b ~ p_diff( . | G_<b, size_b, degree_b);   size 0: complete

The earlier blocks are what the denoiser of a block is conditioned on, and only the block's own entries are in the state: each block is
one `unstir.sample` of the graphs that still grow. Those that are complete leave. Graph ``i`` depends on the seed and on ``i`` alone: its
noise is drawn under its own number, block by block, whoever else still grows. What clean nodes hold is worked out once a block
(`memory`). A reward is raised by choice among blocks (`choosing`); a scaffold is what a graph begins with, in the blocks of its own order:
the law is the model's, given that the first blocks of a graph are those.
Reference: Zhao, Ding and Akoglu 2024 (PARD), arXiv:2402.03687.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

import unstir
from unstir import names
from unstir.denoiser import TokenDenoiser
from unstir.errors import CheckpointError, UserError
from unstir.noise import NoiseSource
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir.process.categorical import draw
from unstir.process.discrete import by_leaf, uniforms
from unstir_molecules.dense import Dense, concatenated
from unstir_molecules.pard.blocks import Ordered, scene_of
from unstir_molecules.pard.choosing import Choice
from unstir_molecules.pard.memory import remembering
from unstir_molecules.sampling import as_set, vocabulary_of
from unstir_molecules.steering import Steering, scaffold_graph


@dataclass(frozen=True)
class PARD:
    """Draw graphs or molecules of a model of blocks.

    Args:
        solver: a solver of the core that takes one draw of noise a step, ``"discrete-ancestral"`` or ``"tau-leaping"``.
        steps: of a block; those it was trained with when 0.
        batch: graphs (of 9 nodes; fewer of larger ones) worked on at a time.
        maximise, by, particles, temperature, scaffold: see :class:`unstir_molecules.steering.Steering`; ``by`` is "svdd" or "fk".

    Raises:
        UserError: an option out of range.
    """

    solver: str = "discrete-ancestral"
    steps: int = 0
    batch: int = 512
    maximise: str = ""
    by: Literal["svdd", "fk"] = "svdd"
    particles: int = 8
    temperature: float = 0.05
    scaffold: str = ""

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.batch < 1 or self.steps < 0:
            raise UserError(f"batch must be at least 1 and steps at least 0, got {self.batch} and {self.steps}")
        names.solver(self.solver)
        if self.by not in ("svdd", "fk"):
            raise UserError(f"a model of blocks is steered by 'svdd' or 'fk', which choose among blocks, got {self.by!r}")
        self.steering  # noqa: B018 (its own checks)

    @property
    def steering(self) -> Steering:
        """How the graphs are steered."""
        return Steering(self.maximise, self.by, self.particles, self.temperature, scaffold=self.scaffold)

    def check_prior(self, prior: Any) -> None:
        """Refuse a checkpoint that is no model of blocks.

        Args:
            prior: a checkpoint's denoiser.

        Raises:
            CheckpointError: it is of another kind.
        """
        vocabulary_of(prior)
        check_blocks(prior)

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """``case.context["count"]`` new graphs.

        Args:
            case: of a task of generation.
            prior: a model of blocks.
            seed: of the draws.
            progress: told of graphs.

        Returns:
            The set; ``nfe`` is the mean number of evaluations of a graph, and ``info`` has the mean number of blocks.
        """
        self.check_prior(prior)
        steps = self.steps or int(prior.facts.get("diffusion", 50))
        made = generate(
            prior,
            int(case.context["count"]),
            steps=steps,
            solver=self.solver,
            seed=seed,
            batch=self.batch,
            steering=self.steering,
            progress=progress,
        )
        count = max(1, len(made.ordered))
        info = {"seed": seed, "solver": self.solver, "steps": steps, "blocks": float(made.ordered.blocks.sum()) / count}
        info["prior_sha256"] = getattr(prior, "sha256", None)
        return Estimate(as_set(made.ordered.graphs, vocabulary_of(prior), case.key), nfe=-(-int(made.nfe.sum()) // count), info=info)


@dataclass(frozen=True)
class Grown:
    """What `generate` gives.

    Args:
        ordered: the graphs, in order, with the block of each node and the degrees that were asked for.
        nfe: (count,) evaluations that each took: of the noise, and of what follows.
    """

    ordered: Ordered
    nfe: Tensor

    def kept(self, copies: int) -> Grown:
        """One of so many consecutive graphs, with the evaluations that all of them took.

        Args:
            copies: of each.
        """
        return self if copies == 1 else Grown(self.ordered.take(slice(0, None, copies)), self.nfe.view(-1, copies).sum(1))


def check_blocks(denoiser: Any) -> None:
    """Refuse a denoiser that is none of blocks.

    Args:
        denoiser: of a checkpoint.

    Raises:
        CheckpointError: it is of another kind.
    """
    if not isinstance(denoiser, TokenDenoiser) or not all(hasattr(denoiser.network, name) for name in ("prefix", "degrees", "first")):
        raise CheckpointError("this checkpoint is no model of blocks: take the method it was trained for")


def generate(
    denoiser: TokenDenoiser,
    count: int,
    *,
    steps: int = 50,
    solver: str = "discrete-ancestral",
    seed: int = 0,
    batch: int = 512,
    steering: Steering | None = None,
    progress: Progress = None,
) -> Grown:
    """Draw graphs.

    Args:
        denoiser: of blocks.
        count: how many.
        steps: of a block.
        solver: of the core, with one draw of noise a step.
        seed: of the draws; graph ``i`` depends on it and on ``i`` only.
        batch: graphs (of 9 nodes; fewer of larger ones) worked on at a time.
        steering: a reward, a scaffold; ``denoiser`` then has the facts of a checkpoint.
        progress: told of graphs.

    Returns:
        The graphs, the first of many being those of few.

    Raises:
        UserError: plain graphs cannot be steered so, or the scaffold does not fit.
    """
    network: Any = denoiser.network
    asked = steering or Steering()
    begun, words = (_begun(asked, denoiser), vocabulary_of(denoiser)) if asked.is_asked else (None, None)
    wanted, group = -(-count * asked.copies // asked.group) * asked.group, asked.group
    size = max(1, int(batch * 81 / max(9, network.largest) ** 2) // group) * group
    parts = []
    for start in range(0, wanted, size):
        growing = _Growing(denoiser, range(start, min(start + size, wanted)), steps, solver, seed, begun)
        parts.append(growing.run(Choice(asked, words, seed) if asked.maximise and words else None).kept(asked.copies))
        if progress is not None:
            progress(min((start + size) // asked.copies, count), count)
    if not parts:
        parts = [_Growing(denoiser, range(0), steps, solver, seed).run()]
    graphs = concatenated([part.ordered.graphs for part in parts])
    width = graphs.x.shape[1]
    wide = [part.ordered.trimmed(width) for part in parts]
    ordered = Ordered(graphs, torch.cat([part.block for part in wide]), torch.cat([part.degree for part in wide]))
    return Grown(ordered.take(slice(0, count)), torch.cat([part.nfe for part in parts])[:count])


def _begun(steering: Steering, denoiser: Any) -> Ordered | None:
    """What every graph begins with: the scaffold, in its own order.

    Raises:
        UserError: the model is of plain graphs, or the scaffold does not fit it.
    """
    words, network = vocabulary_of(denoiser), denoiser.network
    if words is None:
        raise UserError("rewards and scaffolds are of molecules, and this is a model of plain graphs")
    if not steering.scaffold:
        return None
    graph = scaffold_graph(steering.scaffold, words)
    if int(graph.sizes[0]) > network.largest:
        raise UserError(f"the scaffold {steering.scaffold!r} has {int(graph.sizes[0])} atoms, and this model makes up to {network.largest}")
    return Ordered.of(graph, network.hops, network.weighting).trimmed()


class _Growing:
    """Some graphs, from nothing to their last block."""

    def __init__(self, denoiser: TokenDenoiser, chosen: range, steps: int, solver: str, seed: int, begun: Ordered | None = None) -> None:
        network: Any = denoiser.network
        self.denoiser, self.network, self.steps, self.solver, self.seed = denoiser, network, steps, solver, seed
        shape = (len(chosen), network.largest)
        self.index = torch.tensor(list(chosen), dtype=torch.long)
        self.nodes, self.edges = torch.zeros(shape, dtype=torch.long), torch.zeros((*shape, network.largest), dtype=torch.long)
        self.block, self.degree = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
        self.nfe = torch.zeros(len(chosen), dtype=torch.long)
        self.done, self.stage = torch.zeros(len(chosen), dtype=torch.bool), 0
        if begun is not None:
            n = begun.graphs.x.shape[1]
            self.nodes[:, :n], self.edges[:, :n, :n] = begun.graphs.x, begun.graphs.e
            self.block[:, :n], self.degree[:, :n], self.stage = begun.block, begun.degree, int(begun.blocks[0])

    def run(self, choice: Choice | None = None) -> Grown:
        """Grow until every graph is complete.

        Args:
            choice: among the graphs of a problem, after every block.
        """
        with torch.inference_mode():
            while not bool(self.done.all()):
                grew = ~self.done
                left = grew.nonzero()[:, 0]
                size, degree = self.following(left, self.stage)
                self.done[left[size == 0]] = True
                left, size, degree = left[size > 0], size[size > 0], degree[size > 0]
                if len(left):
                    self.begin(left, self.stage, size, degree)
                    self.fill(left, self.stage)
                if choice is not None:
                    choice(self, self.stage, grew)
                self.stage += 1
            if choice is not None:
                choice.last(self)
        return Grown(Ordered(self.graphs(), self.block, self.degree), self.nfe)

    def graphs(self) -> Dense:
        """All graphs as they are now."""
        return Dense(self.nodes, self.edges, self.block >= 0)

    def take(self, index: Tensor) -> None:
        """Graphs take the place of others; evaluations are counted where they were made.

        Args:
            index: (graphs,) whose place each gets.
        """
        for name in ("nodes", "edges", "block", "degree", "done"):
            setattr(self, name, getattr(self, name)[index])

    def following(self, left: Tensor, stage: int) -> tuple[Tensor, Tensor]:
        """Size and degree of the next block of the graphs that are left; a size that would not fit is never drawn."""
        network, there = self.network, (self.block[left] >= 0).sum(1)
        source = self.source(left, stage)
        u = uniforms(source.draw((2,), torch.float64, stream="next"))
        told = self.condition(left, stage, max(1, int(there.max())))
        prefix = self.prefix(told)
        self.nfe[left] += 1
        if stage == 0:
            sizes = network.first.double().expand(len(left), -1)
        else:
            sizes = torch.softmax(network.next_size(prefix).double(), -1)
        room = torch.arange(network.largest + 1) <= (network.largest - there)[:, None]
        size = draw(sizes.cpu() * room, u[:, 0])
        degrees = torch.softmax(network.degrees(prefix, size.to(prefix.device)).double(), -1).cpu()
        most = torch.arange(network.largest) < (there + size).clamp(min=1)[:, None]
        return size, draw(degrees * most, u[:, 1])

    def prefix(self, told: Mapping[str, Tensor]) -> Tensor:
        """What the network knows of the graphs so far, (graphs, width)."""
        network = self.network
        device = network.first.device
        told = {key: value.to(device) for key, value in told.items()}
        state = {"nodes": told["known_nodes"], "edges": torch.zeros_like(told["known_edges"])}
        h, _, _ = network.seen(scene_of(state, told, network.visibility), torch.zeros(len(told["block"]), device=device))
        return network.prefix(h, told)[:, 0]

    def begin(self, left: Tensor, stage: int, size: Tensor, degree: Tensor) -> None:
        """Give the next block its nodes, behind those that are there."""
        there = (self.block[left] >= 0).sum(1, keepdim=True)
        place = torch.arange(self.block.shape[1])
        new = (place >= there) & (place < there + size[:, None])
        self.block[left] = torch.where(new, stage, self.block[left])
        self.degree[left] = torch.where(new, degree[:, None], self.degree[left])

    def fill(self, left: Tensor, stage: int) -> None:
        """Draw the kinds of the new nodes and of their edges."""
        width = int((self.block[left] >= 0).sum(1).max())
        told = self.condition(left, stage, width)
        start = self.start(left, stage, width, told)
        device = self.network.first.device
        denoiser = remembering(self.denoiser, {key: value.to(device) for key, value in told.items()}) if stage else self.denoiser
        made: Any = unstir.sample(
            denoiser, len(left), solver=self.solver, grid=f"uniform:{self.steps}", condition=told, start=start, seed=self.seed
        )
        edges = made.x["edges"].cpu().long()
        self.edges[left[:, None, None], torch.arange(width)[:, None], torch.arange(width)] += edges + edges.mT
        if "nodes" in made.x:
            self.nodes[left[:, None], torch.arange(width)] += made.x["nodes"].cpu().long()
        self.nfe[left] += made.nfe

    def condition(self, left: Tensor, stage: int, width: int) -> dict[str, Tensor]:
        """What the denoiser is told of the graphs that are left, as wide as the widest of them."""
        graphs = Dense(self.nodes[left, :width], self.edges[left, :width, :width], self.block[left, :width] >= 0)
        ordered = Ordered(graphs, self.block[left, :width], self.degree[left, :width])
        return ordered.condition(torch.full((len(left),), stage))

    def source(self, left: Tensor, stage: int) -> NoiseSource:
        """Noise under the graphs' own numbers; another for each block."""
        return NoiseSource((self.seed << 16) + stage, self.index[left].tolist())

    def start(self, left: Tensor, stage: int, width: int, told: Mapping[str, Any]) -> tuple[dict[str, Tensor], float, dict[str, Any]]:
        """The first state, its time, and the noise of every step, cut out of what the largest graph would get."""
        source, process = self.source(left, stage), self.denoiser.process
        largest, leaves = self.block.shape[1], by_leaf(process)
        shapes = {leaf: (largest,) * (2 if leaf == "edges" else 1) for leaf in leaves}

        def cut(whole: Callable[[str], Tensor]) -> dict[str, Tensor]:
            return {leaf: whole(leaf)[(slice(None), *[slice(width)] * len(shape))] for leaf, shape in shapes.items()}

        first: Any = cut(lambda leaf: leaves[leaf].first(source, shapes[leaf], f"start/{leaf}"))  # type: ignore[attr-defined]
        device = self.network.first.device
        noise = [cut(lambda leaf: source.draw(shapes[leaf], torch.float64, device, f"solver/{leaf}")) for _ in range(self.steps)]
        first = self.denoiser.space.project(first, told)
        return first, float(process.t_max), {"noise": noise}
