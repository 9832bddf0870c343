"""Logits of ViT-B/16 at 224 pixels: minivit against PyTorch in inference mode, on the same cores.

    python tests/benchmarks/inference.py --rounds 15

Needs `torch` beside minivit. All hold the same weights, see the same images and have the same
GELU; their logits are compared before anything is timed. PyTorch runs eagerly, once with its fused
attention and once with attention written out. Each runs in a process of its own; rounds are
interleaved, and a ratio is minivit's time over the other's of the same round. The floor is the time
of the model's matrix products alone, at the rate at which NumPy multiplies two large matrices in
that round. Memory is the peak over imports, weights and images, as Linux reports it, in a fresh
process for each batch.
"""

import argparse
import ctypes
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

import minivit
from minivit.shards import cores
from minivit.tree import map_tree

try:
    import torch
    from step import TorchViT  # stands beside this file
except ImportError:
    sys.exit("this benchmark compares with PyTorch: install torch first")

LARGE = 2048  # rows and columns of the floor's matrices
TOLERANCE = 1e-5  # of the largest logit
STATUS = Path("/proc/self/status")


def problem(model_name: str, gelu: str) -> minivit.ViT:
    """The same model in every process."""
    model = minivit.ViT.create(model_name, gelu=gelu)
    rng = np.random.default_rng(0)
    model.params = map_tree(  # a zero head would leave the logits zero
        lambda a: a + 0.02 * rng.standard_normal(a.shape, dtype=np.float32), model.params
    )
    return model


def pictures(config: minivit.ViTConfig, batch: int) -> np.ndarray:
    shape = (batch, *config.image_size, config.channels)
    return np.random.default_rng(batch).standard_normal(shape, dtype=np.float32)


def ours(model_name: str, gelu: str) -> tuple:
    model = problem(model_name, gelu)
    return model.config, model


def torch_peer(model_name: str, gelu: str, fused: bool) -> tuple:
    torch.set_num_threads(cores())
    model = problem(model_name, gelu)
    peer = TorchViT(model, fused).eval()

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return peer(torch.from_numpy(images)).numpy()

    return model.config, logits


PEERS = {
    "minivit": ours,
    "PyTorch, fused attention": partial(torch_peer, fused=True),
    "PyTorch, Equations 6 and 7": partial(torch_peer, fused=False),
}


def products(c: minivit.ViTConfig) -> int:
    """Multiplications (and as many additions) in the matrix products of one image's logits."""
    T, D, M = c.tokens, c.width, c.mlp_width
    N = c.grid[0] * c.grid[1]
    block = T * D * 3 * D + 2 * T * T * D + T * D * D + 2 * T * D * M
    return N * c.patch_size**2 * c.channels * D + c.depth * block + D * c.classes


def large_product() -> Callable[[], float]:
    """Seconds that a multiplication takes within the product of two large matrices."""
    a, b = np.random.default_rng(0).standard_normal((2, LARGE, LARGE), dtype=np.float32)
    out = np.empty_like(a)
    return lambda: seconds(lambda: np.matmul(a, b, out=out)) / LARGE**3


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def serve_floor(pipe: Connection) -> None:
    rate = large_product()
    rate()
    while pipe.recv() == "time":
        pipe.send(statistics.median(rate() for _ in range(5)))


def serve_times(pipe: Connection, peer: str, model_name: str, gelu: str, batch: int) -> None:
    """A process of its own for each peer: one allocator and one thread pool."""
    config, logits = PEERS[peer](model_name, gelu)
    images = pictures(config, batch)
    pipe.send(logits(images))
    logits(images)  # whatever only the first calls do is done
    while pipe.recv() == "time":
        pipe.send(seconds(lambda: logits(images)))


def serve_memory(pipe: Connection, peer: str, model_name: str, gelu: str, batch: int) -> None:
    """Megabytes at the peak of three calls, over what is held before the first."""
    config, logits = PEERS[peer](model_name, gelu)
    images = pictures(config, batch)
    ctypes.CDLL(None).malloc_trim(0)  # what building the model has left behind is not counted
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    for _ in range(3):
        logits(images)
    pipe.send(memory("VmHWM") - before)


def memory(line: str) -> float:
    """Megabytes that Linux reports of this process."""
    return next(int(row.split()[1]) for row in STATUS.open() if row.startswith(line)) / 1024


def start(target: Callable[..., None], *args: object) -> Connection:
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe()
    context.Process(target=target, args=(end, *args), daemon=True).start()
    end.close()
    return pipe


def compare_times(model_name: str, gelu: str, batch: int, rounds: int) -> None:
    print(f"{model_name}, batch {batch}, GELU {gelu}")
    pipes, first = {}, {}
    for peer in PEERS:
        pipes[peer] = start(serve_times, peer, model_name, gelu, batch)
        first[peer] = pipes[peer].recv()
    ours = first["minivit"]
    for peer, theirs in first.items():
        error = abs(ours - theirs).max() / abs(theirs).max()
        if error > TOLERANCE:
            sys.exit(f"{peer} does not compute the same: logits differ by {error:.1e}")
    work = batch * products(minivit.ViTConfig.named(model_name))
    pipes["floor"] = start(serve_floor)

    times = {peer: [] for peer in pipes}
    for _ in range(rounds):
        for peer, pipe in pipes.items():
            time.sleep(0.3)  # let the idle threads of the other fall asleep
            pipe.send("time")
            times[peer].append(pipe.recv())
    for pipe in pipes.values():
        pipe.send("stop")
    times["floor"] = [t * work for t in times["floor"]]
    for peer in pipes:
        median = statistics.median(times[peer]) * 1e3
        ratios = sorted(a / b for a, b in zip(times["minivit"], times[peer], strict=True))
        low, ratio, high = (ratios[i * (rounds - 1) // 4] for i in (1, 2, 3))
        print(
            f"  {peer:28} {median:8.1f} ms, "
            f"minivit takes {ratio:.2f} of it (quartiles {low:.2f}, {high:.2f})",
            flush=True,
        )


def compare_memory(model_name: str, gelu: str, batches: list[int]) -> None:
    heading = ", ".join(map(str, batches))
    print(f"{model_name}, peak over imports, weights and images at batch {heading}, GELU {gelu}")
    for peer in PEERS:
        peaks = [start(serve_memory, peer, model_name, gelu, batch).recv() for batch in batches]
        print(f"  {peer:28} " + ", ".join(f"{peak:5.0f} MB" for peak in peaks), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="0: memory only")
    parser.add_argument("--model", default="ViT-B/16")
    parser.add_argument("--batch", type=int, action="append", help="default: 8 and 1")
    parser.add_argument("--gelu", choices=["tanh", "erf"], action="append")
    parser.add_argument("--no-memory", action="store_true")
    args = parser.parse_args()
    versions = f"NumPy {np.__version__}, PyTorch {torch.__version__}"
    print(f"{cores()} cores, {versions}, {args.rounds} rounds")
    for batch in args.batch or [8, 1]:
        for gelu in args.gelu or ["tanh", "erf"]:
            if args.rounds:
                compare_times(args.model, gelu, batch, args.rounds)
    if not args.no_memory:
        compare_memory(args.model, (args.gelu or ["tanh"])[0], [1, 8, 32])


if __name__ == "__main__":
    main()
