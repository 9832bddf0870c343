"""The logits of ViT-B/16 at 224 pixels: minivit, PyTorch in inference mode, and a lower bound.

    python tests/benchmarks/inference.py --rounds 11

PyTorch runs eagerly, with its fused attention and with Equations 6 and 7 written out. All have the
same weights, images and GELU, and their logits are compared. Memory is the peak of the process
without code, weights and images, on Linux.
"""

import harness  # next to this file
from harness import Case
from step import STEP

from minivit import ViTConfig
from minivit.cost import layer_costs, total_cost

CONTENDERS = {n: c for n, c in STEP.items() if c.package != "jax" and n != "torch.compile"}


def make_case(model: str, batch_size: int, gelu: str) -> Case:
    config = ViTConfig.named(model, gelu=gelu)
    return Case(
        {"model": model, "gelu": gelu, "batch_size": batch_size},
        CONTENDERS,
        ("forward", config, batch_size),
        work=total_cost(layer_costs(config, batch_size)).forward,
        above_baseline=True,
    )


if __name__ == "__main__":
    parser = harness.make_parser(__doc__, rounds=15)
    parser.add_argument("--model", default="ViT-B/16", metavar="NAME")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[8, 1, 32], metavar="N")
    parser.add_argument("--gelu", choices=["tanh", "erf"], nargs="+", default=["tanh", "erf"])
    args = harness.parse(parser, packages=["torch"])
    sizes = ((batch_size, gelu) for batch_size in args.batch_size for gelu in args.gelu)
    harness.run((make_case(args.model, *size) for size in sizes), args.rounds, args.csv)
