"""What ``unstir train`` does: a recipe's ``train`` key names an object that writes a checkpoint.

A user's own file is read as ``unstir run`` reads it, by the recipe's task, so that what a run keeps for the test is never learnt.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from unstir import registry
from unstir.errors import RecipeError, UserError
from unstir_pipelines import environment, options, recipe
from unstir_pipelines.cases import CaseSource
from unstir_pipelines.document import Document
from unstir_pipelines.settings import file_name
from unstir_pipelines.store import is_disk_full, make_folder

KINDS = ("methods", "tasks")
"""Where the name of a training is looked up."""


def train(
    source: str | Path,
    *,
    out: Path | None = None,
    sets: Sequence[str] | Mapping[str, Any] = (),
    data: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    resume: bool = False,
    progress: Callable[[int, int], None] | None = None,
    tell: Callable[[str], None] | None = None,
) -> Path:
    """Train what a recipe describes and return the checkpoint folder.

    Args:
        source: registered recipe or YAML file with a ``train`` key: ``{name: medical/ct-prior-training, ...options}``.
        out: the checkpoint folder; ``runs/checkpoints/NAME`` without it.
        sets: overrides, as ``--set train.steps=1000``.
        data: the user's own files, or the name of one registered dataset, for a training with an option ``data``. Where the recipe can
            be run too and the training learns a set at hand (it has ``fit``), the recipe's task reads the one file.
        seed: for a training with an option ``seed``.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``...
        resume: go on where a training stopped.
        progress: told of steps.
        tell: told in a sentence what is learnt of a user's file, and what is left out.

    Raises:
        DataError: the file is missing, or the task cannot read it.
        RecipeError: no ``train`` key, or a wrong option.
        UserError: ``out`` holds something already, or there is nothing to resume.
    """
    prepared = recipe.prepare(source, sets=sets, data=data or None)
    document, entry = prepared.document, prepared.schema.train
    if entry is None:
        raise RecipeError(f"recipe {document.name} has no 'train', so there is nothing to train ({document.where('')})")
    entry = dict(entry)
    kind, target = _target(document, entry.get("name"))
    for key, value in (("data", _named(data)), ("seed", seed)):
        if value is not None and key not in options.options_of(target):
            raise options.UsageError(f"{entry['name']} takes no --{key} (unstir show {document.name} lists what it takes)")
        if value is not None:
            entry[key] = value
            document.said[f"train.{key}"] = f"--{key}"
    item = _read(prepared, entry) if data and hasattr(target, "fit") else None
    training = options.build(kind, document, "train", entry, target=target)
    begin = getattr(training, "run", None) or getattr(training, "train", None) if item is None else partial(training.fit, item)
    if begin is None:
        raise RecipeError(
            f"{entry['name']} is not a training: it has no run(out, device, progress, resume) ({document.where('train.name')})"
        )
    place = Path("runs/checkpoints", file_name(prepared.name.rpartition("/")[2])) if out is None else out
    if place.exists() and not place.is_dir():
        raise UserError(f"--out {place} is a file; name a folder")
    is_used = place.exists() and any(place.iterdir())
    if is_used and not resume:
        raise UserError(f"{place} holds something already: add --resume to go on with it, or give another --out")
    if resume and not is_used:
        raise UserError(f"{place} holds nothing to resume; leave --resume out")
    usable = environment.device(device)
    make_folder(place.parent, "--out")
    if item is not None and tell is not None:
        facts = getattr(item, "attrs", {}).get("facts", {})
        tell("; ".join([f"learns {entry['data']}", *(f"{name}: {value}" for name, value in facts.items())]))
    previous = signal.getsignal(signal.SIGINT)
    try:
        made = begin(place, device=usable, progress=progress, resume=resume)
    except KeyboardInterrupt:
        raise UserError(f"stopped: the same command with --out {place} --resume goes on") from None
    except OSError as error:
        if is_disk_full(error):
            raise UserError(f"the disk that holds {place} is full: free some space, and the same command with --resume goes on") from error
        raise
    finally:
        signal.signal(signal.SIGINT, previous)
    return Path(made) if made is not None else place


def _named(data: Sequence[str]) -> Any:
    """What ``--data`` names: one registered dataset, or files."""
    paths = [str(path) for path in data]
    is_dataset = len(paths) == 1 and not Path(paths[0]).exists() and paths[0] in registry.names("data")
    return paths[0] if is_dataset else paths or None


def _read(prepared: recipe.Recipe, entry: dict[str, Any]) -> Any:
    """The set in the user's one file, read by the recipe's task; ``entry`` then says what is learnt. ``None`` where no task reads files."""
    if prepared.schema.task is None or not prepared.schema.methods:
        return None
    assembly = prepared.assemble(prepared.settings[0])
    if not assembly.files:
        return None
    if len(assembly.files) > 1:
        raise options.UsageError(f"a training learns one file, and --data names {len(assembly.files)}: join them")
    item = next(CaseSource(assembly).items())
    entry |= {"data": str(assembly.files[0]), "options": assembly.reading}
    return item


def _target(document: Document, name: Any) -> tuple[str, Any]:
    for kind in KINDS[1:]:
        if isinstance(name, str) and name in registry.names(kind):
            return kind, options.resolve(kind, document, "train.name", name)
    return KINDS[0], options.resolve(KINDS[0], document, "train.name", name)
