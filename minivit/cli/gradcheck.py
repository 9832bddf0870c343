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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `gradcheck`."""
    text = "check only the functions whose names contain all of these words"
    parser.add_argument("words", nargs="*", metavar="WORD", help=text)
    text = "print the error of every argument, instead of one line per function"
    add_options(parser, {"all": (bool, None, text, False), "device": DEVICE["device"]})


def run(args: argparse.Namespace) -> int:
    """Check the gradients. Return status 1 if an error exceeds the tolerance."""
    parts = [part.lower() for part in args.words]
    selected = [c for c in cases.all_cases() if all(part in c.name.lower() for part in parts)]
    if not selected:
        raise UsageError(f"no function name contains all of these words: {' '.join(args.words)}")
    width = max(len(case.name) for case in selected)
    worst, arguments, correct = 0.0, 0, 0
    for case in selected:
        report = case.check(args.device)
        print(f"{mark(report.worst)} {case.name:{width}}  {report.worst:.1e}", flush=True)
        if args.all:
            for name, error in report.items():
                print(f"  {mark(error)} {name}  {error:.1e}")
        if not report.passed:
            print(*(f"  {line}" for line in report.explanation.splitlines()), sep="\n")
        worst, correct = max(worst, report.worst), correct + report.passed
        arguments += len(report)
    print(
        f"correct: {correct} of {len(selected)} functions, with {arguments} arguments in total; "
        f"largest relative error {worst:.1e} (tolerance {TOLERANCE:.0e})"
    )
    return int(correct < len(selected))


def mark(error: float) -> str:
    """Return a check mark, or a cross if an error exceeds the tolerance."""
    return "✓" if error <= TOLERANCE else "✗"
