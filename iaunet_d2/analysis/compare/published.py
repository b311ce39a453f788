"""The rows of the IAUNet paper's tables, as printed.

Y. Prytula, I. Tsiporenko, A. Zeynalli, D. Fishman, "IAUNet: Instance-Aware U-Net", CVPR Workshops
2025. Table 1: LIVECell (in crops of at most 100 instances), EVICAN2 (easy, medium, difficult) and
ISBI2014; Table 2: Revvity-25 (test set). A line has model, backbone, queries, the columns, and
parameters and FLOPs; a dash is an empty cell. What the paper calls FLOPs are multiply-accumulates
for the models that were counted again (see ``iaunet summary``).
"""

import re
from dataclasses import dataclass

TABLE_1 = """
Mask R-CNN | R50 | 100 | 44.7 74.2 48.1 75.9 20.7 42.5 19.1 39.8 58.9 88.7 | 44M 115G
PointRend | R50 | 100 | 44.0 73.5 26.6 47.9 18.0 38.5 13.4 28.3 60.0 88.7 | 56M 66G
Mask2Former | R50 | 100 | 43.7 73.8 53.4 89.1 29.1 54.9 24.2 50.4 58.5 87.5 | 44M 67G
MaskDINO | R50 | 100 | 43.3 73.5 50.7 83.9 29.3 57.9 22.0 41.9 55.4 86.8 | 44M 64G
IAUNet | R50 | 100 | 45.3 75.3 58.0 91.8 32.1 59.0 24.9 45.4 56.0 85.0 | 39M 49G
Mask R-CNN | R101 | 100 | 44.2 73.2 41.5 69.9 23.3 46.9 17.8 36.7 60.7 88.8 | 63M 134G
PointRend | R101 | 100 | 44.0 73.7 41.3 65.2 20.2 39.3 14.8 32.1 60.3 89.2 | 75M 86G
Mask2Former | R101 | 100 | 44.0 73.5 54.4 87.8 27.1 51.7 20.4 42.4 59.5 88.6 | 63M 86G
MaskDINO | R101 | 100 | 43.4 73.6 53.7 85.0 31.8 59.2 27.1 51.3 55.7 87.4 | 63M 84G
IAUNet | R101 | 100 | 45.4 75.5 58.3 92.7 32.9 59.6 26.9 50.0 56.5 87.1 | 58M 69G
Mask R-CNN | Swin-S | 100 | 44.3 73.3 52.6 91.7 27.0 59.2 20.2 50.2 61.9 90.7 | 69M 141G
PointRend | Swin-S | 100 | 43.9 73.5 55.1 89.2 30.1 61.6 24.4 54.6 62.1 91.0 | 81M 93G
Mask2Former | Swin-S | 100 | 44.6 74.3 65.2 96.8 36.2 66.7 30.9 62.7 57.1 87.3 | 69M 93G
MaskDINO | Swin-S | 100 | 43.9 73.8 57.0 86.9 33.6 64.9 27.6 56.9 52.7 85.3 | 71M 181G
MaskDINO | Swin-S | 300 | 44.8 75.1 56.5 91.8 35.0 70.7 30.2 64.3 51.2 83.4 | 71M 187G
IAUNet | Swin-S | 100 | 45.4 75.4 58.8 93.1 32.2 61.9 27.7 54.1 61.1 90.1 | 64M 76G
IAUNet | Swin-S | 300 | 45.6 76.4 60.9 93.6 33.2 62.0 29.6 58.0 61.8 89.8 | 64M 87G
Mask R-CNN | Swin-B | 100 | 44.2 73.1 52.0 89.0 26.7 60.3 24.8 55.5 62.4 91.5 | 107M 186G
PointRend | Swin-B | 100 | 44.0 73.7 58.6 91.0 34.1 64.6 25.8 52.0 62.7 91.5 | 119M 137G
Mask2Former | Swin-B | 100 | 44.9 74.7 55.0 92.5 31.4 60.9 27.7 56.6 58.1 88.4 | 107M 138G
MaskDINO | Swin-B | 100 | 44.3 74.1 57.3 91.1 37.3 75.7 30.1 65.6 53.5 86.6 | 110M 226G
MaskDINO | Swin-B | 300 | 45.2 75.8 57.9 91.6 39.1 78.8 34.0 72.3 53.3 84.8 | 110M 232G
IAUNet | Swin-B | 100 | 45.5 75.6 59.6 93.5 34.2 65.7 28.9 56.9 61.5 90.8 | 102M 120G
IAUNet | Swin-B | 300 | 45.8 76.7 61.2 94.8 38.0 69.6 30.7 59.9 63.0 91.5 | 102M 132G
CellPose | - | - | 34.5 60.1 0.9 2.8 0.1 0.3 0.0 0.0 40.5 69.3 | 6.6M 163.6G
CellPose + SM | - | - | 34.9 60.4 8.7 16.8 1.6 4.4 2.3 6.8 41.6 70.4 | 6.6M 163.6G
CellDETR | R34 | 100 | 13.9 32.7 0 0.1 0.0 0.0 0.0 0.0 0.046 0.135 | 57M 3.6T
YOLOv8-M | - | - | 37.5 72.2 43.8 82.3 27.5 57.1 20.0 46.2 54.9 90.7 | 27.2M 110.4G
YOLOv8-L | - | - | 40.5 72.5 44.7 83.1 28.1 58.2 20.3 46.1 55.1 91.1 | 45.9M 220.8G
YOLOv8-X | - | - | 41.1 73.1 45.8 85.6 28.9 59.2 20.7 47.3 55.3 91.4 | 71.8M 344.5G
YOLOv9-E | - | - | 41.2 73.2 45.6 84.4 27.2 57.9 20.1 47.3 53.3 91.6 | 27.8M 159.1G
YOLOv9-C | - | - | 41.4 73.1 45.9 85.6 28.3 59.8 22.2 49.9 55.7 91.1 | 60.5M 248.1G
SAM-B (points) | - | - | 5.0 12.4 28.4 56.0 5.4 13.8 3.2 7.2 33.8 51.8 | 90M 742G
SAM-B (boxes) | - | - | 24.3 56.9 55.0 96.6 38.6 91.2 34.8 82.3 59.6 92.8 | 90M 742G
SAM-L (points) | - | - | 6.3 13.6 28.1 54.1 4.9 12.4 3.2 7.5 32.8 51.0 | 308M 2.6T
SAM-L (boxes) | - | - | 29.2 65.2 57.2 96.6 45.8 95.3 39.7 88.6 60.8 93.6 | 308M 2.6T
"""

