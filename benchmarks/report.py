# SPDX-License-Identifier: Apache-2.0
"""From the results to docs/benchmarks.md: tables, targets, plots.

    python -m benchmarks.report --readme README.md

Reads benchmarks/results/<gpu>/: kernels-*.json of `benchmarks.kernels`, engine-*.json of
`benchmarks.engine`, server-*.json of `benchmarks.server`. Files of another form are named and left
out. What is between the markers of docs/benchmarks.md is written anew, what is around them stays.
The same results give the same bytes.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import page, plots, ratios
from benchmarks.ratios import Case

ROOT = Path(__file__).resolve().parents[1]
RESULTS, DOCS = ROOT / "benchmarks/results", ROOT / "docs"
Say = Callable[[str], None]


class Results(NamedTuple):
    """What one GPU's folder holds."""

    cases: list[Case]
    kernels: list[dict[str, Any]]
    """Documents that the cases are from."""
    engines: dict[str, dict[str, Any]]
    """By file name without suffix."""
    servers: dict[str, dict[str, Any]]


def load(folder: Path, say: Say = print) -> Results:
    """Read a folder; of a case that several files have, the last measured counts."""
    kernels = _documents(folder, "kernels", _is_kernels, say)
    dated = sorted(kernels.values(), key=lambda each: str(page.environment(each).get("date")))
    last: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for document in dated:
        last |= ratios.grouped(document["rows"])
    rows = [row for where in sorted(last) for row in last[where]]
    engines = _documents(folder, "engine", partial(_is_comparison, "agreement_with"), say)
    servers = _documents(folder, "server", partial(_is_comparison, "baseline"), say)
    return Results(ratios.cases(rows), dated, engines, servers)


def _documents(
    folder: Path, kind: str, of_form: Callable[[dict[str, Any]], bool], say: Say
) -> dict[str, dict[str, Any]]:
    found = {}
    for path in sorted(folder.glob(f"{kind}-*.json"), key=lambda path: path.stem):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            say(f"{path.name}: left out, {error}")
            continue
        if isinstance(document, dict) and of_form(document):
            found[path.stem] = document
        else:
            say(f"{path.name}: left out, of another form")
    return found


def _is_kernels(document: dict[str, Any]) -> bool:
    return ratios.are_rows(document.get("rows"))


def _is_comparison(baseline: str, document: dict[str, Any]) -> bool:
    """Whether two arms at least have runs; baseline: the key that names the last of them."""
    runs = document.get("runs")
    if not isinstance(runs, dict) or document.get(baseline) not in runs:
        return False
    return sum(map(bool, runs.values())) > 1


def render(folders: dict[str, Results]) -> str:
    """What stands between the markers of the page."""
    lines = [page.ORIGIN]
    for gpu, results in folders.items():
        if not (results.cases or results.engines or results.servers):
            continue
        lines += ["", f"## {gpu}", "", *page.kernels(gpu, results.cases, results.kernels)]
        lines += ["", *page.engines(results.engines, results.kernels)]
        lines += ["", *page.servers(results.servers)]
    return "\n".join(lines) + "\n"


def write(results: Path, docs: Path, readme: Path | None = None, say: Say = print) -> None:
    """Plots first: no page names one that is not there. readme: gets the engines' speed-ups."""
    found = {path.name: load(path, say) for path in sorted(results.iterdir()) if path.is_dir()}
    for gpu, each in found.items():
        right = [case for case in each.cases if not case.problems]
        for op in dict.fromkeys(case.op for case in right):
            path = docs / "plots" / gpu / f"{op}.svg"
            plots.draw(op, [case for case in right if case.op == op], path)
            say(f"wrote {path}")
    target = docs / "benchmarks.md"
    text = target.read_text(encoding="utf-8") if target.exists() else ""
    docs.mkdir(parents=True, exist_ok=True)
    target.write_text(page.replace(text, render(found)), encoding="utf-8")
    say(f"wrote {target}")
    engines = [each for gpu in found.values() for each in gpu.engines.values()]
    if readme is not None and engines:
        generated = "\n".join(page.headline(engines)) + "\n"
        readme.write_text(page.replace(readme.read_text(encoding="utf-8"), generated), "utf-8")
        say(f"wrote {readme}")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of GPUs' folders")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where the page and plots go")
    parser.add_argument("--readme", type=Path, help="gets a table between such markers too")
    options = parser.parse_args(arguments)
    missing = plots.unavailable()
    if missing is None and not options.results.is_dir():
        missing = f"{options.results}: no such folder"
    if missing is not None:
        print(missing)
        return 2
    try:
        write(options.results, options.docs, options.readme)
    except (OSError, ValueError) as error:
        print(error)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
