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
import statistics
import sys
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from contest import (  # stands beside this file
    dismiss,
    hold_threads,
    interleaved,
    memory,
    quartiles,
    serve,
    serve_floor,
    start,
    warn_if_busy,
)

import minivit
from minivit.cost import rows, totals
from minivit.parallel import cpu_count
from minivit.tree import map_tree

try:
    import torch
    from torch_vit import TorchViT  # stands beside this file, too
except ImportError:
    sys.exit("this benchmark compares with PyTorch: install torch first")

TOLERANCE = 1e-5  # of the largest logit


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


def serve_times(pipe: Connection, peer: str, model_name: str, gelu: str, batch: int) -> None:
    """A process of its own for each peer: one allocator and one thread pool."""
    config, logits = PEERS[peer](model_name, gelu)
    images = pictures(config, batch)
    pipe.send(logits(images))
    logits(images)  # whatever only the first calls do is done
    serve(pipe, lambda: logits(images))


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
            dismiss(pipes)
            sys.exit(f"{peer} does not compute the same: logits differ by {error:.1e}")
    pipes["floor"] = start(serve_floor)
    times = interleaved(pipes, rounds)
    dismiss(pipes)
    work = totals(rows(minivit.ViTConfig.named(model_name), batch)).forward
    times["floor"] = [t * work for t in times["floor"]]
    for peer in pipes:
        median = statistics.median(times[peer]) * 1e3
        low, ratio, high = quartiles(times["minivit"], times[peer])
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
    parser.add_argument("--batch-size", type=int, action="append", help="default: 8 and 1")
    parser.add_argument("--gelu", choices=["tanh", "erf"], action="append")
    parser.add_argument("--no-memory", action="store_true")
    args = parser.parse_args()
    hold_threads()
    versions = f"NumPy {np.__version__}, PyTorch {torch.__version__}"
    print(f"{cpu_count()} cores, {versions}, {args.rounds} rounds")
    warn_if_busy()
    for batch in args.batch or [8, 1]:
        for gelu in args.gelu or ["tanh", "erf"]:
            if args.rounds:
                compare_times(args.model, gelu, batch, args.rounds)
    if not args.no_memory:
        compare_memory(args.model, (args.gelu or ["tanh"])[0], [1, 8, 32])


if __name__ == "__main__":
    main()
