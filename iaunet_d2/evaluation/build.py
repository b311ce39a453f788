"""The evaluators of a data set, chosen by what the data set says of itself."""

import re
from collections.abc import Callable
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils.registry import Registry

from .predictions import PredictionStore

EVALUATOR_REGISTRY = Registry("EVALUATOR")
EVALUATOR_REGISTRY.__doc__ = """
Builders of evaluators: ``builder(cfg, dataset_name, output_folder, store) -> list of evaluators``,
registered under the name that the metadata of the data set and ``TEST.EVALUATORS`` call them by: in
``MetadataCatalog.get(dataset_name)``, ``evaluators`` is a list of names; without it,
``evaluator_type``, which Detectron2's own tools read, is one name, or several with commas between.
Evaluators that keep their predictions in ``store`` share them.
"""

Builder = Callable[[CfgNode, str, str, PredictionStore], list[DatasetEvaluator]]


def build_evaluator(
    cfg: CfgNode,
    dataset_name: str,
    output_folder: str,
    report: bool = False,
    store: PredictionStore | None = None,
) -> DatasetEvaluator:
    """Build the evaluators for ``dataset_name``, as one.

    They are those that the data set's metadata name (``evaluators``, else ``evaluator_type``) and
    those of ``TEST.EVALUATORS``, each kind once.
    Where "livecell" is among them, COCO's metrics are by its rules.

    Args:
        cfg: the keys under ``TEST`` are used.
        dataset_name: a registered data set.
        output_folder: where evaluators may write.
        report: also write what :mod:`iaunet_d2.evaluation.report` describes.
        store: where the evaluators shall keep the predictions, for a caller that looks at them.

    Raises:
        ValueError: there is no builder of that name.
    """
    known = sorted(name for name, _ in EVALUATOR_REGISTRY)
    own = _asked_for(dataset_name, known)
    if unknown := [name for name in cfg.TEST.EVALUATORS if name not in known]:
        raise ValueError(
            f"TEST.EVALUATORS names {', '.join(unknown)}; known are: {', '.join(known)}"
        )
    store = store or PredictionStore()
    built: dict[type, DatasetEvaluator] = {}
    names = dict.fromkeys([*own, *cfg.TEST.EVALUATORS])
    # Others bring COCO's metrics too; of one kind, the first that was built stays.
    for name in sorted(names, key=lambda name: name != "livecell"):
        builder: Builder = EVALUATOR_REGISTRY.get(name)
        for evaluator in builder(cfg, dataset_name, output_folder, store):
            built.setdefault(type(evaluator), evaluator)
    evaluators = list(built.values())
    if report:
        from .report import ReportWriter

        evaluators.append(ReportWriter(cfg, dataset_name, output_folder, store))
    return DatasetEvaluators(evaluators)


def _asked_for(dataset_name: str, known: list[str]) -> list[str]:
    """The evaluators that a data set's metadata name.

    Raises:
        ValueError: there is one that is not among ``known``.
    """
    metadata = MetadataCatalog.get(dataset_name)
    field = "evaluators" if metadata.get("evaluators") else "evaluator_type"
    asked = metadata.get(field)
    parts = asked.split(",") if isinstance(asked, str) else asked or [None]
    names = [part.strip() if isinstance(part, str) else part for part in parts]
    for name in names:
        if name not in known:
            raise ValueError(
                f"data set {dataset_name!r} asks for {field} {name!r}, which has no evaluator; "
                f"known are: {', '.join(known)}. Set MetadataCatalog.get(name).evaluators, such as "
                '("coco",), or register a builder in iaunet_d2.evaluation.EVALUATOR_REGISTRY.'
            )
    return names


def inference_folder(cfg: CfgNode, dataset_name: str) -> str:
    """Folder for predictions below ``OUTPUT_DIR/inference``, named without slash or colon."""
    return str(Path(cfg.OUTPUT_DIR) / "inference" / re.sub(r"[^\w.-]+", "_", dataset_name))
