"""One forward and backward pass: minivit against PyTorch on the same cores.

    python tests/benchmarks/step.py --rounds 15

Needs `torch` beside minivit. All hold the same weights, see the same images and have the same
GELU; their losses and gradients are compared before anything is timed. PyTorch runs eagerly, once
with its fused attention and once with attention written out. Each runs in a process of its own;
rounds are interleaved, and a ratio is minivit's time over the other's of the same round.
"""

import argparse
import dataclasses
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import numpy as np

import minivit
from minivit.shards import cores
from minivit.tree import map_tree

try:
    import torch
    from torch import nn
except ImportError:
    sys.exit("this benchmark compares with PyTorch: install torch first")

#        name: config, batch
MODELS = {
    "Ti/4": (minivit.ViTConfig.named("ViT-Ti/4", image_size=32, classes=10), 64),
    "small": (
        minivit.ViTConfig(
            image_size=8, patch_size=2, channels=1, classes=10,
            width=64, depth=4, heads=4, mlp_width=256,
        ),
        128,
    ),
}  # fmt: skip


class Block(nn.Module):
    """Equations 2 and 3 as PyTorch users write them."""

    def __init__(self, config: minivit.ViTConfig, fused: bool) -> None:
        super().__init__()
        D, M = config.width, config.mlp_width
        self.fused = fused
        self.heads = config.heads
        self.norm1, self.norm2 = (nn.LayerNorm(D, eps=config.norm_eps) for _ in range(2))
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.fc1, self.fc2 = nn.Linear(D, M), nn.Linear(M, D)
        self.gelu = nn.GELU(approximate={"tanh": "tanh", "erf": "none"}[config.gelu])

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        B, T, D = z.shape
        qkv = self.qkv(self.norm1(z)).reshape(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v
        z = z + self.out(y.transpose(1, 2).reshape(B, T, D))
        return z + self.fc2(self.gelu(self.fc1(self.norm2(z))))


class TorchViT(nn.Module):
    """Equations 1 to 4, with the weights of a minivit model."""

    def __init__(self, model: minivit.ViT, fused: bool = True) -> None:
        super().__init__()
        c = self.config = model.config
        D, P = c.width, c.patch_size
        self.patch = nn.Linear(P * P * c.channels, D)
        self.token = nn.Parameter(torch.zeros(D))
        self.table = nn.Parameter(torch.zeros(c.tokens, D))
        self.blocks = nn.Sequential(*(Block(c, fused) for _ in range(c.depth)))
        self.norm = nn.LayerNorm(D, eps=c.norm_eps)
        self.head = nn.Linear(D, c.classes)
        with torch.no_grad():
            for parameter, array, transposed in self.pairs(model.params):
                tensor = torch.from_numpy(np.array(array))
                parameter.copy_(tensor.T if transposed else tensor)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        B, H, W, C = images.shape
        P = self.config.patch_size
        x = images.reshape(B, H // P, P, W // P, P, C).transpose(2, 3).reshape(B, -1, P * P * C)
        x = self.patch(x)
        z = torch.cat([self.token.expand(B, 1, -1), x], 1) + self.table
        return self.head(self.norm(self.blocks(z))[:, 0])

    def pairs(self, tree: dict) -> list:
        """(PyTorch's parameter, the array of the tree, whether one is the other's transpose)."""
        pairs = [(self.token, tree["class_token"], False)]
        pairs += [(self.table, tree["positions"]["table"], False)]
        layers = [(self.patch, tree["patch_embedding"]), (self.norm, tree["norm"])]
        layers += [(self.head, tree["head"])]
        for block, b in zip(self.blocks, tree["blocks"], strict=True):
            layers += [(block.norm1, b["norm1"]), (block.norm2, b["norm2"])]
            layers += [(block.qkv, b["attention"]["qkv"]), (block.out, b["attention"]["out"])]
            layers += [(block.fc1, b["mlp"]["hidden"]), (block.fc2, b["mlp"]["out"])]
        for layer, arrays in layers:
            is_linear = "kernel" in arrays
            pairs += [(layer.weight, arrays["kernel" if is_linear else "scale"], is_linear)]
            pairs += [(layer.bias, arrays["bias"], False)]
        return pairs


def problem(name: str, gelu: str) -> tuple:
    """The same model, images and labels in every process."""
    config, batch = MODELS[name]
    model = minivit.ViT.create(dataclasses.replace(config, gelu=gelu))
    rng = np.random.default_rng(0)
    model.params = map_tree(  # a zero head would leave the gradients zero
        lambda a: a + 0.02 * rng.standard_normal(a.shape, dtype=np.float32), model.params
    )
    images = rng.standard_normal((batch, *config.image_size, config.channels), dtype=np.float32)
    return model, images, rng.integers(0, config.classes, batch)


def our_step(name: str, gelu: str) -> Callable[[], tuple]:
    model, images, labels = problem(name, gelu)

    def step() -> tuple:
        loss, gradients = minivit.training.loss_and_gradients(model, images, labels)
        return loss, minivit.flatten(gradients)

    return step


def torch_step(name: str, gelu: str, fused: bool) -> Callable[[], tuple]:
    model, images, labels = problem(name, gelu)
    torch.set_num_threads(cores())
    peer = TorchViT(model, fused)
    x, y = torch.from_numpy(images), torch.from_numpy(labels)
    names = {id(array): path for path, array in minivit.flatten(model.params).items()}

    def step() -> tuple:
        peer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(peer(x), y)
        loss.backward()
        pairs = peer.pairs(model.params)
        return loss.item(), {names[id(a)]: (p.grad.T if t else p.grad) for p, a, t in pairs}

    return step


STEPS = {
    "minivit": our_step,
    "PyTorch, fused attention": partial(torch_step, fused=True),
    "PyTorch, Equations 6 and 7": partial(torch_step, fused=False),
}


def serve(pipe: Connection, peer: str, name: str, gelu: str) -> None:
    """A process of its own for each peer: one allocator, one thread pool, one peak of memory."""
    step = STEPS[peer](name, gelu)
    loss, gradients = step()
    pipe.send((loss, {path: np.array(g) for path, g in gradients.items()}))
    while pipe.recv() == "step":
        started = time.perf_counter()
        step()
        pipe.send(time.perf_counter() - started)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def compare(name: str, gelu: str, rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    pipes, first = {}, {}
    for peer in STEPS:
        pipes[peer], end = context.Pipe()
        context.Process(target=serve, args=(end, peer, name, gelu), daemon=True).start()
        first[peer] = pipes[peer].recv()
    print(f"{name}, GELU {gelu}")
    loss, gradients = first["minivit"]
    for peer, (their_loss, theirs) in first.items():
        worst = max(
            np.linalg.norm(theirs[path] - g) / max(np.linalg.norm(theirs[path]), 1e-3)
            for path, g in gradients.items()
        )
        if abs(loss - their_loss) > 1e-5 or worst > 1e-5:
            sys.exit(f"{peer} does not compute the same: gradients differ by {worst:.1e}")

    times = {peer: [] for peer in STEPS}
    for _ in range(rounds):
        for peer, pipe in pipes.items():
            time.sleep(0.3)  # let the idle threads of the other fall asleep
            pipe.send("step")
            times[peer].append(pipe.recv())
    for peer, pipe in pipes.items():
        pipe.send("stop")
        median = statistics.median(times[peer]) * 1e3
        ratios = sorted(a / b for a, b in zip(times["minivit"], times[peer], strict=True))
        low, ratio, high = (ratios[i * (rounds - 1) // 4] for i in (1, 2, 3))
        print(
            f"  {peer:28} {median:8.1f} ms, {pipe.recv():5.0f} MB, "
            f"minivit takes {ratio:.2f} of it (quartiles {low:.2f}, {high:.2f})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--model", choices=MODELS, action="append")
    parser.add_argument("--gelu", choices=["tanh", "erf"], action="append")
    args = parser.parse_args()
    versions = f"NumPy {np.__version__}, PyTorch {torch.__version__}"
    print(f"{cores()} cores, {versions}, {args.rounds} rounds")
    for name in args.model or MODELS:
        for gelu in args.gelu or ["tanh", "erf"]:
            compare(name, gelu, args.rounds)


if __name__ == "__main__":
    main()
