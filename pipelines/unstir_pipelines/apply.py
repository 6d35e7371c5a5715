"""What ``unstir apply`` does: a registered command on a user's own files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from unstir import registry
from unstir.errors import DataError, RecipeError, UnknownName, UserError, nearest
from unstir_pipelines import document, environment, options
from unstir_pipelines.document import Document
from unstir_pipelines.options import Option, UsageError
from unstir_pipelines.store import is_disk_full, make_folder

_OWN = ("files", "out", "device", "progress")


def apply(
    name: str, words: Sequence[str], *, out: Path, device: str = "auto", progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Run a command on files.

    Args:
        name: registered name (``"medical/reconstruct"``).
        words: files, and the command's options as on the command line (``--views 8``, ``--no-clip``, ``--views=8``).
        out: folder of the results.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``...
        progress: told of steps.

    Returns:
        What the command says of its work, ``"files"`` among it.

    Raises:
        UnknownName: there is no such command.
        UserError: an option is unknown or has a wrong value.
        DataError: a file does not exist.
    """
    try:
        target = registry.resolve("apply", name)
    except UnknownName as error:
        known = ", ".join(registry.names("apply")) or "none"
        raise UsageError(f"{error} (there are: {known})") from None
    is_class = inspect.isclass(target)
    own = options.options_of(target) if is_class else {}
    more = options.signature_options(target.__call__ if is_class else target, skip=_OWN)
    files, given = parse(name, words, {**own, **more})
    paths = [Path(file).expanduser() for file in files]
    for path in paths:
        if not path.exists():
            raise DataError(f"{path} does not exist")
    chosen = Document(name, None, {}, said={f"apply.{key}": f"--{key.replace('_', '-')}" for key in given})
    if is_class:
        command = options.build("apply", chosen, "apply", {"name": name, **{k: v for k, v in given.items() if k in own}}, target=target)
    else:
        command = target
    extra = {key: _checked(more[key], value) for key, value in given.items() if key in more}
    usable = environment.device(device)
    is_new = not out.exists()
    make_folder(out, "--out")
    try:
        result = command(paths, out, device=usable, progress=progress, **extra)
    except ModuleNotFoundError as error:
        missing = registry.missing_extra("apply", name, error)
        if missing is None:
            raise
        raise missing from error
    except OSError as error:
        if is_disk_full(error):
            raise UserError(f"the disk that holds {out} is full: free some space and run the same command again") from error
        raise
    finally:
        if is_new and out.is_dir() and not any(out.iterdir()):
            out.rmdir()
    return dict(result or {})


def parse(name: str, words: Sequence[str], known: Mapping[str, Option]) -> tuple[list[str], dict[str, Any]]:
    """Sort words into files and options; values are read as YAML.

    Args:
        name: of the command, for errors.
        words: the words.
        known: the options by name.

    Returns:
        Files, and values by option.

    Raises:
        UserError: an option is unknown, lacks its value or is given twice.
    """
    files: list[str] = []
    given: dict[str, Any] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            files += rest
            break
        if not word.startswith("-") or word == "-" or _is_number(word):
            files.append(word)
            continue
        flag, equals, text = word.partition("=")
        key = flag.lstrip("-").replace("-", "_")
        value: Any
        if key in known:
            if equals:
                value = document.scalar(text)
            elif _is_boolean(known[key]):
                value = True
            elif not rest:
                raise UsageError(f"{flag} needs a value")
            else:
                text = rest.pop(0)
                value = text if known[key].kind in (str, Path) else document.scalar(text)
        elif key.startswith("no_") and key[3:] in known and _is_boolean(known[key[3:]]) and not equals:
            key, value = key[3:], False
        else:
            near = nearest(key, known, 1)
            hint = f"; did you mean --{near[0].replace('_', '-')}?" if near else ""
            raise UsageError(f"{name} has no option {flag}{hint} (unstir show {name} lists all)")
        if key in given:
            raise UsageError(f"{flag} is given twice")
        given[key] = value
    return files, given


def _checked(option: Option, value: Any) -> Any:
    try:
        return options.checked(option, value)
    except ValueError as error:
        raise RecipeError(f"{option.name} {error} (--{option.name.replace('_', '-')})") from None


def _is_boolean(option: Option) -> bool:
    return option.kind is bool or isinstance(option.default, bool)


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
