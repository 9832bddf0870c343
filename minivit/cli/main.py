"""The entry point: parse the arguments, run the command, and report an error in one line."""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from signal import SIGINT

from ..devices import is_gpu_out_of_memory
from ..terminal import print_message, safe_streams
from ..training.signals import interruptible
from .common import select_device
from .option_file import format_error
from .options import UsageError
from .parser import COMMANDS, parse_arguments

MEMORY_ADVICE = {
    "train": ". Pass a smaller --batch-size, or a larger --grad-accumulation or --shards",
    "evaluate": ". Pass a smaller --image-size",
    "predict": ". Pass fewer images or a smaller --image-size",
    "attention": ". Pass fewer images or a smaller --image-size",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, by default with the arguments of the process.

    Returns the exit status: 0 for success, 1 for a failure, 2 for invalid usage, and 128 plus the
    number of a signal, for example 130 for Ctrl-C.
    """
    with safe_streams():
        try:
            try:
                return run(parse_arguments(arguments))
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt as interrupt:
            print(file=sys.stderr)  # end the line on which the terminal shows ^C
            print_message(str(interrupt) or "interrupted")
            return 128 + getattr(interrupt, "number", SIGINT)
        except OSError as error:  # stdout cannot be written
            if not isinstance(error, BrokenPipeError):  # as with `| head`
                print_message(f"minivit: error: cannot write to stdout: {error.strerror}")
            discard_output()
            return 1


def run(args: argparse.Namespace) -> int:
    """Run a command, and report its errors."""
    try:
        with interruptible(), warnings.catch_warnings():
            # training raises an error if the loss overflows
            warnings.simplefilter("ignore", RuntimeWarning)
            if "device" in args:
                select_device(args)
            return COMMANDS[args.command].run(args)
    except UsageError as error:
        return fail(args, str(error), status=2)
    except BrokenPipeError:
        raise
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
    print_message(format_error(f"minivit {args.command}", message, args.origins))
    return status


def discard_output() -> None:
    """Redirect stdout to the null device, so that Python reports no write error at exit."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
