"""Classifier guidance and its relatives: climb the gradient of a score that says how well a state fits.

    D' = D + w (sigma^2/alpha) grad_x s(x, t)            a score of the noisy state; s = log p(c | x_t) and w = 1 are Bayes' rule
    D' = D + w (sigma^2/alpha) J^T grad s(D),  J = dD/dx    a score of the clean estimate, through the denoiser
    D' = D + w r^2 grad s(D),  r^2 = rho^2/(1 + rho^2/s^2)  the same without the denoiser's Jacobian, s the spread of the data

Of a dict of leaves every leaf has its own alpha and sigma, and the score is of all of them. In a space whose noise is S z (symmetric,
masked) the gradient is multiplied by S S^T: an edge of a symmetric matrix is two entries and one number, which has the slopes of both.

    classifier:  s = tau1 f_c - log sum_k exp(tau2 f_k),  f its logits; w (1 + sine sin(pi i/N)) at step i of N
    dynamic:     c = argmax_k f_k, chosen anew at every evaluation
    semantic:    s = cos(e, e_ref)  or  -|e - e_ref|^2/2,  e an embedding

References: Dhariwal & Nichol 2021, arXiv:2105.05233; EluCD, Ma et al. 2023, arXiv:2310.11311 (calibration: tau2 < tau1 turns the
conditional into the joint direction; smooth activations; the sine); dynamic guidance, Triaridis et al. 2025, arXiv:2510.05356;
semantic diffusion guidance, Liu et al. 2021, arXiv:2112.05744.
"""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.base import Guide
from unstir.guide.cfg import row_at, within
from unstir.guide.likelihood import gain
from unstir.guide.slope import each_leaf, in_space, slope
from unstir.process.base import spread
from unstir.state import leaves, map_state

if TYPE_CHECKING:
    from unstir.denoiser.base import Denoiser
    from unstir.process import Process
    from unstir.solver.base import Row
    from unstir.state import State


