"""A method of a recipe with those it starts from, ready to run on single cases: what ``unstir apply`` needs of the runner.

needs(a) = b, needs(b) = ()   ->   b, then a;   options are the recipe's, then the caller's
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from unstir import registry
from unstir.errors import UnknownName, UserError, nearest
from unstir.plugin.protocols import Case, Estimate, Method, Progress


@dataclass(frozen=True)
class Chain:
    """Methods in the order they run.

    Args:
        label: of the method asked for.
        methods: by label, in the order they run; the last is the one asked for.
        said: the options of each, as a recipe gives them.
        checkpoint: name of the prior.
        prior: the denoiser, None where no method needs one.
    """

    label: str
    methods: dict[str, Any]
    said: dict[str, dict[str, Any]]
    checkpoint: str
    prior: Any

    @classmethod
    def of(cls, recipe: str, label: str, *, options: Mapping[str, Any] | None = None, checkpoint: str = "", device: str = "cpu") -> Chain:
        """The chain of a method of a recipe.

        Args:
            recipe: registered name of the recipe.
            label: of one of its methods, or a registered name.
            options: of that method, in place of the recipe's.
            checkpoint: the prior, a registered name or a folder; the recipe's when empty.
            device: of the prior.

        Raises:
            UserError: unknown method or option, a value that does not fit, a checkpoint that cannot be used.
        """
        import unstir

        entries, shared = methods_of(recipe)
        if "/" in label:
            entries = entries | {label: {"name": label}}
        methods: dict[str, Any] = {}
        said: dict[str, dict[str, Any]] = {}

        def add(wanted: str, path: tuple[str, ...]) -> None:
            if wanted in path:
                raise UserError(f"method {wanted} starts from itself ({' <- '.join((*path, wanted))})")
            if wanted not in entries:
                known = f"there are {', '.join(entries)}, and what unstir plugins --names methods lists"
                raise UserError(f"{UnknownName('method', wanted, entries)} ({known})")
            entry = {key: value for key, value in entries[wanted].items() if key not in ("checkpoint", "title")}
            entry |= dict(options or {}) if wanted == label else {}
            method = made(entry, wanted)
            for need in method.needs:
                add(need, (*path, wanted))
            methods.setdefault(wanted, method)
            said.setdefault(wanted, entry)

        add(label, ())
        name = checkpoint or entries[label].get("checkpoint") or shared.get("checkpoint", "")
        prior = unstir.load(name).to(device) if any(method.uses_prior for method in methods.values()) else None
        for method in methods.values():
            if prior is not None and method.uses_prior and hasattr(method, "check_prior"):
                method.check_prior(prior)
        return cls(label, methods, said, str(name), prior)

    @property
    def sha256(self) -> str | None:
        """Hash of the prior's weights."""
        return getattr(self.prior, "sha256", None)

    def __call__(self, case: Case, seed: int, progress: Progress) -> Estimate:
        """Run every method on a case; the last one's estimate, with the evaluations of all."""
        estimates: dict[str, Estimate] = {}
        device = str(next(self.prior.parameters()).device) if self.prior is not None else "cpu"
        for number, (label, method) in enumerate(self.methods.items()):
            context = {**case.context, "device": device, "estimates": {need: estimates[need] for need in method.needs}}
            given = dataclasses.replace(case, truth=None, context=context)
            told = part(progress, number, len(self.methods))
            estimates[label] = method(given, self.prior if method.uses_prior else None, seed, progress=told)
        return dataclasses.replace(estimates[self.label], nfe=sum(estimate.nfe for estimate in estimates.values()))


def methods_of(recipe: str) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """The methods of a recipe by label, and what they share.

    Args:
        recipe: registered name.

    Returns:
        Label to options (``name`` among them), and the recipe's defaults.
    """
    from ruamel.yaml import YAML

    content = YAML(typ="safe").load(registry.path("recipes", recipe))
    shared = dict(content.get("defaults") or {})
    return {str(label): dict(entry) for label, entry in content["methods"].items()}, shared


def made(entry: Mapping[str, Any], label: str) -> Any:
    """The method of a recipe's entry.

    Args:
        entry: ``name`` and options.
        label: for errors.

    Raises:
        UserError: an option is unknown or does not fit, or what is named is a training.
    """
    from pydantic import TypeAdapter, ValidationError

    found = registry.resolve("methods", entry["name"])
    options = {key: value for key, value in entry.items() if key != "name"}
    fields = [item.name for item in dataclasses.fields(found) if item.init]
    for key in options:
        if key not in fields:
            near = nearest(key, fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f" (it has {', '.join(fields)})"
            raise UserError(f"method {label} has no option {key!r}{hint}")
    try:
        method = TypeAdapter(found).validate_python(options)
    except ValidationError as error:
        fault = error.errors()[0]
        place = ".".join(map(str, fault["loc"][:1]))
        raise UserError(f"method {label}: {place}: {fault['msg'].lower()}, got {fault['input']!r}") from None
    if not isinstance(method, Method):
        raise UserError(f"{entry['name']} is a training, not a method that answers a case")
    return method


def part(progress: Progress, number: int, count: int) -> Callable[[int, int], None] | None:
    """Progress of one part of many, told on in hundredths of a part.

    Args:
        progress: of the whole.
        number: of the part, from 0.
        count: parts in all.
    """
    if progress is None:
        return None
    return lambda done, total: progress(round(100 * (number + done / max(total, 1))), 100 * count)
