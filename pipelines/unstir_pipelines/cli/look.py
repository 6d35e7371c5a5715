"""Verbs that look: ``recipes``, ``show``, ``plugins``, ``doctor``, ``certify``; and ``new-plugin``.

None but ``doctor`` and ``certify`` imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from unstir import names, registry
from unstir.errors import nearest
from unstir_pipelines.cli.say import Json, Quiet, as_json, columns
from unstir_pipelines.options import UsageError


def recipes(json: Json = False) -> None:
    """List the recipes that are installed."""
    from unstir_pipelines.catalogue import listed

    found = listed()
    if json:
        as_json(found)
        return
    columns([[row["name"], row["does"], row["title"]] for row in found], ["recipe", "verb", "title"])


def show(
    name: Annotated[
        str, typer.Argument(help="A recipe, or anything that has a name: a task, method, metric, dataset, checkpoint, solver, grid...")
    ],
    json: Json = False,
) -> None:
    """Show a recipe with every key it takes, or what a name is and its options."""
    found = _shown(name)
    if json:
        as_json(found)
        return
    for index, thing in enumerate(found):
        if index:
            typer.echo("")
        _print(thing)


def plugins(
    strict: Annotated[bool, typer.Option("--strict", help="Fail where a plugin is broken or faulty.")] = False,
    kind: Annotated[
        str | None, typer.Option("--names", metavar="KIND", help="List the names of one kind instead: methods, solvers, apply...")
    ] = None,
    json: Json = False,
) -> None:
    """List the plugins, where they come from and whether they work."""
    if kind is not None:
        names = registry.names(kind.replace("-", "_"))
        if json:
            as_json({name: {"target": ref.target, "plugin": ref.plugin, "distribution": ref.distribution} for name, ref in names.items()})
        else:
            columns([[name, ref.plugin] for name, ref in names.items()])
        return
    infos = registry.plugins(strict=strict)
    if json:
        as_json([vars(info) for info in infos])
        return
    head = ["plugin", "version", "from", "tasks", "methods", "metrics", "status"]
    counted = ("tasks", "methods", "metrics")
    rows = [
        [i.name, i.version, f"{i.distribution} {i.version}", *(str(i.counts.get(kind, 0)) for kind in counted), i.status] for i in infos
    ]
    columns(rows, head, right=[3, 4, 5])
    for info in infos:
        for reason in filter(None, info.reason.split("; ")):
            typer.echo(f" {info.name}: {reason}")


def doctor(json: Json = False) -> int:
    """Look whether this installation can do its work, and say what to mend."""
    from unstir_pipelines.doctor import examine

    findings = examine()
    faults = sum(finding.state == "fault" for finding in findings)
    if json:
        as_json([vars(finding) for finding in findings])
    else:
        columns([[finding.state, finding.what, finding.said] for finding in findings])
        typer.echo("all is well" if not faults else f"{faults} fault{'s' if faults > 1 else ''} to mend")
    return 1 if faults else 0


def new_plugin(
    name: Annotated[str, typer.Argument(help="Lower-case, words joined by hyphens.")],
    out: Annotated[Path, typer.Option("--out", help="Where the new folder goes.")] = Path("."),
    json: Json = False,
) -> None:
    """Write a working plugin to start from."""
    from unstir_pipelines import new_plugin as making

    files = making.create(name, out)
    if json:
        as_json({"files": [str(path) for path in files]})
        return
    folder = out / name
    inside = ", ".join(path.relative_to(folder).as_posix() for path in files)
    typer.echo(f"created {folder}/: {inside}")
    typer.echo(f"Next     cd {folder} && pip install -e . && unstir run {name}/first")


def _shown(name: str) -> list[dict[str, Any]]:
    from unstir_pipelines import catalogue

    path = Path(name)
    if path.suffix in (".yaml", ".yml") or path.is_file() or (path.is_dir() and (path / "recipe.yaml").is_file()):
        return [catalogue.described(name)]
    kinds = [kind for kind in sorted(registry.KINDS, key=lambda kind: kind != "recipes") if name in registry.names(kind)]
    others = [thing for thing in (catalogue.card(name), catalogue.grid(name)) if thing is not None]
    if not kinds and not others:
        if ":" in name:  # as a recipe has it: karras:20
            return _shown(name.partition(":")[0].strip())
        known = {other for kind in registry.KINDS for other in registry.names(kind)} | set(names.known("grid"))
        near = nearest(name, known)
        hint = f"; did you mean {' or '.join(repr(other) for other in near)}?" if near else ""
        raise UsageError(f"nothing is registered as {name!r}{hint} (unstir recipes and unstir plugins list what is)")
    found = []
    for kind in kinds:
        if kind == "recipes":
            found.append(catalogue.described(name))
        elif kind == "checkpoints":
            found.append(catalogue.checkpoint(name))
        else:
            found.append(catalogue.part(kind, name))
    return found + others


def _print(thing: dict[str, Any]) -> None:
    typer.echo(f"{thing['kind']} {thing['name']}" + (f"  (plugin {thing['plugin']})" if thing.get("plugin") else ""))
    for key in ("title", "summary", "description"):
        if thing.get(key):
            typer.echo(f"  {thing[key]}")
    if "text" in thing:
        typer.echo("")
        for line in str(thing["text"]).rstrip().splitlines():
            typer.echo(f"  {line}".rstrip())
    if thing.get("options"):
        typer.echo("")
        rows = [[f" {row['key']}", row["kind"], row["value"]] for row in thing["options"]]
        columns(rows, [" key", "takes", "value"])
    for key, value in thing.get("fields", {}).items():
        typer.echo(f"  {key}: {value}")


def certify(
    names: Annotated[list[str], typer.Argument(metavar="[NAME...]", help="Registered parts; all of them without a name.")] = [],  # noqa: B006
    quick: Annotated[bool, typer.Option("--quick", help="A smaller sample of processes and step counts, within a minute.")] = False,
    section: Annotated[list[str], typer.Option("--section", metavar="NAME", help="Only this section (repeatable).")] = [],  # noqa: B006
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE.md", help="Write the page and its figure there.")] = None,
    quiet: Quiet = False,
    json: Json = False,
) -> int:
    """Certify: measure what processes, solvers, guides and steers declare against closed forms."""
    from unstir.certify.certificate import certify as measure
    from unstir_pipelines.certificate import summary, written
    from unstir_pipelines.display import counter

    with counter("certifying", is_silent=quiet or json) as progress:
        made = measure(
            names, sections=section, quick=quick, progress=None if progress is None else lambda done, total, _: progress(done, total)
        )
    if page is not None:
        written(made, page)
    if json:
        as_json(made.to_dict())
    elif not quiet:
        columns(summary(made), ["section", "findings", "failed", "s"], right=[1, 2, 3])
    for finding in made.failures:
        typer.echo(f"error: {finding.part} on {finding.on}: claims {finding.claim}, measured {finding.measured}", err=True)
    if not made.findings:
        typer.echo("error: nothing was certified: no section looks at these parts", err=True)
    return 0 if made.passed else 1
