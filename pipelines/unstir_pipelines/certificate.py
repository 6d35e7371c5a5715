"""The certificate as a page: what was found, a table a section, and the plot of error against evaluations."""

from __future__ import annotations

import itertools
import platform
from collections import Counter
from pathlib import Path

from unstir import __version__
from unstir.certify.certificate import SECTIONS, Certificate, Finding
from unstir_pipelines.store import write_whole


def summary(certificate: Certificate) -> list[list[str]]:
    """A row a section: title, findings, failures, seconds."""
    rows = []
    for section in SECTIONS:
        found = certificate.of(section.name)
        if found:
            failed = sum(finding.passed is False for finding in found)
            rows.append([section.title, str(len(found)), str(failed), f"{certificate.seconds.get(section.name, 0.0):.1f}"])
    return rows


def written(certificate: Certificate, page: Path) -> list[Path]:
    """Write the page, and its figure beside it.

    Args:
        certificate: what was found.
        page: the Markdown file; the figure has its name.

    Returns:
        The files.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    figure, drawn = page.with_name(page.stem + "-error.png"), _figure(certificate)
    if drawn is not None:
        write_whole(figure, drawn)
    write_whole(page, _page(certificate, figure.name if drawn is not None else None))
    return [page] if drawn is None else [page, figure]


def _page(certificate: Certificate, figure: str | None) -> str:
    verdict = f"{len(certificate.failures)} of them contradicted by measurement" if certificate.failures else "none contradicted"
    judged = sum(finding.passed is not None for finding in certificate.findings)
    lines = [
        "# The certificate",
        "",
        "What every registered process, solver, guide, steer and posterior method declares, beside what closed forms measure.",
        f"{judged} claims were judged, {verdict}; {len(certificate.findings) - judged} numbers are told without a claim.",
        "",
        f"Made by `unstir certify --page docs/certificate.md`, unstir {__version__}, torch {_torch()}, {platform.system()}"
        f" {platform.machine()}, {sum(certificate.seconds.values()):.0f} s.",
        "",
    ]
    if figure:
        lines += [f"![Error against evaluations of every deterministic solver]({figure})", "", _caption(certificate), ""]
    for section in SECTIONS:
        found = certificate.of(section.name)
        if found:
            lines += [f"## {section.title}", "", *_table(found), ""]
    return "\n".join(lines)


def _table(found: list[Finding]) -> list[str]:
    """A line for findings of one part that agree but for where they were made."""
    lines = ["| part | on | claim | measured | |", "|---|---|---|---|---|"]
    for (part, claim), group in itertools.groupby(found, key=lambda finding: (finding.part, finding.claim)):
        same = list(group)
        for measured, on in _grouped(same).items():
            passed = {finding.passed for finding in same if finding.measured == measured}
            mark = "FAILS" if False in passed else "" if passed == {None} else "holds"
            lines.append(f"| {part} | {on} | {_cell(claim)} | {_cell(measured)} | {mark} |")
    return lines


def _grouped(found: list[Finding]) -> dict[str, str]:
    where: dict[str, list[str]] = {}
    for finding in found:
        where.setdefault(finding.measured, []).append(finding.on)
    return {measured: ", ".join(dict.fromkeys(on)) for measured, on in where.items()}


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _curves(certificate: Certificate) -> list[Finding]:
    """One curve a solver: on EDM where it was measured there, else on the first process."""
    chosen: dict[str, Finding] = {}
    for finding in certificate.of("error"):
        if finding.curve and (finding.part not in chosen or finding.on == "edm"):
            chosen[finding.part] = finding
    return list(chosen.values())


def _figure(certificate: Certificate) -> bytes | None:
    from matplotlib.figure import Figure

    from unstir_pipelines.figures import INK, PALETTE, png

    curves = _curves(certificate)
    if not curves:
        return None
    by_last = sorted(curves, key=lambda finding: finding.curve[-1][1])
    figure = Figure(figsize=(9.2, max(4.6, 0.12 * len(curves) + 0.6)), layout="constrained")
    axes = figure.subplots()
    for rank, finding in enumerate(by_last):
        x, y = zip(*finding.curve, strict=True)
        best = rank < len(PALETTE)
        axes.plot(
            x, y, color=PALETTE[rank] if best else INK, alpha=1.0 if best else 0.25, linewidth=1.8 if best else 0.9, label=finding.part
        )
    axes.set(xscale="log", yscale="log", xlabel="evaluations of the denoiser", ylabel="median error on GM4 (units of the state)")
    ticks = sorted({x for finding in curves for x, _ in finding.curve})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.legend(
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
        fontsize=7,
        title="least error at 50 first",
        frameon=False,
        ncols=1 + len(curves) // 46,
    )
    return png(figure, dots=110)


def _caption(certificate: Certificate) -> str:
    at: dict[float, tuple[float, str]] = {}
    for finding in _curves(certificate):
        for x, y in finding.curve:
            at[x] = min(at.get(x, (y, finding.part)), (y, finding.part))
    least = ", ".join(f"{part} at {x:g} ({y:.2g})" for x, (y, part) in sorted(at.items()))
    spread = Counter(finding.on for finding in _curves(certificate)).most_common(1)[0][0]
    return f"*Error against evaluations on GM4, levels uniform in log sigma/alpha, process {spread}. The least error: {least}.*"


def _torch() -> str:
    from importlib import metadata

    return metadata.version("torch")
