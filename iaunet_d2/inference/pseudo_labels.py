"""Pseudo-labels: what a model finds in images without annotations, as one COCO file to train on.

The images go through the run that ``iaunet predict`` makes, which records each one in a folder
beside the output; so an interrupted run goes on where it was. When all are done, the records become
the COCO file, whole or not at all, and the folder goes.

Masks are hard labels (Lee, 2013; VSM, section 2.2.3): what reaches the threshold is an instance
like any other, and the score that each annotation keeps is not used by the training. VSM states no
threshold; 0.5 is the one that it keeps cells by at inference.
"""

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from .._version import __version__
from ..data.errors import BadFileError
from ..data.pseudo_labels import KEY, provenance_file, pseudo_label_info
from ..data.readers import image_size
from ..files import atomic_write
from ..lock import only_one
from ..meta_arch.lookup import model_node
from .inputs import Input
from .model_folder import find_model, fingerprint, model_config
from .options import Options, made_with
from .outputs.histogram import score_histogram
from .outputs.json_items import write_items
from .records import FOLDER, Record, Records
from .run import FolderRun
from .segmenter import Segmenter

logger = logging.getLogger(__name__)

MADE_BY = "iaunet pseudo-label"
_PARTS = ".parts"
_THREADS = 8


@dataclass(frozen=True)
class PseudoLabels:
    """What was written.

    Attributes:
        output: the COCO file.
        provenance: the file beside it that says how it was made.
        folder: that the COCO file's names of images are relative to.
        block: what stands in ``provenance``, and in the ``info`` of the COCO file.
    """

    output: Path
    provenance: Path
    folder: Path
    block: dict[str, Any]

    @property
    def dataset_name(self) -> str:
        """The data set, as ``DATASETS.TRAIN`` takes it."""
        return f"coco:{self.output}:{self.folder}"


class _Run(FolderRun):
    """A run without a report: its folder does not stay."""

    def _write_report(self) -> None:
        pass


def parts_folder(output: Path) -> Path:
    """Where images that are done wait until all are."""
    return output.with_name(output.name + _PARTS)


def check_output(output: Path, overwrite: bool = False) -> None:
    """Check that the files can be written without loss of others.

    Raises:
        ValueError: the name does not end in ``.json``; or a file is there that this command did not
            write (the annotations of a data set, for example), or that it wrote, unless
            ``overwrite``; or the folder of the parts holds something else.
        FileNotFoundError: there is no folder to write into.
    """
    if output.suffix.lower() != ".json" or output.name.lower() == ".json":
        raise ValueError(f"--output {output}: a name that ends in .json is needed")
    if not output.parent.is_dir():
        raise FileNotFoundError(f"--output {output}: the folder {output.parent} does not exist")
    beside, parts = provenance_file(output), parts_folder(output)
    if output.exists() and pseudo_label_info(output) is None:
        raise ValueError(f"{output}: exists, and holds no pseudo-labels. Name another --output.")
    if beside.exists() and not _is_provenance(beside):
        raise ValueError(f"{beside}: exists, and says of no pseudo-labels. Name another --output.")
    if output.exists() and not overwrite:
        raise ValueError(f"{output}: exists. Name another --output, or give --overwrite.")
    if parts.exists() and (not parts.is_dir() or any(parts.iterdir())):
        if not (parts / FOLDER).is_dir():
            raise ValueError(f"{parts}: exists, and is needed for a while. Name another --output.")


def _is_provenance(file: Path) -> bool:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(found, dict) and found.get("made_by") == MADE_BY


def tta_key(cfg: CfgNode) -> str:
    """The config key that switches the model's test-time augmentation; empty if it has none."""
    name = model_node(cfg)
    node = cfg.MODEL.get(name, {})
    if "TTA" not in node:
        return ""
    return f"MODEL.{name}.TTA.ENABLED" if isinstance(node.TTA, CfgNode) else f"MODEL.{name}.TTA"


