"""A training step of minivit, PyTorch and JAX on the same cores, and a lower bound.

    python tests/benchmarks/step.py --csv step.csv

`pip install "minivit[peers]"` installs the other frameworks: PyTorch, eager with fused attention or
with Equations 6 and 7 written out, `torch.compile`, and JAX under jit. All have the same weights,
images, GELU and number of threads. Losses and all gradients are compared. The lower bound is the
time of the matrix products at the rate of one large product. Memory is the peak of the process, on
Linux. The task "update" is not a step, but one AdamW update of the parameters of ViT-Ti/4.
"""

import dataclasses
from collections.abc import Iterator

import harness  # next to this file
from contenders import BOUND_FLOP
from harness import LOWER_BOUND, Case, Contender

from minivit import ViTConfig
from minivit.cost import layer_costs, total_cost

SMALL = ViTConfig(
    image_size=8, patch_size=2, channels=1, classes=10,
    width=64, depth=4, heads=4, mlp_width=256,
)  # fmt: skip
TI_4 = ViTConfig.named("ViT-Ti/4", image_size=32, classes=10)
MODELS = {"Ti/4": (TI_4, 64), "small": (SMALL, 128)}  # configuration, batch size
TORCH = "torch", "torch_vit.PyTorch"
STEP = {
    "minivit": Contender("minivit", "contenders.Minivit"),
    "PyTorch, fused attention": Contender(*TORCH),
    "PyTorch, Equations 6 and 7": Contender(*TORCH, {"fused_attention": False}),
    "torch.compile": Contender(*TORCH, {"compiled": True}),
    "JAX jit": Contender("jax", "jax_vit.JAX"),
    LOWER_BOUND: Contender("numpy", "contenders.MatrixProduct", work=BOUND_FLOP["cpu"]),
}
UPDATE = {
    "minivit": STEP["minivit"],
    "PyTorch AdamW, default": Contender(*TORCH),
    "PyTorch AdamW, foreach": Contender(*TORCH, {"foreach": True}),
    "PyTorch AdamW, fused": Contender(*TORCH, {"fused": True}),
}
TASKS = [*MODELS, "update"]


def cases(tasks: list[str], gelus: list[str]) -> Iterator[Case]:
    for task in tasks:
        if task == "update":
            yield Case({"model": task, "gelu": ""}, UPDATE, ("update", TI_4, 1))
            continue
        config, batch_size = MODELS[task]
        total = total_cost(layer_costs(config, batch_size))
        flop = total.forward + total.backward
        for gelu in gelus:
            arguments = "gradients", dataclasses.replace(config, gelu=gelu), batch_size
            yield Case({"model": task, "gelu": gelu}, STEP, arguments, work=flop)


if __name__ == "__main__":
    parser = harness.make_parser(__doc__, rounds=15)
    parser.add_argument("--model", choices=TASKS, nargs="+", default=TASKS)
    parser.add_argument("--gelu", choices=["tanh", "erf"], nargs="+", default=["tanh", "erf"])
    args = harness.parse(parser, packages=("torch", "jax"))
    harness.run(cases(args.model, args.gelu), args.rounds, args.csv)
