"""Build each network of the list and see that its line is right: ``python -m benchmarks.networks --check [NAME ...]``.

The layer exists, its features come to the grid that the line says, and the map by hand is finite and neither zero nor
the same everywhere, of the line's own layer and of each of its ``also``. attnbridge takes no part.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter

import torch

from benchmarks.networks import NETWORKS, Network, build, images, independent_map


def check(entry: Network) -> str:
    """What is wrong with the line; empty where nothing is."""
    network = build(entry)
    batch = images(entry)
    if entry.refused:
        scores = entry.score(entry.forward(network, batch))
        return "" if scores.ndim == 2 and bool(scores.isfinite().all()) else f"scores {tuple(scores.shape)}"
    for accepted in (None, *entry.also):
        made = independent_map(network, entry, batch, accepted=accepted)
        grid = (accepted and accepted.grid) or entry.grid
        layer = accepted.layer if accepted else entry.layer
        if grid is None or made.shape != (len(batch), 1, grid.height, grid.width):
            return f"{layer}: a map of {tuple(made.shape)}"
        if not made.isfinite().all():
            return f"{layer}: a map that is not finite"
        if (made.flatten(1).amax(1) <= 0).any():
            return f"{layer}: a map of zeros"
        if ((made.flatten(1).amax(1) - made.flatten(1).amin(1)) < 0.01 * made.flatten(1).amax(1)).any():
            return f"{layer}: a map that is nearly the same everywhere"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.networks", description=__doc__)
    parser.add_argument("names", nargs="*", help="only configurations whose name contains one of these")
    parser.add_argument("--check", action="store_true", help="build each, run it, and see that its line is right")
    options = parser.parse_args()
    chosen = [entry for entry in NETWORKS if not options.names or any(name in entry.name for name in options.names)]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    began, wrong = time.perf_counter(), 0
    for entry in chosen if options.check else ():
        start = time.perf_counter()
        try:
            fault = check(entry)
        except Exception as error:  # one line's fault must not hide the others'
            fault = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
        wrong += bool(fault)
        print(f"{entry.name:60} {time.perf_counter() - start:5.1f} s  {fault or 'right'}", flush=True)
    origins = Counter(entry.origin for entry in chosen)
    print(f"{len(chosen)} configurations of {len({entry.family for entry in chosen})} families: {dict(origins)}")
    if options.check:
        print(f"{len(chosen) - wrong} right, {wrong} wrong, in {time.perf_counter() - began:.0f} s")
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
