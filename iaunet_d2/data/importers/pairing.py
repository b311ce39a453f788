"""Images and annotation files in pairs, by their names."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..errors import BadFileError
from .common import (
    EXAMPLES,
    KEPT_EMPTY,
    NO_IMAGE,
    UNANNOTATED,
    Instance,
    Job,
    Task,
    nothing,
)
from .polygons import FrameSize

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".webp")


@dataclass(frozen=True)
class Unit:
    """The annotation of one image: its name below the folder, without ending, and its files."""

    name: str
    files: tuple[Path, ...]


def files_below(root: Path, endings: Sequence[str], recursive: bool) -> list[Path]:
    """Files with one of the endings (lower case), sorted; hidden ones and archivers' do not count.

    Raises:
        BadFileError: the folder does not exist.
    """
    if root.is_file():
        return [root] if root.name.lower().endswith(tuple(endings)) else []
    if not root.is_dir():
        raise BadFileError(f"{root}: does not exist. Name the folder that holds the files.")
    found = []
    for path in root.rglob("*") if recursive else root.iterdir():
        parts = path.relative_to(root).parts
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
        if not hidden and path.name.lower().endswith(tuple(endings)) and path.is_file():
            found.append(path)
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def list_images(job: Job, recursive: bool | None = None) -> list[Path]:
    """The images of the job; not what lies in a folder of annotations inside the images' folder.

    Raises:
        BadFileError: the folder does not exist, or holds none.
    """
    deep = job.recursive if recursive is None else recursive
    if not job.images.is_dir():
        raise BadFileError(f"{job.images}: is not a folder. Name the folder of the images.")
    images = files_below(job.images, IMAGE_SUFFIXES, deep)
    annotations, root = job.annotations.resolve(), job.images.resolve()
    if root in annotations.parents:
        inner = job.images / annotations.relative_to(root)
        images = [path for path in images if inner != path and inner not in path.parents]
    if not images:
        hint = "" if deep else " Are they in sub-folders? Then add --recursive."
        raise BadFileError(f"{job.images}: holds no image ({', '.join(IMAGE_SUFFIXES)}).{hint}")
    return images


def stem_below(path: Path, root: Path) -> str:
    """A file's path below a folder, without its last ending, with ``/``."""
    below = path.relative_to(root) if path != root else Path(path.name)
    return below.with_suffix("").as_posix()


def single_units(job: Job, endings: Sequence[str]) -> list[Unit]:
    """Every annotation file as a unit of its own."""
    files = files_below(job.annotations, endings, job.recursive)
    return [Unit(stem_below(path, job.annotations), (path,)) for path in files]


def pair(
    job: Job, units: Sequence[Unit], suffixes: Sequence[str] = (), images: Sequence[Path] = ()
) -> list[tuple[Path, Unit | None]]:
    """Images with the annotation of the same name; None for those that have none.

    ``a.tif`` goes with ``a.json``, ``a.tif.json``, and ``a<suffix>.json``; ``a.ome.tif`` also with
    ``a.json``.

    Args:
        job: its ``suffix`` takes the place of the suffixes; what has another name does not count.
        units: the annotations.
        suffixes: of the format, after the image's name.
        images: those of the job, if they are listed already.

    Raises:
        BadFileError: an annotation has no image, or one of them has several of the other.
    """
    listed = list(images) or list_images(job)
    by_name = _images_by_name(job, listed)
    chosen: dict[Path, Unit] = {}
    orphans = []
    if job.suffix is not None:
        units = [unit for unit in units if _core(unit.name).endswith(job.suffix)]
        suffixes = (job.suffix,)
    for unit in units:
        image = _image_of(unit, by_name, suffixes, plain=not job.suffix)
        if image is None:
            orphans.append(unit)
        elif image in chosen:
            both = f"{chosen[image].files[0]} and {unit.files[0]}"
            raise BadFileError(
                f"{image}: {both} both go with it. Keep one, or say with --suffix which."
            )
        else:
            chosen[image] = unit
    if orphans:
        require_images(job, [unit.files[0] for unit in orphans], found_any=bool(chosen))
    return [(image, chosen.get(image)) for image in listed]


def pair_tasks(
    job: Job,
    pairs: Sequence[tuple[Path, Unit | None]],
    read: Callable[[Path, Unit, FrameSize], list[Instance]],
    endings: Sequence[str],
    absent_is_empty: bool = False,
) -> list[Task]:
    """A task per image that has an annotation; the others as the format or the job says.

    Args:
        job: what is imported.
        pairs: of :func:`pair`.
        read: an image's objects, from the image, its annotation, and its size.
        endings: of the format's files, for the error.
        absent_is_empty: an image without a file has no object, by the format's own rule.

    Raises:
        BadFileError: no image has one.
    """
    tasks = []
    found = False
    for image, unit in pairs:
        if unit is not None:
            found = True
            tasks.append(Task(image, partial(read, image, unit)))
            continue
        kept = absent_is_empty or job.keep_unannotated
        job.told(KEPT_EMPTY if kept else UNANNOTATED, image)
        if kept:
            tasks.append(Task(image, nothing))
    if not found:
        raise BadFileError(
            f"{job.annotations}: no annotation file ({', '.join(endings)}) goes with an image of "
            f"{job.images}. They need the image's name, such as a{endings[0]} for a.tif; see "
            "--suffix and --recursive."
        )
    return tasks


def require_images(job: Job, orphans: Sequence[Path | str], found_any: bool) -> None:
    """Count annotations without an image, or stop at them.

    Raises:
        BadFileError: the job does not allow them, or there are no others.
    """
    if job.allow_missing and found_any:
        for orphan in orphans:
            job.told(NO_IMAGE, orphan)
        return
    more = f" and {len(orphans) - EXAMPLES} more" if len(orphans) > EXAMPLES else ""
    hint = " --allow-missing leaves them out." if found_any else ""
    raise BadFileError(
        f"{', '.join(map(str, orphans[:EXAMPLES]))}{more}: there is no image of this name in "
        f"{job.images}. Check the folders and names (--suffix: what follows the image's name; "
        f"--recursive: sub-folders).{hint}"
    )


def annotates(name: str, suffixes: Sequence[str], plain: bool = True) -> list[str]:
    """The names of images that an annotation of this name may belong to, the likeliest first.

    Args:
        name: of the annotation, without its last ending.
        suffixes: that may follow the image's name.
        plain: whether there may be none.
    """
    core = _core(name)
    names = [name, core] if plain else []
    return names + [core[: -len(s)] for s in suffixes if s and core.endswith(s)]


def _core(name: str) -> str:
    """Without the first of OME-TIFF's two endings (``a.ome.tif``)."""
    return name[:-4] if name.lower().endswith(".ome") else name


def _images_by_name(job: Job, images: Sequence[Path]) -> dict[str, list[Path]]:
    """Images by each name that an annotation of theirs may have."""
    by_name: dict[str, list[Path]] = defaultdict(list)
    for path in images:
        stem = stem_below(path, job.images)
        for name in {path.relative_to(job.images).as_posix(), stem, _core(stem)}:
            by_name[name].append(path)
    return by_name


def _image_of(
    unit: Unit, by_name: dict[str, list[Path]], suffixes: Sequence[str], plain: bool
) -> Path | None:
    for name in annotates(unit.name, suffixes, plain):
        images = by_name.get(name, [])
        if len(images) > 1:
            raise BadFileError(
                f"{unit.files[0]}: goes with {' and '.join(map(str, images[:3]))}. Leave the one "
                "that was annotated in the folder of the images."
            )
        if images:
            return images[0]
    return None
