"""``unstir data``: what there is, getting it, checking it."""

from __future__ import annotations

from typing import Annotated

import typer

from unstir_pipelines.cli.say import Json, as_json, columns

app = typer.Typer(help="Datasets: list, get, verify.", no_args_is_help=True, add_completion=False)


@app.command("list")
def list_cards(json: Json = False) -> None:
    """List every dataset with its kind, size, licence, and whether it is here."""
    from unstir_pipelines import data

    cards = data.listed()
    if json:
        as_json(cards)
        return
    rows = [
        [
            card["name"],
            card["kind"],
            card["split"],
            data.size(card["bytes"]),
            card["licence"],
            "yes" if card["here"] else "no",
            card["title"],
        ]
        for card in cards
    ]
    columns(rows, ["dataset", "kind", "split", "size", "licence", "here", "what"], right=[3])


@app.command("get")
def get(
    names: Annotated[list[str], typer.Argument(help="Names, or 'all'.")],
    json: Json = False,
) -> None:
    """Get datasets into the cache, checked by sha256."""
    from unstir_pipelines import data
    from unstir_pipelines.display import counter

    found = {}
    for name in data.chosen(names):
        with counter(name, is_silent=json) as progress:
            found[name] = str(data.get(name, progress))
        if not json:
            typer.echo(f"{name}  {found[name]}")
    if json:
        as_json(found)


@app.command("verify")
def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names; without, all that are here.")] = None,
    json: Json = False,
) -> int:
    """Check the datasets that are here against their sha256."""
    from unstir_pipelines import data

    results = data.verified(names)
    if json:
        as_json(results)
    else:
        columns([[name, result] for name, result in results.items()])
    return 0 if all(result == "ok" for result in results.values()) else 1
