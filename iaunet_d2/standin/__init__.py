"""An independent, pure-Python implementation of the part of Detectron2's public API that iaunet-d2
uses.

Same module paths, names, signatures, config keys, checkpoint layout and results as Detectron2 0.6
(main branch), written from its documentation and observed behaviour. :mod:`iaunet_d2` puts these
modules in Detectron2's place where Detectron2 is not installed.
"""

__version__ = "0.6+standin"
