"""What can go wrong by the user's hand in a run, each kind with a name of its own."""


class ConfigError(ValueError):
    """The configuration names an unknown key, or holds a value that cannot be used."""


class CheckpointError(ValueError):
    """A weights file cannot be read, or does not fit the model."""


class OutputError(OSError):
    """``OUTPUT_DIR`` cannot be written, or its disk has too little room."""


class NonFiniteLossError(FloatingPointError):
    """A loss or the gradients became infinite or NaN; the message says when and on what files."""