TABLE_2 = """
Mask R-CNN | R50 | 100 | 39.7 77.2 37.4 0.6 19.0 44.6 | 44M 115G
PointRend | R50 | 100 | 42.2 79.4 40.9 0.4 21.7 47.3 | 56M 66G
Mask2Former | R50 | 100 | 46.4 79.8 49.9 0.7 25.7 52.8 | 44M 67G
MaskDINO | R50 | 100 | 45.6 80.4 48.2 1.8 22.3 51.8 | 44M 64G
IAUNet | R50 | 100 | 49.7 82.1 54.8 0.6 27.3 56.0 | 39M 49G
Mask R-CNN | R101 | 100 | 40.7 77.5 39.9 0.4 20.1 45.8 | 63M 134G
PointRend | R101 | 100 | 42.9 79.3 42.5 0.0 18.4 48.9 | 75M 86G
Mask2Former | R101 | 100 | 47.2 80.1 51.8 1.7 25.7 53.3 | 63M 86G
MaskDINO | R101 | 100 | 47.3 81.0 50.4 0.9 23.0 53.5 | 63M 84G
IAUNet | R101 | 100 | 51.5 84.7 56.1 1.7 29.2 57.8 | 58M 69G
Mask R-CNN | Swin-S | 100 | 24.7 63.4 12.5 0.0 7.3 28.9 | 69M 141G
PointRend | Swin-S | 100 | 43.6 80.0 43.0 0.5 21.5 48.9 | 81M 93G
Mask2Former | Swin-S | 100 | 51.2 83.3 56.4 2.7 27.7 58.0 | 69M 93G
MaskDINO | Swin-S | 100 | 50.3 83.2 53.9 4.7 27.6 56.1 | 71M 181G
MaskDINO | Swin-S | 300 | 49.4 83.6 53.3 2.9 25.8 55.3 | 71M 187G
IAUNet | Swin-S | 100 | 53.0 85.7 57.0 1.3 29.7 59.1 | 64M 76G
IAUNet | Swin-S | 300 | 53.3 86.0 59.6 1.6 29.4 59.8 | 64M 87G
Mask R-CNN | Swin-B | 100 | 27.1 64.9 17.2 0.1 9.7 31.2 | 107M 186G
PointRend | Swin-B | 100 | 45.2 80.1 47.9 0.1 23.0 50.9 | 119M 137G
Mask2Former | Swin-B | 100 | 52.0 83.6 58.4 1.1 27.8 59.0 | 107M 138G
MaskDINO | Swin-B | 100 | 50.5 83.5 54.9 2.0 27.1 56.4 | 110M 226G
MaskDINO | Swin-B | 300 | 50.4 84.3 54.8 0.8 26.3 56.6 | 110M 232G
IAUNet | Swin-B | 100 | 53.5 86.1 59.4 0.8 30.5 59.7 | 102M 120G
IAUNet | Swin-B | 300 | 53.7 86.5 59.4 1.0 30.0 60.3 | 102M 132G
"""