@dataclass(frozen=True, eq=False)
class Uphill(Guide):
    """A guide that climbs a score; one evaluation of the denoiser (and its transpose, for ``on="clean"`` with the Jacobian).

    Weight 0, and levels outside the interval, give the denoiser's own estimate.

    Args:
        model: gives what the score is made of: called as ``model(x, t)`` on noisy states, ``model(x0)`` on clean ones.
        weight: w.
        on: ``"noisy"`` for a model that knows noise levels, ``"clean"`` for one that knows clean states only.
        jacobian: on clean states, is the denoiser differentiated? (Not on noisy ones.)
        data_std: s of the gradient without the Jacobian, in units of the state.
        low: guide from this sigma/alpha on.
        high: guide up to this sigma/alpha.
        told: names of entries of the condition that the model is given too, by keyword (``mask``).

    Raises:
        UserError: the weight is not finite, ``on`` is something else, ``data_std`` is not positive, or the interval is empty.
    """

    model: Callable[..., Tensor]
    weight: float = 1.0
    on: str = "noisy"
    jacobian: bool = True
    data_std: float = 1.0
    low: float = 0.0
    high: float = math.inf
    told: tuple[str, ...] = field(default=(), kw_only=True)
    needs_grad: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.on not in ("noisy", "clean") or not 0 <= self.low < self.high:
            raise UserError(f"{type(self).__name__} is on 'noisy' or 'clean' for low < high, got {self.on!r}, {self.low}, {self.high}")
        if not math.isfinite(self.weight) or not 0 < self.data_std < math.inf:
            raise UserError(f"{type(self).__name__} needs a finite weight and data_std > 0, got {self.weight} and {self.data_std}")

    @abstractmethod
    def score(self, output: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
        """The score of every sample, from what the model gives.

        Args:
            output: of the model, batch first.
            condition: what the guide was given.

        Returns:
            (batch,).
        """

    def hidden(self) -> tuple[str, ...]:
        """Entries of the condition that are the guide's and kept from the denoiser."""
        return ()

    def strength(self, t: Any) -> float:
        """The weight at a time."""
        return self.weight

    def estimate(self, denoiser: Denoiser, x: State, t: Any, condition: Mapping[str, Any] | None) -> State:
        """The guided estimate; nothing in it remembers a gradient.

        Raises:
            UserError: the state has leaves of whole numbers, the condition lacks an entry that the model is told, or there is no gradient.
        """
        if not all(leaf.is_floating_point() for leaf in leaves(x)):
            raise UserError(f"{type(self).__name__} climbs real numbers, and a leaf of the state is of whole ones: take TokenGuidance")
        seen = {key: value for key, value in (condition or {}).items() if key not in self.hidden()} or None
        process, through = denoiser.process, self.on == "clean" and self.jacobian
        active = within(process, t, self.low, self.high)
        if self.weight == 0 or not bool(active.any()):
            return denoiser(x, t, seen)
        with torch.inference_mode(False), torch.enable_grad():
            x = map_state(lambda leaf: leaf.detach().clone().requires_grad_(self.on == "noisy" or through), x)
            with torch.set_grad_enabled(through):
                x0 = denoiser(x, t, seen)
            place = x if self.on == "noisy" else x0 if through else map_state(lambda leaf: leaf.detach().clone().requires_grad_(), x0)
            told = self._told(condition)
            score = self.score(self.model(place, t, **told) if self.on == "noisy" else self.model(place, **told), condition)
            if not score.requires_grad:
                raise UserError(f"what {type(self).__name__} climbs has no gradient: its model, or the denoiser, detaches its input")
            ascent = slope(score, x if self.on == "noisy" or through else place)
        ascent = in_space(denoiser.space, ascent, condition)

        def climbed(own: Process, time: Any, leaf: Tensor, estimate: Tensor, uphill: Tensor) -> Tensor:
            size = gain(own, leaf, time) if self.on == "noisy" or through else self._without_jacobian(own, leaf, time)
            moved = estimate.detach() + self.strength(t) * size * uphill
            if active.ndim == 0:
                return moved
            return torch.where(active.to(leaf.device).view(-1, *[1] * (leaf.ndim - 1)), moved, estimate.detach())

        return each_leaf(climbed, process, t, x, x0, ascent)

    def _told(self, condition: Mapping[str, Any] | None) -> dict[str, Any]:
        missing = [name for name in self.told if name not in (condition or {})]
        if missing:
            raise UserError(f"the model of {type(self).__name__} is told {missing[0]!r}, and the condition holds {sorted(condition or ())}")
        return {name: condition[name] for name in self.told}  # type: ignore[index]

    def _without_jacobian(self, process: Process, x: Tensor, t: Any) -> float | Tensor:
        """r^2 = rho^2/(1 + rho^2/s^2), as (1/rho^2 + 1/s^2)^-1, finite at pure noise."""
        return spread(1 / (process.rho(t) ** -2 + self.data_std**-2), x)


@dataclass(frozen=True, eq=False)
class ClassifierGuidance(Uphill):
    """Guidance by a classifier's logits (batch, classes); arguments of :class:`Uphill`, ``model`` being the classifier, and these.

    Args:
        label: the class of all samples, or the name of the condition's entry that holds one a sample (kept from the denoiser).
        tau1: temperature of the class's own logit.
        tau2: temperature of the sum over classes; below ``tau1`` the direction is more that of the joint law.
        sine: by how much of itself the weight grows in the middle of sampling; the plan of ``unstir.sample`` says where that is.
        rows: the solver's plan; ``unstir.sample`` fills it in.

    Raises:
        UserError: as for :class:`Uphill`, or a temperature or ``sine`` is not finite.
    """

    label: int | str = "class"
    tau1: float = 1.0
    tau2: float = 1.0
    sine: float = 0.0
    rows: Sequence[Row] = ()
    exactness: ClassVar[str] = "exact on noisy states for weight, tau1 and tau2 of 1, sine 0 and the true p(c | x_t); otherwise biased"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(map(math.isfinite, (self.tau1, self.tau2, self.sine))):
            raise UserError(f"tau1, tau2 and sine must be finite, got {self.tau1}, {self.tau2} and {self.sine}")

    def planned(self, rows: Sequence[Row]) -> Guide:
        """The guide that knows how far sampling is, where its weight depends on that."""
        return replace(self, rows=tuple(rows)) if self.sine else self

    def hidden(self) -> tuple[str, ...]:
        """The labels."""
        return (self.label,) if isinstance(self.label, str) else ()

    def strength(self, t: Any) -> float:
        """w (1 + sine sin(pi i/N))."""
        if not self.sine:
            return self.weight
        return self.weight * (1 + self.sine * math.sin(math.pi * row_at(self.rows, t).index / len(self.rows)))

    def score(self, output: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
        """tau1 f_c - log sum_k exp(tau2 f_k)."""
        own = output.gather(1, self.classes(output, condition).unsqueeze(1)).squeeze(1)
        return self.tau1 * own - torch.logsumexp(self.tau2 * output, 1)

    def classes(self, logits: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
        """The class of each sample, (batch,) long."""
        if isinstance(self.label, str):
            if not condition or self.label not in condition:
                raise UserError(f"classifier guidance looks for labels in condition[{self.label!r}], it holds {sorted(condition or ())}")
            label = torch.as_tensor(condition[self.label], device=logits.device)
        else:
            label = torch.tensor([self.label], device=logits.device)
        if label.ndim != 1 or label.is_floating_point() or len(label) not in (1, len(logits)):
            raise UserError(f"labels are whole numbers, one a sample, got {label.dtype} of shape {tuple(label.shape)}")
        return label.long().expand(len(logits))


@dataclass(frozen=True, eq=False)
class DynamicGuidance(ClassifierGuidance):
    """Guidance towards the class that is likeliest now, chosen anew at every evaluation; no label, otherwise as classifier guidance.

    Give it a ``high``: where noise hides the class the heaviest class is likeliest for nearly all samples, and takes them.
    """

    label: int | str = -1
    exactness: ClassVar[str] = "biased: sharpens across classes what a smooth model blurs, and leaves their weights nearly as they are"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.label != -1:
            raise UserError(f"dynamic guidance chooses its class itself and takes no label, got {self.label!r}")

    def classes(self, logits: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
        """argmax_k f_k."""
        return logits.detach().argmax(1)


@dataclass(frozen=True, eq=False)
class SemanticGuidance(Uphill):
    """Guidance towards what is like a reference; arguments of :class:`Uphill`, ``model`` being the encoder, and these.

    Args:
        reference: the embedding to be like, (1, *embedding) or (*embedding) for all samples; or the name of the condition's entry that
            holds one a sample (kept from the denoiser).
        similarity: ``"cosine"``, or ``"distance"`` for minus half the squared distance (style: an encoder of channel statistics).

    Raises:
        UserError: as for :class:`Uphill`, or another similarity.
    """

    reference: Tensor | str = "reference"
    similarity: str = "cosine"
    exactness: ClassVar[str] = "exact on noisy states where weight x similarity is log p(reference | x_t); otherwise biased"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.similarity not in ("cosine", "distance"):
            raise UserError(f"similarity is 'cosine' or 'distance', got {self.similarity!r}")

    def hidden(self) -> tuple[str, ...]:
        """The references."""
        return (self.reference,) if isinstance(self.reference, str) else ()

    def score(self, output: Tensor, condition: Mapping[str, Any] | None) -> Tensor:
        """How much like the reference an embedding is."""
        reference: Any = self.reference
        if isinstance(reference, str):
            if not condition or reference not in condition:
                raise UserError(f"semantic guidance looks for a reference in condition[{reference!r}], it holds {sorted(condition or ())}")
            reference = condition[reference]
        reference = reference.to(output)
        reference = reference.unsqueeze(0) if reference.ndim < output.ndim else reference
        if reference.shape[1:] != output.shape[1:]:
            raise UserError(f"the encoder gives embeddings {tuple(output.shape[1:])}, the reference is one of {tuple(reference.shape[1:])}")
        if self.similarity == "cosine":
            return torch.cosine_similarity(output.flatten(1), reference.flatten(1))
        return -0.5 * (output - reference).flatten(1).square().sum(1)


def channel_statistics(x: Tensor) -> Tensor:
    """Mean and standard deviation of every channel: the style of a state.

    Args:
        x: (batch, channels, *cells).

    Returns:
        (batch, 2 channels), differentiable.
    """
    flat = x.flatten(2)
    return torch.cat((flat.mean(2), flat.std(2, correction=0)), 1)


def smoothed(network: torch.nn.Module, beta: float = 3.0) -> torch.nn.Module:
    """A copy of a classifier with softplus(beta x)/beta for each ReLU, whose gradient is smooth.

    Args:
        network: the classifier; stays as it is.
        beta: sharpness; the ReLU in the limit of large ones (EluCD takes 3 to 5).

    Returns:
        The copy.

    Raises:
        UserError: beta is not positive, or the network has no ReLU module.
    """
    made = copy.deepcopy(network)
    places = [(owner, name) for owner in made.modules() for name, child in owner.named_children() if isinstance(child, torch.nn.ReLU)]
    if not 0 < beta < math.inf or not places:
        raise UserError(f"smoothed replaces the ReLU modules of a network, with a finite beta above 0: found {len(places)}, beta {beta}")
    for owner, name in places:
        setattr(owner, name, torch.nn.Softplus(beta=beta))
    return made
