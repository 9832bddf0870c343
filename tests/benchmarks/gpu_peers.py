"""Who takes part in the contest on the GPU: minivit, and PyTorch in several ways.

Each holds the model, the images and the labels of one process. `call` makes what is timed: it
works on weights as they were first, or what training has made of them, and leaves its results on
the GPU. No two share a process, as each sets the precision of its whole process.
"""

from collections.abc import Callable

import numpy as np

import minivit
from minivit.arrays import to_host
from minivit.devices import device_module, set_matmul_precision
from minivit.models import infer
from minivit.training import AdamW
from minivit.training.step import packed_gradients

DEVICE = "cuda"
RATE, DECAY = 1e-4, 0.1  # of AdamW
MB = 1 << 20


class Minivit:
    """float32 arrays in any case; "half" reads the factors of its products as bfloat16."""

    def __init__(self, model: minivit.ViT, images: np.ndarray, labels: np.ndarray) -> None:
        self.xp = device_module("gpu")
        self.model = model
        self.images, self.labels = self.xp.asarray(images), self.xp.asarray(labels)
        self.version = f"minivit {minivit.__version__} (cupy {self.xp.__version__})"
        self.cuda = dotted(self.xp.cuda.runtime.runtimeGetVersion())

    def call(self, phase: str, precision: str) -> Callable[[], object]:

        set_matmul_precision("bfloat16" if precision == "half" else precision)
        model = self.model.to("gpu")
        if phase == "forward":
            return lambda: infer(self.images, model.params, model.config)
        if phase == "gradients":
            return lambda: packed_gradients(model, self.images, self.labels)
        optimiser = AdamW(model.params, weight_decay=DECAY)

        def step() -> None:
            _, _, vector = packed_gradients(model, self.images, self.labels)
            optimiser.update(vector, RATE)

        return step

    def outcome(self, precision: str) -> dict[str, np.ndarray]:
        """The loss and all gradients, by name, on the host."""
        loss, tree, _ = self.call("gradients", precision)()
        return {name: to_host(a) for name, a in (minivit.flatten(tree) | {"loss": loss}).items()}

    def wait(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def peak(self, call: Callable[[], object]) -> float:
        """Megabytes of all arrays, when they were the most during a call."""
        pool = self.xp.get_default_memory_pool()

        class Most(self.xp.cuda.MemoryHook):
            name = "most"
            bytes = pool.used_bytes()

            def malloc_postprocess(self, **how: int) -> None:
                self.bytes = max(self.bytes, pool.used_bytes())

        with Most() as most:
            call()
        return most.bytes / MB

    def free(self) -> None:
        self.xp.get_default_memory_pool().free_all_blocks()


class PyTorch:
    """With its fused attention. "half" is autocast to bfloat16, whose activations are half as wide.

    `how` goes to AdamW.
    """

    def __init__(
        self,
        model: minivit.ViT,
        images: np.ndarray,
        labels: np.ndarray,
        compiled: bool = False,
        **how: bool,
    ) -> None:
        import torch  # here, so that minivit's process does not hold it
        from torch_vit import TorchViT

        self.torch, self.how = torch, how
        self.peer = TorchViT(model).to(DEVICE)
        self.forward = torch.compile(self.peer) if compiled else self.peer
        self.x, self.y = (torch.from_numpy(a).to(DEVICE) for a in (images, labels))
        self.version, self.cuda = f"torch {torch.__version__}", torch.version.cuda or ""

    def call(self, phase: str, precision: str) -> Callable[[], object]:
        torch, peer = self.torch, self.peer
        torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
        is_half = precision == "half"
        peer.zero_grad(set_to_none=True)

        def logits() -> torch.Tensor:
            with torch.autocast(DEVICE, torch.bfloat16, enabled=is_half):
                return self.forward(self.x)

        def infer() -> torch.Tensor:
            with torch.inference_mode():
                return logits()

        def gradients() -> torch.Tensor:
            peer.zero_grad(set_to_none=True)
            loss = torch.nn.functional.cross_entropy(logits().float(), self.y)
            loss.backward()
            return loss.detach()

        if phase != "step":
            return {"forward": infer, "gradients": gradients}[phase]
        optimiser = self.adamw()

        def step() -> None:
            gradients()
            optimiser.step()

        return step

    def adamw(self) -> object:
        kernels = [p for path, p, _ in self.peer.named() if path.endswith("kernel")]
        others = [p for path, p, _ in self.peer.named() if not path.endswith("kernel")]
        groups = [
            {"params": kernels, "weight_decay": DECAY},
            {"params": others, "weight_decay": 0.0},
        ]
        return self.torch.optim.AdamW(groups, lr=RATE, **self.how)

    def outcome(self, precision: str) -> dict[str, np.ndarray]:
        """The loss and all gradients, by minivit's names, on the host."""
        loss = self.call("gradients", precision)()
        found = {path: p.grad.T if t else p.grad for path, p, t in self.peer.named()}
        found = {name: g.cpu().numpy() for name, g in (found | {"loss": loss}).items()}
        self.peer.zero_grad(set_to_none=True)
        return found

    def wait(self) -> None:
        self.torch.cuda.synchronize()

    def peak(self, call: Callable[[], object]) -> float:
        """Megabytes of all tensors, when they were the most during a call."""
        self.torch.cuda.reset_peak_memory_stats()
        call()
        return self.torch.cuda.max_memory_allocated() / MB

    def free(self) -> None:
        self.peer.zero_grad(set_to_none=True)
        self.torch.cuda.empty_cache()


def dotted(version: int) -> str:
    """CUDA's way to write a version as a number, 13020, as people write it: 13.2."""
    return f"{version // 1000}.{version % 1000 // 10}"
