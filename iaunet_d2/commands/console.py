"""What commands show while they work."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def log_to_console() -> Iterator[None]:
    """Show the package's log on stderr, above progress bars."""
    from tqdm.contrib.logging import logging_redirect_tqdm

    logger = logging.getLogger("iaunet_d2")
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with logging_redirect_tqdm([logger]):
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
