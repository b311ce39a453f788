"""The error that every unusable file of the user's ends in."""


class BadFileError(ValueError):
    """A file that cannot be used.

    The message names the file, what was found in it, and what to do. It is one string, so that the
    error survives the way from a data-loading process to the main one.
    """
