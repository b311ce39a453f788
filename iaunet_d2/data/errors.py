"""The errors that unusable files and data sets of the user's end in."""


class BadFileError(ValueError):
    """A file that cannot be used.

    The message names the file, what was found in it, and what to do. It is one string, so that the
    error survives the way from a data-loading process to the main one.
    """


class ClassesError(ValueError):
    """Classes of a data set that do not fit the model's, or another data set's.

    The message names the data sets, their classes, and what to do.
    """
