#!/usr/bin/env python
r"""Train, resume or evaluate a model: Detectron2's own command line.

Train on made-up cells, or with any config of ``configs/``::

    python train_net.py --config-file configs/quickstart.yaml
    python train_net.py --config-file configs/revvity_swinb.yaml --num-gpus 4

Continue a run that was interrupted; it ends as if it had not been::

    python train_net.py --config-file configs/quickstart.yaml --resume

Evaluate weights::

    python train_net.py --config-file configs/quickstart.yaml --eval-only \
        MODEL.WEIGHTS output/model_best.pth

Change any key of the config at the end of the line (``iaunet_d2/config.py`` explains each)::

    python train_net.py --config-file configs/quickstart.yaml SOLVER.MAX_ITER 200

``torchrun --nproc_per_node 4 train_net.py …`` works as well as ``--num-gpus 4``; without a GPU the
processes share the CPU. ``OUTPUT_DIR`` gets checkpoints, ``log.txt``, ``metrics.json``, TensorBoard
events, ``curves.png``, overlays and ``results.json``.
"""

import sys

from iaunet_d2.engine import main

if __name__ == "__main__":
    sys.exit(main())
