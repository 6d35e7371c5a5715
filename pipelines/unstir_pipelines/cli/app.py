"""``unstir``: its verbs, and how errors and exit codes come out.

Exit codes: 0 done, 1 failed, 2 wrong usage. Errors are one sentence on standard error; ``--debug`` adds the traceback.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from unstir.errors import RecipeError, UnknownName, UnstirError
from unstir_pipelines.cli import data, look, results, work
from unstir_pipelines.options import UsageError

app = typer.Typer(
    name="unstir",
    help="Diffusion mixes; unstir un-mixes. Run recipes, apply methods to your own files, compare and report.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks (before or after the verb).")] = False,
) -> None:
    if version:
        from unstir import __version__

        typer.echo(f"unstir {__version__}")
        raise typer.Exit


app.command("run", context_settings={"allow_extra_args": True})(work.run)
app.command("train")(work.train)
app.command("apply", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(work.apply)
app.command("compare")(results.compare)
app.command("report")(results.report)
app.command("recipes")(look.recipes)
app.command("show")(look.show)
app.command("plugins")(look.plugins)
app.add_typer(data.app, name="data")
app.command("certify")(look.certify)
app.command("new-plugin")(look.new_plugin)
app.command("doctor")(look.doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    Args:
        arguments: in place of ``sys.argv[1:]``.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_debug = "--debug" in given
    code = call([word for word in given if word != "--debug"], is_debug=is_debug)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _silence()
    sys.exit(code)


def call(given: list[str], *, is_debug: bool = False) -> int:
    """Run the command line and return its exit code.

    Args:
        given: the arguments.
        is_debug: show tracebacks?
    """
    try:
        result = app(given, prog_name="unstir", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except BrokenPipeError:
        _silence()
        return 0
    except KeyboardInterrupt:
        return _fail("stopped", 1)
    except Exception as error:
        if is_debug and not hasattr(error, "format_message"):
            raise
        return _fail(*_sentence(error))


def _sentence(error: Exception) -> tuple[str, int]:
    if hasattr(error, "format_message"):
        context = getattr(error, "ctx", None)
        usage = f" ({context.command_path} --help shows how)" if context is not None else ""
        text = _plain(str(error.format_message()).strip().rstrip("."))
        return (f"{text[:1].lower()}{text[1:]}{usage}" if text else ""), int(getattr(error, "exit_code", 2))
    if type(error).__name__ == "Abort":
        return "stopped", 1
    code = 2 if isinstance(error, RecipeError | UnknownName | UsageError) else 1
    if isinstance(error, UnknownName) and error.kind in ("recipe", "command"):
        return f"{error} ({'unstir recipes' if error.kind == 'recipe' else 'unstir plugins --names apply'} lists them)", code
    if isinstance(error, UnstirError):
        return str(error), code
    from unstir_pipelines.store import is_disk_full

    if is_disk_full(error):
        return f"the disk is full: {error}", 1
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {(error.strerror or str(error)).lower()}", 1
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]} (a fault of unstir or of a plugin: --debug shows where)", 1


def _plain(text: str) -> str:
    """The parser's sentence about an option's value, in the words of the rest."""
    found = re.fullmatch(r"Invalid value for '([^']+)': .*\b(integer|number|float|boolean)\b.*", text, flags=re.DOTALL)
    kinds = {"integer": "a whole number", "boolean": "true or false"}
    return text if found is None else f"{found[1]} must be {kinds.get(found[2], 'a number')}"


def _fail(text: str, code: int) -> int:
    if text:
        with _tolerant():
            print(f"error: {text}", file=sys.stderr)
    return code


def _tolerant() -> Any:
    import contextlib

    return contextlib.suppress(BrokenPipeError)


def _silence() -> None:
    """The reader of our output went away (``unstir recipes | head -1``): say nothing more, not even at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
