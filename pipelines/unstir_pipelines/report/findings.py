"""What the numbers say, in sentences: only what the intervals support."""

from __future__ import annotations

import math

from unstir.plugin.protocols import Setting
from unstir_pipelines.pairing import Difference
from unstir_pipelines.results import Results, digits_of, places, plural, setting_title


def question(results: Results) -> str:
    """What was asked, in one sentence."""
    case = results.nouns[0]
    count = len(results.cases)
    where = f"{case} {results.cases[0]}" if count == 1 else f"{count} {plural(case)}"
    info = results.info(results.leads[0]) if results.leads else None
    methods = [results.titled(label) for label in results.labels]
    text = (
        f"Which of {len(methods)} methods comes closest to the truth"
        if len(methods) > 1
        else f"How close does {methods[0]} come to the truth"
    )
    text += f", by {info.title}," if info else ""
    text += f" on {where}" if count else ""
    titles = [title for title in map(setting_title, results.settings) if title]
    return f"{text}{' at ' + listed(titles) if titles else ''}?"


def answers(results: Results) -> list[tuple[str, str]]:
    """The setting and what was found under it, by the first metric of the recipe; one pair a setting."""
    if not results.leads:
        return []
    found = [(setting_title(setting), finding(results, setting, results.leads[0])) for setting in results.settings]
    return [(title, text) for title, text in found if text]


def finding(results: Results, setting: Setting, metric: str) -> str:
    """One setting in a sentence: who is ahead and by how much, or who cannot be told apart; empty where there is no number."""
    order = results.ranked(setting, metric)
    if not order:
        return ""
    info = results.info(metric)
    name, number = results.titled(order[0]), results.number(order[0], setting, metric)
    assert number is not None
    digits = digits_of([number])
    value = f"{number.mean:.{digits}f}{unit(info.unit)}"
    if math.isfinite(number.half):
        value += f" ({number.low:.{digits}f} to {number.high:.{digits}f})"
    if len(order) == 1:
        return f"{name} reaches {info.title} {value}; there is no other method to compare with."
    behind = [label for label in order[1:] if results.is_ahead(order[0], label, setting, metric)]
    level = [label for label in order[1:] if label not in behind]
    if level:
        others = listed([results.titled(label) for label in level])
        text = f"{name} ({info.title} {value}) and {others} cannot be told apart: the interval of the difference holds zero"
        return f"{text}; {name} is ahead of {results.titled(behind[0])}." if behind else f"{text}."
    text = f"{name} is best: {info.title} {value}, {gap(results, order[0], order[1], setting, metric)}"
    classical = next((label for label in order if not results.uses_prior(label)), None)
    if results.uses_prior(order[0]) and classical not in (None, order[1]):
        text += f", and {gap(results, order[0], str(classical), setting, metric)}, the best without a trained prior"
    elif results.uses_prior(order[0]) and classical == order[1]:
        text += ", the best without a trained prior"
    elif any(results.uses_prior(label) for label in order):
        text += "; no method with a trained prior reaches it"
    return f"{text}."


def gap(results: Results, a: str, b: str, setting: Setting, metric: str) -> str:
    """How far ``a`` is from ``b``: ``"2.4 dB (2.3 to 2.5) above admm-tv"``."""
    info = results.info(metric)
    difference = results.difference(a, b, setting, metric)
    first, second = results.number(a, setting, metric), results.number(b, setting, metric)
    assert first is not None
    assert second is not None
    mean = difference.mean if difference else first.mean - second.mean
    where = "above" if mean > 0 else "below"
    if difference is None:
        return f"{abs(mean):.{first.decimals()}f}{unit(info.unit)} {where} {results.titled(b)}"
    low, high = sorted((abs(difference.low), abs(difference.high)))
    digits = decimals(difference)
    return f"{abs(mean):.{digits}f}{unit(info.unit)} ({low:.{digits}f} to {high:.{digits}f}) {where} {results.titled(b)}"


def decimals(difference: Difference) -> int:
    """Digits after the point that a difference's interval supports."""
    return places((difference.high - difference.low) / 2)


def signed(difference: Difference | None) -> str:
    """A difference as a cell: ``"+2.4 ±0.1"``; empty where there is none."""
    if difference is None:
        return ""
    digits = decimals(difference)
    text = f"{difference.mean:+.{digits}f}".replace("-", "−")
    half = (difference.high - difference.low) / 2
    return f"{text} ±{half:.{digits}f}" if half > 10**-digits / 2 else text


def unit(name: str) -> str:
    """A unit after a number."""
    return f" {name}" if name else ""


def listed(words: list[str]) -> str:
    """Words as a sentence lists them: ``"a, b and c"``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
