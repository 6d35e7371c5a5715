"""Sale lines of an online shop as units a day: each line once, cancellations undone.

Reference: Chen 2019, Online Retail II, doi:10.24432/C5CG6D.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

Returns = Literal["same-day", "net"]


def sale_lines(path: Path) -> pd.DataFrame:
    """Lines of products that were sold or returned, each once.

    The file is two sheets, and the first days of the second are the last of the first, line for line.

    Args:
        path: online_retail.csv.xz.

    Returns:
        Columns ``customer``, ``code``, ``day``, ``quantity`` (negative: a return).
    """
    columns = {"StockCode": str, "Quantity": int, "InvoiceDate": str, "Price": float, "Customer ID": float}
    raw = pd.read_csv(path, usecols=list(columns), dtype=columns)
    stamp = pd.to_datetime(raw["InvoiceDate"], format="%m/%d/%Y %H:%M")
    second = int(np.argmax(stamp.diff() < pd.Timedelta(0)))  # the one place where time runs backwards
    twice = (np.arange(len(raw)) < second) & (stamp >= stamp.iloc[second])
    code = raw["StockCode"].str.upper()
    kept = ~twice & (raw["Price"] > 0) & code.str.match(r"\d{5}")
    lines = pd.DataFrame(
        {"customer": raw["Customer ID"].fillna(-1), "code": code, "day": stamp.dt.normalize(), "quantity": raw["Quantity"]}
    )
    return lines[kept]


def daily_units(lines: pd.DataFrame, returns: Returns) -> tuple[pd.DataFrame, int]:
    """Units a product and sale day.

    Args:
        lines: of `sale_lines`.
        returns: as in `Retail`.

    Returns:
        Codes by days on which anything was sold, and how many of the values were negative and set to zero.
    """
    sales, back = lines[lines["quantity"] > 0], lines[lines["quantity"] < 0]
    if returns == "same-day":
        keys = ["customer", "code", "day", "quantity"]
        back = back.assign(quantity=-back["quantity"])
        sales, back = (part.assign(number=part.groupby(keys).cumcount()) for part in (sales, back))
        sales = sales.merge(back, on=[*keys, "number"], how="left", indicator=True)
        sales = sales[sales["_merge"] == "left_only"]
    days = np.sort(sales["day"].unique())
    counted = sales if returns == "same-day" else lines[lines["day"].isin(days)]
    units = counted.groupby(["code", "day"])["quantity"].sum().unstack(fill_value=0).reindex(columns=days, fill_value=0)
    return units.clip(lower=0), int((units < 0).sum().sum())
