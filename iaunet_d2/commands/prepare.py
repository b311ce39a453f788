"""``iaunet prepare``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from .console import log_to_console

if TYPE_CHECKING:
    from ..data.prepare import Count, Prepared

HELP = "convert a published data set to COCO files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The data set, where its files are, and where it goes."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="of the data set; --list shows all")
    parser.add_argument("--list", action="store_true", help="the data sets, licences and splits")
    parser.add_argument(
        "--root",
        type=Path,
        metavar="R",
        help="where data sets are (default $DETECTRON2_DATASETS, else ./datasets)",
    )
    parser.add_argument(
        "--source",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="S",
        help="archives, or folders that hold the published files or archives",
    )
    parser.add_argument("--download", action="store_true", help="fetch the published files")
    parser.add_argument(
        "--force", action="store_true", help="make it anew, replacing what is there"
    )


def run(args: argparse.Namespace) -> None:
    """List the data sets, or prepare one and print its counts."""
    from ..data.prepare import NAMES, load_recipe, prepare

    if args.list:
        print(_listing())
        return
    if args.name is None:
        raise ValueError(f"name a data set ({', '.join(NAMES)}), or give --list")
    recipe = load_recipe(args.name)
    with log_to_console():
        done = prepare(recipe, args.root, args.source, args.download, args.force)
    print(_report(recipe.name, done))


def _listing() -> str:
    from tabulate import tabulate

    from ..data.prepare import NAMES, load_recipe

    rows = [
        (r.name, r.title, r.licence, _registered(r.name), "yes" if r.remotes else "by hand")
        for r in map(load_recipe, NAMES)
    ]
    headers = ("name", "title", "licence", "registered splits", "--download")
    return tabulate(rows, headers, maxcolwidths=[None, 26, 26, None, None])


def _registered(folder: str) -> str:
    """The names that a data set's splits are registered under, a line for each kind of split."""
    from ..data.registered import LIVECELL_TYPES, SPLITS

    kinds: dict[str, list[str]] = {}
    for name in (split.name for split in SPLITS.values() if split.folder == folder):
        kind, _, last = name.rpartition("_")
        of, _, cell_type = kind.rpartition("_")
        splits = kinds.setdefault(f"{of}_<type>" if cell_type in LIVECELL_TYPES else kind, [])
        if last not in splits:
            splits.append(last)
    return "\n".join(f"{kind}_{{{','.join(splits)}}}" for kind, splits in kinds.items())


def _report(name: str, done: "Prepared") -> str:
    """Counts by split beside the published ones, what was left out, and the next step."""
    from tabulate import tabulate

    state = "made" if done.made else "was there already (--force makes it anew)"
    lines = [f"{done.folder} {state}", ""]
    rows = []
    for split in {**done.counts, **done.expected}:
        found, published = done.counts.get(split), done.expected.get(split)
        rows.append((split, *_compared(found, published)))
    headers = ("split", "images", "published", "instances", "published", "")
    lines.append(tabulate(rows, headers, colalign=("left",) + ("right",) * 4 + ("left",)))
    if done.notes:
        lines += ["", "Left out, mended or changed:"]
        lines += [f"  {count} {what}" for what, count in done.notes.items()]
    return "\n".join([*lines, "", f"Next: {_next_step(name, done)}"])


def _next_step(name: str, done: "Prepared") -> str:
    """To look at the data set; it is found by its name below the present root alone."""
    from ..data.datasets_root import datasets_root

    split = "train" if "train" in done.counts else next(iter(done.counts))
    command = f"iaunet stats {name}_{split}"
    root = done.folder.parent.absolute()
    if root.resolve() == datasets_root().resolve():
        return command
    return f"set DETECTRON2_DATASETS to {root}, then: {command}"


def _compared(found: tuple[int, int] | None, published: "Count | None") -> tuple[str, ...]:
    """Cells of a row: found and published images, found and published instances, the verdict."""
    stated = (published.images, published.instances) if published else (None, None)
    cells = []
    for k, n in zip(found or (None, None), stated, strict=True):
        cells += ["-" if k is None else str(k), "not stated" if n is None else str(n)]
    if found is None:
        verdict = "not made: its files were not given"
    elif all(n is None for n in stated):
        verdict = ""
    else:
        differs = any(n not in (None, k) for k, n in zip(found, stated, strict=True))
        verdict = "differs" if differs else "ok"
    return (*cells, verdict)
