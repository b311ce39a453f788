"""The console command ``iaunet``."""

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence
from types import ModuleType

from .config.imports import add_import_argument, import_asked

# Command -> module of iaunet_d2.commands, in the order of the help.
_COMMANDS = {
    "prepare": "prepare",
    "stats": "stats",
    "import": "import_annotations",
    "summary": "summary",
    "compare": "compare",
    "benchmark": "benchmark",
    "predict": "predict",
    "activations": "activations",
    "pseudo-label": "pseudo_label",
    "ensemble": "ensemble",
    "demo": "demo",
    "env": "env",
}


def _parser() -> tuple[argparse.ArgumentParser, dict[str, ModuleType]]:
    parser = argparse.ArgumentParser(
        prog="iaunet", description="Instance segmentation of overlapping cells."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "train", add_help=False, help="train, resume or evaluate: the arguments of train_net.py"
    )
    modules = {}
    for command, name in _COMMANDS.items():
        module = importlib.import_module(f"iaunet_d2.commands.{name}")
        modules[command] = module
        own = commands.add_parser(command, help=module.HELP)
        module.add_arguments(own)
        add_import_argument(own)
    return parser, modules


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, or what the command gives (``predict`` and ``pseudo-label`` 1 where some
        images failed), 2 for bad input (told in one line), 130 after an interrupt.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["train"]:
        from .engine import main as train

        return train(arguments[1:])
    # Of libraries, at their import; nothing that a user of this command could act on.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    parser, modules = _parser()
    args = parser.parse_args(arguments)
    try:
        import_asked(args.imports)
        code: int | None = modules[args.command].run(args)
    except (ValueError, OSError) as error:
        print(f"iaunet {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"iaunet {args.command}: interrupted", file=sys.stderr)
        return 130
    return code or 0


if __name__ == "__main__":
    sys.exit(main())
