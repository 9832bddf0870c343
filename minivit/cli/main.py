"""The entry point: parse the arguments, run the command, and report an error in one line."""

import argparse
import sys
import warnings
from collections.abc import Sequence

from ..devices import is_gpu_out_of_memory
from .common import select_device
from .options import UsageError
from .parser import COMMANDS, parse_arguments

INTERRUPTED = 130  # the exit status that shells use for Ctrl-C
MEMORY_ADVICE = {
    "train": ". Pass a smaller --batch-size, or a larger --grad-accumulation or --shards",
    "evaluate": ". Pass a smaller --image-size",
    "predict": ". Pass fewer images or a smaller --image-size",
    "attention": ". Pass fewer images or a smaller --image-size",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default with the arguments of the process.

    Returns the exit status: 0 for success, 1 for a failure, 2 for invalid usage, 130 for Ctrl-C.
    """
    args = parse_arguments(arguments)
    try:
        with warnings.catch_warnings():  # training raises an error if the loss overflows
            warnings.simplefilter("ignore", RuntimeWarning)
            if "device" in args:
                select_device(args)
            return COMMANDS[args.command].run(args)
    except UsageError as error:
        return fail(args, str(error), status=2)
    except KeyboardInterrupt as interrupt:
        print(f"\n{str(interrupt) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the output is a closed pipe, for example with `| head`
        sys.stderr.close()
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fail(args, f"{where}{error.strerror or error}")
    except MemoryError as error:
        if is_gpu_out_of_memory(error):
            return fail(args, "out of GPU memory. Use a smaller model or smaller images")
        return fail(args, "out of memory" + MEMORY_ADVICE.get(args.command, ""))
    except (ValueError, TypeError, FloatingPointError, RuntimeError) as error:
        return fail(args, str(error))


def fail(args: argparse.Namespace, message: str, status: int = 1) -> int:
    """Print an error in one line and return the exit status."""
    print(f"minivit {args.command}: error: {message}", file=sys.stderr)
    return status
