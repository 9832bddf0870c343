"""Compare the gradients of every layer and model with complex-step derivatives.

examples:
  python -m minivit gradcheck layer_norm
  python -m minivit gradcheck ViT relative --all
  python -m minivit gradcheck --device gpu
"""

import argparse

from ..checking import cases
from ..checking.gradcheck import TOLERANCE
from .options import DEVICE, UsageError, add_options

LINE = "{:34} {:38} {}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gradcheck`."""
    text = "check only the functions whose names contain all of these words"
    parser.add_argument("words", nargs="*", metavar="WORD", help=text)
    text = "print the error of every parameter array instead of the largest per module"
    add_options(parser, {"all": (bool, None, text, False), "device": DEVICE["device"]})


def run(args: argparse.Namespace) -> int:
    """Check the gradients. Return status 1 if an error exceeds the tolerance."""
    selected = [case for case in cases.all_cases() if all(w in case.name for w in args.words)]
    if not selected:
        raise UsageError(f"no function name contains all of these words: {' '.join(args.words)}")
    print(LINE.format("function", "argument", "error"))
    worst, explanations = 0.0, []
    for case in selected:
        report = case.check(args.device)
        for name, error in (report if args.all else errors_by_module(report)).items():
            print(LINE.format(case.name, name, f"{error:.1e}"), flush=True)
        worst = max(worst, report.worst)
        explanations += [f"{case.name}: {line}" for line in report.explanation.splitlines()]
    summary = f"largest relative error {worst:.1e} (tolerance {TOLERANCE:.0e})"
    print(summary, *explanations, sep="\n")
    return int(not worst <= TOLERANCE)


def errors_by_module(errors: dict[str, float]) -> dict[str, float]:
    """Return the largest error of each top-level module. All encoder blocks count as one module."""
    largest: dict[str, float] = {}
    for name, error in errors.items():
        module = "/".join(name.split("/")[:2]) if name.startswith("params/") else name
        largest[module] = max(largest.get(module, 0.0), error)
    return largest
