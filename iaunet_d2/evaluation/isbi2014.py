"""The metrics of the ISBI 2014 Overlapping Cervical Cytology Image Segmentation Challenge.

https://cs.adelaide.edu.au/~carneiro/isbi14_challenge/evaluation.html
"""

import math
from dataclasses import dataclass, field

import numpy as np

from .ground_truth import GroundTruth
from .mask_evaluator import ImageMasks, MaskEvaluator, image_masks
from .matching import Contingency, contingency_of_masks, greedy_pairs, mean, percent, ratio
from .predictions import Predictions

GOOD_DICE = 0.7
"""A cell is found if its Dice coefficient is over this."""
NUCLEUS_SHARE = 0.6
"""A nucleus is found if over this share of it, and of its prediction, is in the other."""


@dataclass
class CytoplasmSums:
    """What is kept of the images: per good cell, and the number of cells.

    Attributes:
        dice: Dice coefficient of each good cell.
        hit: its pixel true-positive rate.
        spill: its pixel false-positive rate.
        cells: true cells, good or not.
    """

    dice: list[float] = field(default_factory=list)
    hit: list[float] = field(default_factory=list)
    spill: list[float] = field(default_factory=list)
    cells: int = 0

    def add(self, contingency: Contingency, pixels: int) -> None:
        """Take in an image of so many pixels.

        Cells and predictions are paired one to one, the highest Dice first. The challenge does not
        publish how it pairs; this is what DoNet and MMT-PSM do. It does not publish either what
        false positives are divided by: taken here are the pixels of the image that are not of the
        cell, which gives values as small as the published ones.
        """
        dice = contingency.dice()
        rows, columns = greedy_pairs(dice, GOOD_DICE)
        shared, areas = contingency.shared[rows, columns], contingency.truth[rows]
        self.dice.extend(dice[rows, columns])
        self.hit.extend(shared / areas)
        self.spill.extend(ratio(contingency.predicted[columns] - shared, pixels - areas))
        self.cells += len(contingency.truth)

    def metrics(self) -> dict[str, float]:
        """DC, TPp and FPp as mean and population standard deviation over good cells, and FNo."""
        values: dict[str, float] = {}
        for name, cells in (("DC", self.dice), ("TPp", self.hit), ("FPp", self.spill)):
            values[name] = mean(cells)
            values[f"{name}-std"] = deviation(cells)
        values["FNo"] = float(ratio(self.cells - len(self.dice), self.cells))
        return values


@dataclass
class NucleusSums:
    """What is kept of the images: per nucleus that was found, and the number of nuclei.

    Attributes:
        precision: share of the prediction that is nucleus, per nucleus that was found.
        recall: share of the nucleus that was predicted.
        dice: Dice coefficient.
        nuclei: true nuclei, found or not.
        predicted: predicted nuclei, right or not.
    """

    precision: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)
    dice: list[float] = field(default_factory=list)
    nuclei: int = 0
    predicted: int = 0

    def add(self, contingency: Contingency) -> None:
        """Take in an image; nuclei and predictions are paired one to one, highest Dice first."""
        recall = contingency.shared / contingency.truth[:, None]
        precision = contingency.shared / contingency.predicted
        dice = contingency.dice()
        right = (recall > NUCLEUS_SHARE) & (precision > NUCLEUS_SHARE)
        pairs = greedy_pairs(np.where(right, dice, 0.0), 0.0)
        self.precision.extend(precision[pairs])
        self.recall.extend(recall[pairs])
        self.dice.extend(dice[pairs])
        self.nuclei += len(contingency.truth)
        self.predicted += len(contingency.predicted)

    def metrics(self) -> dict[str, float]:
        """Precision and recall of objects, and means over the found nuclei."""
        found = len(self.dice)
        return {
            "nuclei-precision": float(ratio(found, self.predicted)),
            "nuclei-recall": float(ratio(found, self.nuclei)),
            "nuclei-pixel-precision": mean(self.precision),
            "nuclei-pixel-recall": mean(self.recall),
            "nuclei-Dice": mean(self.dice),
        }


def deviation(values: list[float]) -> float:
    """Population standard deviation without NaNs; NaN if nothing is left."""
    centre = mean(values)
    return math.sqrt(mean([(value - centre) ** 2 for value in values]))


def class_number(names: list[str], wanted: str) -> int:
    """Contiguous number of the class of that name, in either case.

    Raises:
        ValueError: there is none.
    """
    lowered = [name.lower() for name in names]
    if wanted not in lowered:
        raise ValueError(
            f"the metrics of ISBI 2014 need a class {wanted!r}; the data set has the classes "
            f"{', '.join(names) or 'none'}. Rename its category in the annotation file, or choose "
            "another evaluator."
        )
    return lowered.index(wanted)


class ISBI2014Evaluator(MaskEvaluator):
    """The challenge's metrics; overlapping instances stay whole.

    Cytoplasm: ``DC``, the mean Dice coefficient of good cells, those with one over 0.7; ``FNo``,
    the share of all cells of the data set that are not good; ``TPp`` and ``FPp``, pixel
    true-positive and false-positive rate of good cells; each with ``-std`` over cells. Predictions
    too many cost nothing here. Nuclei: ``nuclei-precision`` and ``nuclei-recall`` of objects over
    the data set, then means over the nuclei that were found.
    """

    task = "isbi2014"

    def metrics(self, truth: GroundTruth, predictions: Predictions) -> dict[str, float]:
        nucleus = class_number(truth.names, "nucleus")
        cytoplasm = class_number(truth.names, "cytoplasm")
        cells, nuclei = CytoplasmSums(), NucleusSums()
        for image in image_masks(truth, predictions, self.score_threshold):
            cells.add(_of_class(image, cytoplasm), image.height * image.width)
            nuclei.add(_of_class(image, nucleus))
        return percent({**cells.metrics(), **nuclei.metrics()})


def _of_class(image: ImageMasks, number: int) -> Contingency:
    truth = [image.truth[k] for k in np.flatnonzero(image.truth_classes == number)]
    found = [image.predicted[k] for k in np.flatnonzero(image.predicted_classes == number)]
    return contingency_of_masks(truth, found)