def label_threshold(segmenter: Segmenter) -> float:
    """The score from which cells become labels: the one asked for, or the model's own if higher."""
    name = model_node(segmenter.cfg)
    own, asked = segmenter.cfg.MODEL.get(name, {}), segmenter.score_thresh
    key = "RESOLVED_SCORE_THRESH" if own.get("RESOLVE_OVERLAPS", False) else "SCORE_THRESH"
    least = float(own.get(key, 0.0))
    if least > asked:
        logger.warning(
            "--threshold %s: the model itself gives no cell with a score below %s "
            "(MODEL.%s.%s); lower that too, by --opts.",
            *(asked, least, name, key),
        )
    return max(asked, least)


def tta_options(model: str, weights: str | None, opts: Sequence[str], on: bool = True) -> list[str]:
    """Config keys and values that switch the model's test-time augmentation on or off.

    Raises:
        ValueError: it is to be switched on, and the model has none.
    """
    cfg = model_config(find_model(model, weights), "cpu", opts)
    key = tta_key(cfg)
    if not (key or on):
        return []
    if not key:
        raise ValueError(
            f"--tta: {cfg.MODEL.META_ARCHITECTURE} has no test-time augmentation (no key "
            f"MODEL.{model_node(cfg)}.TTA). Leave the option out, or take a model that has it, "
            "such as VSM."
        )
    return [key, str(on)]


def make_pseudo_labels(
    segmenter: Segmenter,
    files: Sequence[Input],
    output: Path,
    options: Options,
    drop_empty: bool = False,
    about: dict[str, Any] | None = None,
) -> PseudoLabels:
    """Label images by a model, and write them as a COCO file.

    Images that cannot be used, and stacks, which training does not read, are left out and listed.

    Args:
        segmenter: the model, with the threshold.
        files: the images, from :func:`~.inputs.find_inputs`.
        output: the COCO file; see :func:`check_output`.
        options: how images are read and shown to the model; its formats are not used.
        drop_empty: leave out images in which nothing is found.
        about: further entries of the block.

    Raises:
        BadFileError: no image could be labelled; or another process is at this output.
        OutputError: the disk is full.
        OSError: the output cannot be written.
        KeyboardInterrupt: as it came; no output is written, and the same call goes on.
    """
    options = replace(options, formats=("coco",))
    parts = parts_folder(output)
    records = Records(parts, made_with(segmenter, options), time.time())
    left_out = dict(_unreadable(files))
    usable = [file for file in files if file.path not in left_out]
    threshold = label_threshold(segmenter)
    records.make_folder()
    try:
        with only_one(records.folder / ".pseudo-label", f"{output}"):
            _Run(segmenter, usable, records, options)()
            labelled = list(_labelled(usable, records, left_out))
            if drop_empty:
                labelled = [(f, record) for f, record in labelled if record["planes"][0]["cells"]]
            _require_some(labelled, left_out, output, threshold)
            folder = common_folder(files)
            block = {
                **_block(segmenter, options, labelled, left_out, folder),
                "threshold": threshold,
                "drop_empty": drop_empty,
                **(about or {}),
            }
            _write(output, parts, folder, labelled, block)
    except KeyboardInterrupt:
        logger.warning(
            "Interrupted: %s is not written. What is done is kept in %s; the same command goes on.",
            output,
            parts,
        )
        raise
    shutil.rmtree(parts)
    return PseudoLabels(output, provenance_file(output), folder, block)


def common_folder(files: Sequence[Input]) -> Path:
    """The folder that was given, or the one that holds all that were."""
    roots = {os.path.abspath(file.root): file.root for file in files}
    if len(roots) == 1:
        return next(iter(roots.values()))
    return Path(os.path.commonpath(list(roots)))


def _unreadable(files: Sequence[Input]) -> Iterator[tuple[Path, str]]:
    """Images that training could not open, by their headers, and why."""

    def problem(file: Input) -> str:
        try:
            image_size(file.path)
        except BadFileError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(_THREADS) as pool:
        for file, reason in zip(files, pool.map(problem, files), strict=True):
            if reason:
                logger.warning("Left out: %s", reason)
                yield file.path, reason


