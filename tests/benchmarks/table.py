"""How a benchmark prints what it found."""

from __future__ import annotations

import statistics


def row(label: str, values: list[float], unit: str = "µs") -> float:
    """Print a median with its quartiles, and return it."""
    low, median, high = statistics.quantiles(values, n=4)
    print(f"  {label:<62}{median:8.2f} {unit}   ({low:.2f} to {high:.2f})")
    return median
