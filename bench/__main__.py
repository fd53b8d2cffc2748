"""`make bench [ONLY=name]`: runs every benchmark, prints a table and writes build/bench.json. Numbers inform; they fail nothing."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import bench
from bench.result import Result

REPORT = Path("build/bench.json")
HELPERS = frozenset({"__main__", "result"})


def modules() -> list[str]:
    """The benchmarks: every module of this folder that has a `run`."""
    names = sorted(found.name for found in pkgutil.iter_modules(bench.__path__) if found.name not in HELPERS)
    return [name for name in names if hasattr(importlib.import_module(f"bench.{name}"), "run")]


def table(results: Iterable[Result]) -> str:
    """The results as aligned columns, the peers' numbers beside ours."""
    rows = [("what", "ours", "peer", "unit", "ratio", "target", "holds", "peer is")]
    rows += [(r.name, f"{r.ours:.3g}", f"{r.peer:.3g}", r.unit, f"{r.ratio:.2f}", r.target, "yes" if r.holds else "NO", r.peer_name) for r in results]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def main() -> None:
    """The command."""
    names = modules()
    parser = argparse.ArgumentParser(prog="python -m bench", description="Ratios against named peers, measured in one run.")
    parser.add_argument("only", nargs="*", help=f"run these alone: {', '.join(names)}")
    chosen: list[str] = parser.parse_args().only or names
    results: list[Result] = []
    for name in chosen:
        print(f"{name} ...", flush=True)
        results += importlib.import_module(f"bench.{name}").run()
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    print(table(results))
    print(f"{sum(r.holds for r in results)} of {len(results)} targets hold; written to {REPORT}")


if __name__ == "__main__":
    main()
