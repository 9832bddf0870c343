"""The command line: python -m minivit COMMAND. Arguments in, calls out."""

import sys
import warnings
from collections.abc import Sequence

from .commands import COMMANDS
from .commands.arguments import at_work, fail
from .commands.train import INTERRUPTED
from .devices import is_gpu_out_of_memory
from .options import build_parser

LESS_MEMORY = {  # what needs less
    "train": ": a smaller --batch-size, or more --shards or --grad-accumulation, need less",
    "evaluate": ": a smaller --image-size needs less",
    "predict": ": fewer images at a time, or a smaller --image-size, need less",
    "attention": ": fewer images at a time, or a smaller --image-size, need less",
    "cost": ": a smaller --batch-size needs less",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status: 0, 1 after a failure, 2 for bad usage."""
    args = build_parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():  # a loss that overflows is reported, once, as an error
            warnings.simplefilter("ignore", RuntimeWarning)
            at_work(args)
            return COMMANDS[args.command](args)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # whoever read our output has left: `... | head`
        sys.stderr.close()
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return fail(f"{where}{error.strerror or error}")
    except MemoryError as error:
        if is_gpu_out_of_memory(error):
            return fail("out of device memory: a smaller model, or smaller images, need less")
        return fail("out of memory" + LESS_MEMORY.get(args.command, ""))
    except (ValueError, TypeError, FloatingPointError, RuntimeError) as error:
        return fail(str(error))
