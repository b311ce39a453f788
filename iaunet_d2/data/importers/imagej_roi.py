"""ImageJ and Fiji: ``.roi`` files and the ROI Manager's zip files.

An image's ROIs are ``<name>.zip``, ``<name>_rois.zip``, ``<name>_RoiSet.zip``, ``<name>.roi``, or
the ``.roi`` files of a folder ``<name>``. Archives are read in memory; nothing is unpacked.
"""

import struct
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from ..errors import BadFileError
from .common import Instance, Job, Plan
from .imagej_shapes import compound_rings, rectangle_ring
from .pairing import Unit, annotates, files_below, list_images, pair, pair_tasks, stem_below
from .polygons import FrameSize, Part, as_ring, ellipse_ring

ENDINGS = (".zip", ".roi")
SUFFIXES = ("_rois", "_ROIs", "_RoiSet", "_roiset", "_Rois", "-rois", "-RoiSet", " RoiSet")

_AREAS = (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED)
_LARGEST = 1 << 26
_DAMAGED = (
    OSError,
    ValueError,
    TypeError,
    IndexError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    MemoryError,
    OverflowError,
    UnicodeDecodeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)

_PLANE = (
    "ROIs belong to a further slice, channel or frame of a stack: kept, the image has one plane"
)
_SPLINE = "ROIs are fitted with a spline: taken through its points with straight lines"
_OTHER_MEMBER = "files in archives are no .roi: left out"


def plan(job: Job) -> Plan:
    """Archives, ROI files and folders of ROI files with the images' names.

    Raises:
        BadFileError: names that do not go together.
    """
    images = list_images(job)
    units = _units(job, {stem_below(path, job.images) for path in images})
    if len(units) == len(images) == 1 and Path(units[0].name).name.lower().startswith("roiset"):
        # The name that ImageJ suggests: with one image there is no doubt.
        units = [Unit(stem_below(images[0], job.images), units[0].files)]

    def read(image: Path, unit: Unit, size: FrameSize) -> list[Instance]:
        return _read(job, unit, size)

    return Plan(pair_tasks(job, pair(job, units, SUFFIXES, images), read, ENDINGS))


def roi_parts(roi: ImagejRoi) -> list[Part] | str:
    """An area ROI's parts; for another, its kind.

    Coordinates count from the upper left corner of the upper left pixel, as ImageJ's areas do.

    Raises:
        ValueError: its coordinates are damaged.
    """
    if roi.subtype in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE):
        return roi.subtype.name.lower()
    if roi.roitype == ROI_TYPE.RECT and roi.composite:
        # Of a combination of ROIs: rings one in the other are holes, by ImageJ's even-odd rule.
        return [compound_rings([float(v) for v in roi.multi_coordinates])]
    if roi.roitype in _AREAS:
        return [[as_ring(roi.coordinates())]]
    if roi.roitype in (ROI_TYPE.RECT, ROI_TYPE.OVAL):
        left, top, right, bottom = roi.left, roi.top, roi.right, roi.bottom
        if roi.subpixelrect:
            left, top = roi.xd, roi.yd
            right, bottom = left + roi.widthd, top + roi.heightd
        if roi.roitype == ROI_TYPE.OVAL:
            return [[as_ring(ellipse_ring(left, top, right, bottom))]]
        return [[as_ring(rectangle_ring(left, top, right, bottom, roi.rounded_rect_arc_size))]]
    return roi.roitype.name.lower()


def _units(job: Job, stems: set[str]) -> list[Unit]:
    """One unit per archive, per ROI file named as an image, and per folder of further ROI files."""
    root = job.annotations
    paths = files_below(root, ENDINGS, job.recursive)
    if root.is_dir() and not job.recursive:
        # A folder of ROI files stands for a file: it is not a sub-folder to be asked for.
        suffixes = SUFFIXES if job.suffix is None else (job.suffix,)
        for folder in sorted(path for path in root.iterdir() if path.is_dir()):
            if any(name in stems for name in annotates(folder.name, suffixes)):
                paths += files_below(folder, (".roi",), False)
    units = []
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in paths:
        name = stem_below(path, root)
        if path.suffix.lower() == ".roi" and name not in stems and root in path.parent.parents:
            folders[path.parent].append(path)
        else:
            units.append(Unit(name, (path,)))
    units += [
        Unit(folder.relative_to(root).as_posix(), tuple(files)) for folder, files in folders.items()
    ]
    return units


def _read(job: Job, unit: Unit, size: FrameSize) -> list[Instance]:
    instances = []
    for path in unit.files:
        for where, data in _members(job, path):
            try:
                roi = ImagejRoi.frombytes(data)
                parts = roi_parts(roi)
            except _DAMAGED as error:
                raise BadFileError(
                    f"{path}: {where} cannot be read as an ImageJ ROI ({error}). Save it again in "
                    "ImageJ."
                ) from error
            if isinstance(parts, str):
                job.told(f"ROIs of kind {parts!r} have no area: left out", where)
                continue
            if roi.options & ROI_OPTIONS.SPLINE_FIT and roi.roitype in _AREAS:
                job.told(_SPLINE, where)
            if max(roi.position, roi.c_position, roi.z_position, roi.t_position) > 1:
                job.told(_PLANE, where)
            segmentation = job.outlined(parts, size, where)
            if segmentation is not None:
                extra = {"name": roi.name} if roi.name else {}
                instances.append(Instance(job.class_name, segmentation, extra))
    return instances


def _members(job: Job, path: Path) -> Iterator[tuple[str, bytes]]:
    """The name and bytes of each ROI of a file; archives are read in memory.

    Raises:
        BadFileError: the file cannot be read.
    """
    try:
        if path.suffix.lower() != ".zip":
            with open(path, "rb") as file:
                yield path.name, file.read(_LARGEST)
            return
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                where = f"{path.name}: {member.filename}"
                if member.is_dir() or member.filename.startswith("__MACOSX"):
                    continue
                if not member.filename.lower().endswith(".roi"):
                    job.told(_OTHER_MEMBER, where)
                    continue
                with archive.open(member) as file:
                    data = file.read(_LARGEST)
                yield where, data
    except _DAMAGED as error:
        raise BadFileError(
            f"{path}: cannot be read ({error}). It is damaged, or no archive of the ROI Manager; "
            "save it again in ImageJ (ROI Manager, More, Save)."
        ) from error
