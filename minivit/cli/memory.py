"""Check that a model and its training fit into memory, and suggest changes if not."""

import math
import os
import sys

from .. import cost, devices
from ..api import ViT
from ..cost import format_quantity
from ..models import ViTConfig, parameter_count, parameter_specs
from ..training import Recipe
from ..tree import flatten

USABLE = 0.9  # fraction of the GPU memory; cuBLAS and fragmentation take the rest
PARTS = {  # options that determine the size of each part of a model
    "stem": "--stem or --stem-width",
    "patch_embedding": "--patch-size or --stem-width",
    "positions": "--image-size",
    "hidden": "--hidden-head",
    "head": "--hidden-head or --width",
}
SMALLER_IMAGE = "Pass a smaller --image-size, or a model with larger patches"


def available_memory() -> int:
    """Return the memory of this machine in bytes, or the limit of the process if that is lower."""
    if not hasattr(os, "sysconf"):  # Windows
        return sys.maxsize
    import resource  # does not exist on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return physical if limit == resource.RLIM_INFINITY else min(physical, limit)


def check_parameters(config: ViTConfig) -> None:
    """Raise ValueError if the parameters of a new model do not fit into memory."""
    n, available = parameter_count(config), available_memory()
    if 4 * n > available:
        raise ValueError(
            f"the model has {format_quantity(n)} parameters ({format_quantity(4 * n, 'B')}), but "
            f"this machine has {format_quantity(available, 'B')} of memory. {size_advice(config)}"
        )


def size_advice(config: ViTConfig) -> str:
    """Return advice on which option reduces the part with the most parameters."""
    specs = parameter_specs(config)
    sizes = {n: sum(math.prod(p.shape) for p in flatten(specs[n]).values()) for n in specs}
    options = PARTS.get(max(sizes, key=sizes.__getitem__), "--width, --mlp-width or --depth")
    return f"Pass a smaller {options}"


def check_attention(config: ViTConfig, maps: int = 1) -> None:
    """Raise ValueError if the attention weights of `maps` layers do not fit into memory."""
    T, available = config.tokens, available_memory()
    size = 4 * maps * config.heads * T * T
    if size > available:
        H, W = config.image_size
        raise ValueError(
            f"an image of {H} x {W} pixels has {T:,} tokens, and the attention weights need "
            f"{format_quantity(size, 'B')}, but this machine has {format_quantity(available, 'B')} "
            f"of memory. {SMALLER_IMAGE}"
        )


def check_training(model: ViT, recipe: Recipe, images: int, threads: int | None) -> None:
    """Raise ValueError if training on the CPU does not fit into memory."""
    available = available_memory()
    size = -(-min(recipe.batch_size, images) // recipe.grad_accumulation)

    def required(n: int, shards: int | None, threads: int | None) -> int:
        dtype, optimiser = str(model.dtype), recipe.optimiser
        memory = cost.memory(
            model.config, n, dtype, optimiser=optimiser, shards=shards, threads=threads
        )
        return memory.training

    needed = required(size, recipe.shards, threads)
    if needed <= available:
        return
    weights = 4 * model.dtype.itemsize * parameter_count(model.config)  # and gradients, two moments
    advice = "Pass a smaller --batch-size, or a larger --grad-accumulation or --shards"
    if weights > available:
        needed, advice = weights, size_advice(model.config)
    elif (one := required(1, 1, 1)) > available:
        needed, advice = one, SMALLER_IMAGE
    raise ValueError(
        f"training needs {format_quantity(needed, 'B')} of memory, but this machine has "
        f"{format_quantity(available, 'B')}. {advice}"
    )


def explain_gpu_memory(model: ViT, recipe: Recipe, resumed: bool) -> str:
    """Return an error message with the largest batch size that fits into GPU memory."""
    config, B, dtype = model.config, recipe.batch_size, str(model.dtype)
    H, W = config.image_size
    images = 2 * B * H * W * config.channels * model.dtype.itemsize  # two batches
    vectors = 2 + bool(recipe.ema)  # accumulated gradients, and the averaged weights of the EMA

    def required(n: int) -> int:
        memory = cost.memory(config, n, dtype, optimiser=recipe.optimiser, shards=1, threads=1)
        return memory.training + vectors * memory.parameters + images

    size, available = -(-B // recipe.grad_accumulation), devices.available_gpu_memory()
    limit = cost.max_batch_size(int(USABLE * available), size, required)
    message = f"out of GPU memory ({format_quantity(available, 'B')}) with {size} images. "
    if limit == size:
        return f"{message}They should fit; check whether another process is using the GPU"
    if not limit:
        return f"{message}A single image would not fit; use a smaller model"
    verb, parts = "start a new run with" if resumed else "pass", -(-B // limit)
    return f"{message}{limit} would fit; {verb} --batch-size {limit} or --grad-accumulation {parts}"