def _labelled(
    files: Sequence[Input], records: Records, left_out: dict[Path, str]
) -> Iterator[tuple[Input, Record]]:
    """Images with their records, once the run is over; others join those that are left out."""
    for file in files:
        record = records.settled(file)
        if record is None:
            left_out[file.path] = f"{file.path}: changed during the run. Run it again."
        elif record["error"]:
            left_out[file.path] = record["error"]
        elif len(record["planes"]) != 1:
            left_out[file.path] = (
                f"{file.path}: is a stack of {len(record['planes'])} planes, which training does "
                "not read. Save one plane per file."
            )
        else:
            yield file, record


def _require_some(
    labelled: Sequence[Any], left_out: dict[Path, str], output: Path, threshold: float
) -> None:
    if labelled:
        return
    reason = next(iter(left_out.values()), f"nothing was found with a score of {threshold} or more")
    raise BadFileError(f"{output}: is not written, because no image is left ({reason})")


def _block(
    segmenter: Segmenter,
    options: Options,
    labelled: Sequence[tuple[Input, Record]],
    left_out: dict[Path, str],
    folder: Path,
) -> dict[str, Any]:
    """What was labelled, by which model, and how."""
    cfg, planes = segmenter.cfg, [record["planes"][0] for _, record in labelled]
    key = tta_key(cfg)
    scores = np.array([score for plane in planes for score in plane["scores"]])
    histogram = score_histogram(scores)
    highest = max(len(plane["class_counts"]) for plane in planes)
    more = [f"class {k}" for k in range(len(segmenter.class_names), highest)]
    return {
        "made_by": MADE_BY,
        "version": __version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": os.path.abspath(segmenter.weights.parent),
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "weights": segmenter.weights.name,
        "weights_sha256": _sha256(segmenter.weights),
        "fingerprint": fingerprint(cfg),
        "classes": [*segmenter.class_names, *more],
        "tta": _value(cfg, key) if key else None,
        "options": {k: v for k, v in options.for_results().items() if k != "formats"},
        "image_folder": os.path.abspath(folder),
        "images": len(planes),
        "images_without_annotations": sum(plane["cells"] == 0 for plane in planes),
        "annotations": sum(plane["cells"] for plane in planes),
        "score_histogram": {
            "edges": [round(float(edge), 2) for edge in histogram.edges],
            "counts": histogram.counts.tolist(),
        },
        "left_out": [{"file": str(f), "reason": reason} for f, reason in left_out.items()],
    }


def _write(
    output: Path,
    parts: Path,
    folder: Path,
    labelled: Sequence[tuple[Input, Record]],
    block: dict[str, Any],
) -> None:
    """Write the COCO file, its annotations image by image, and the block beside it."""
    contents = [parts / record["files"][0] for _, record in labelled]
    images = []
    for number, ((file, _), part) in enumerate(zip(labelled, contents, strict=True), 1):
        (image,) = json.loads(part.read_text())["images"]
        name = Path(os.path.relpath(file.path, folder)).as_posix()
        images.append({**image, "id": number, "file_name": name})
    head = {
        "info": {"description": f"pseudo-labels made by {MADE_BY}", KEY: block},
        "licenses": [],
        "categories": [{"id": k, "name": name} for k, name in enumerate(block["classes"], 1)],
        "images": images,
    }
    write_items(output, head, "annotations", _annotations(contents))
    with atomic_write(provenance_file(output)) as stream:
        stream.write(json.dumps(block, indent=2).encode() + b"\n")


def _annotations(parts: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Those of COCO files of one image each, numbered anew."""
    count = 0
    for number, part in enumerate(parts, 1):
        for annotation in json.loads(part.read_text())["annotations"]:
            count += 1
            yield {**annotation, "id": count, "image_id": number}


def _value(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
