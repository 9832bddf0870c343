"""minivit, PyTorch and a lower bound, the rate of one large matrix product, on a GPU.

    python tests/benchmarks/gpu.py --csv gpu_step.csv --layers gpu_layers.csv

CuPy and a GPU are required. If PyTorch is installed, it runs eagerly with its fused attention, with
its fused AdamW as well, and under `torch.compile` with both. All contenders have the same weights,
images and labels on the GPU, and their results stay there. The phases are "forward" (the logits),
"gradients" (the loss and the gradients of all parameters) and "step" (gradients and an AdamW
update). The precisions are float32, tf32 (products read float32 with 10 mantissa bits) and half: in
minivit, products read float32 arrays as bfloat16; PyTorch's autocast stores bfloat16 arrays. Losses
and gradients are compared within the accuracy of the precision. Memory is that of all arrays.

`--layers` compares each layer that has a CUDA kernel with its readable version, and with copying as
many bytes as the layer reads and writes. `--phase` without a value skips everything else.
"""

import itertools
import sys
from pathlib import Path

import gpu_layers  # next to this file
import harness
from contenders import BOUND_FLOP
from harness import LOWER_BOUND, Case, Contender, Row

from minivit import ViTConfig
from minivit.cost import layer_costs, total_cost
from minivit.devices import NoGPUError, device_module

MODELS = {  # configuration, batch size
    "ViT-Ti/4": (ViTConfig.named("ViT-Ti/4", image_size=32, classes=10), 512),
    "ViT-S/16": (ViTConfig.named("ViT-S/16"), 64),
    "ViT-B/16": (ViTConfig.named("ViT-B/16"), 64),
}
PHASES = ("forward", "gradients", "step")
TOLERANCE = {"float32": 1e-4, "tf32": 1e-2, "half": 5e-2}
GPU, TORCH = {"device": "gpu"}, ("torch", "torch_vit.PyTorch")
FUSED, COMPILED = "PyTorch eager, fused AdamW", "torch.compile"
CONTENDERS = {
    "minivit": Contender("minivit", "contenders.Minivit", GPU),
    "PyTorch eager": Contender(*TORCH, GPU),
    FUSED: Contender(*TORCH, GPU | {"fused": True}),
    COMPILED: Contender(*TORCH, GPU | {"fused": True, "compiled": True}),
    LOWER_BOUND: Contender("minivit", "contenders.MatrixProduct", GPU, work=BOUND_FLOP["gpu"]),
}


def make_case(model: str, precision: str, phase: str, excluded: set[str]) -> Case:
    excluded = excluded | (set() if phase == "step" else {FUSED})
    if phase == "forward" or precision == "float32":
        excluded |= {COMPILED}
    config, batch_size = MODELS[model]
    total = total_cost(layer_costs(config, batch_size))
    return Case(
        {"model": model, "batch": batch_size, "phase": phase, "precision": precision},
        {name: c for name, c in CONTENDERS.items() if name not in excluded},
        (phase, config, batch_size, precision),
        tolerance=TOLERANCE[precision],
        work=total.forward + (0 if phase == "forward" else total.backward),
        pause=0,
        group=model,
    )


def device_columns() -> Row:
    """Return the columns that describe the GPU. Exit if there is none."""
    try:
        cupy = device_module("gpu")
    except NoGPUError as reason:
        sys.exit(f"no GPU: {reason}")
    runtime = cupy.cuda.runtime
    columns = {"device": runtime.getDeviceProperties(0)["name"].decode()}
    columns |= {"driver": runtime.driverGetVersion(), "cuda": runtime.runtimeGetVersion()}
    return columns | {"cupy": cupy.__version__}


if __name__ == "__main__":
    parser = harness.make_parser(__doc__, rounds=7)
    parser.add_argument("--model", choices=MODELS, nargs="+", default=[*MODELS])
    parser.add_argument("--phase", choices=PHASES, nargs="*", default=PHASES)
    parser.add_argument("--precision", choices=TOLERANCE, nargs="+", default=[*TOLERANCE])
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile")
    text = "compare single layers with their readable versions, and write the table to a file"
    parser.add_argument("--layers", type=Path, metavar="FILE", help=text)
    args = harness.parse(parser, packages=["torch"])
    device = device_columns()
    print(", ".join(f"{name} {value}" for name, value in device.items()), flush=True)
    excluded = {COMPILED} if args.no_compile else set()
    tasks = ((m, p, phase) for m in args.model for p in args.precision for phase in args.phase)
    cases = (make_case(*task, excluded) for task in tasks)
    harness.run(cases, args.rounds, args.csv, device)
    if args.layers:
        cases = (gpu_layers.make_cases(*MODELS[model]) for model in ("ViT-Ti/4", "ViT-B/16"))
        harness.run(itertools.chain(*cases), args.rounds, args.layers, device)