_APS = ("AP", "AP50")
# Data set -> table, its lines, place of its first column, its columns.
_PLACES = {
    "livecell": ("Table 1", TABLE_1, 0, _APS),
    "evican2_easy": ("Table 1", TABLE_1, 2, _APS),
    "evican2_medium": ("Table 1", TABLE_1, 4, _APS),
    "evican2_difficult": ("Table 1", TABLE_1, 6, _APS),
    "isbi2014": ("Table 1", TABLE_1, 8, _APS),
    "revvity25": ("Table 2", TABLE_2, 0, ("AP", "AP50", "AP75", "APs", "APm", "APl")),
}
PAPER_DATASETS = tuple(_PLACES)
"""Data sets that the paper has rows for."""


@dataclass(frozen=True)
class PublishedRow:
    """One printed row, for one data set.

    Attributes:
        model: as printed.
        backbone: as printed; empty where the cell is.
        queries: as printed; empty where the cell is.
        table: where it stands.
        cells: AP, AP50, ... and "parameters" and "gmacs", as printed.
    """

    model: str
    backbone: str
    queries: str
    table: str
    cells: dict[str, str]

    @property
    def name(self) -> str:
        """Model and backbone, and queries where they are not the usual 100."""
        parts = [self.model, self.backbone, "" if self.queries in ("", "100") else self.queries]
        return " ".join(part for part in parts if part)

    def number(self, key: str) -> float:
        """A cell as a number: parameters in 1, gmacs in 1e9, precisions in 0 to 100."""
        value, unit = re.fullmatch(r"([\d.]+)([MGT]?)", self.cells[key]).groups()  # type: ignore
        if key == "parameters":
            return float(value) * {"M": 1e6}[unit]
        return float(value) * {"": 1, "G": 1, "T": 1000}[unit]


def paper_dataset(dataset_name: str) -> str:
    """Which of :data:`PAPER_DATASETS` a registered name belongs to.

    Raises:
        ValueError: none; the message names them.
    """
    for known in PAPER_DATASETS:
        if dataset_name == known or dataset_name.startswith(known + "_"):
            return known
    raise ValueError(
        f"--paper: the paper has no rows for {dataset_name!r}; name the data set whose rows are "
        f"wanted: --paper {' | '.join(PAPER_DATASETS)}"
    )


def published_rows(dataset: str) -> list[PublishedRow]:
    """The printed rows of one of :data:`PAPER_DATASETS`, in the order of the table."""
    table, text, first, columns = _PLACES[dataset]
    rows = []
    for line in text.strip().splitlines():
        model, backbone, queries, values, costs = (part.strip() for part in line.split("|"))
        cells = dict(zip(columns, values.split()[first:], strict=False))
        cells["parameters"], cells["gmacs"] = costs.split()
        rows.append(PublishedRow(model, backbone.strip("-"), queries.strip("-"), table, cells))
    return rows
