"""The commands of ``iaunet``, one module each.

A module has ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> None``. What it
raises as ``ValueError`` or ``OSError`` is told in one line, with the exit code 2.
"""
