"""The same model in idiomatic PyTorch, as a contender on a CPU or a GPU."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from contenders import DECAY, RATE, make_gradients, make_problem  # next to this file
from harness import Task
from torch import nn

import minivit
from minivit.parallel import cpu_count


class Block(nn.Module):
    """Equations 2 and 3."""

    def __init__(self, config: minivit.ViTConfig, fused_attention: bool) -> None:
        super().__init__()
        D, M = config.width, config.mlp_width
        self.fused_attention, self.heads = fused_attention, config.heads
        self.norm1, self.norm2 = (nn.LayerNorm(D, eps=config.norm_eps) for _ in range(2))
        self.qkv, self.out = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.fc1, self.fc2 = nn.Linear(D, M), nn.Linear(M, D)
        self.gelu = nn.GELU(approximate={"tanh": "tanh", "erf": "none"}[config.gelu])

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        B, T, D = z.shape
        qkv = self.qkv(self.norm1(z)).reshape(B, T, 3, self.heads, D // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        if self.fused_attention:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v
        z = z + self.out(y.transpose(1, 2).reshape(B, T, D))
        return z + self.fc2(self.gelu(self.fc1(self.norm2(z))))


class TorchViT(nn.Module):
    """Equations 1 to 4."""

    def __init__(self, config: minivit.ViTConfig, fused_attention: bool) -> None:
        super().__init__()
        c = self.config = config
        D, P = c.width, c.patch_size
        self.patch = nn.Linear(P * P * c.channels, D)
        self.token = nn.Parameter(torch.zeros(D))
        self.table = nn.Parameter(torch.zeros(c.tokens, D))
        self.blocks = nn.Sequential(*(Block(c, fused_attention) for _ in range(c.depth)))
        self.norm = nn.LayerNorm(D, eps=c.norm_eps)
        self.head = nn.Linear(D, c.classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        B, H, W, C = images.shape
        P = self.config.patch_size
        x = images.reshape(B, H // P, P, W // P, P, C).transpose(2, 3).reshape(B, -1, P * P * C)
        z = torch.cat([self.token.expand(B, 1, -1), self.patch(x)], 1) + self.table
        return self.head(self.norm(self.blocks(z))[:, 0])

    def named(self) -> Iterator[tuple[str, nn.Parameter, bool]]:
        """Yield minivit's name, the parameter, and whether it is the transpose of minivit's."""
        yield "class_token", self.token, False
        yield "positions/table", self.table, False
        layers = {"patch_embedding": self.patch, "norm": self.norm, "head": self.head}
        for i, block in enumerate(self.blocks):
            layers |= {f"blocks/{i}/norm1": block.norm1, f"blocks/{i}/norm2": block.norm2}
            layers |= {f"blocks/{i}/attention/qkv": block.qkv}
            layers |= {f"blocks/{i}/attention/out": block.out}
            layers |= {f"blocks/{i}/mlp/hidden": block.fc1, f"blocks/{i}/mlp/out": block.fc2}
        for path, layer in layers.items():
            is_linear = isinstance(layer, nn.Linear)
            yield f"{path}/{'kernel' if is_linear else 'scale'}", layer.weight, is_linear
            yield f"{path}/bias", layer.bias, False


class PyTorch:
    """PyTorch, eager or compiled. "half" is autocast to bfloat16. `adamw`: options of its AdamW."""

    def __init__(self, device="cpu", fused_attention=True, compiled=False, **adamw: bool) -> None:
        self.device = {"cpu": "cpu", "gpu": "cuda"}[device]
        self.fused_attention, self.compiled, self.adamw = fused_attention, compiled, adamw
        self.config = None

    def __call__(
        self, phase: str, config: minivit.ViTConfig, batch_size: int, precision: str = "float32"
    ) -> Task:
        """Create the task of a phase: forward, gradients, step, or update (only AdamW)."""
        torch.set_num_threads(cpu_count())
        torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
        (model, images, labels), self.half = make_problem(config, batch_size), precision == "half"
        self.x, self.y = (torch.from_numpy(a).to(self.device) for a in (images, labels))
        if config != self.config:  # otherwise reuse the model, which may be compiled
            self.config, self.model = config, TorchViT(config, self.fused_attention)
            self.model.to(self.device)
            self.call = torch.compile(self.model) if self.compiled else self.model
        self.model.zero_grad(set_to_none=True)
        self.assign(minivit.flatten(model.params))
        task = self.make_task(phase, model)
        if self.device == "cpu":
            return task

        def peak() -> float:
            torch.cuda.reset_peak_memory_stats()
            task.call()
            return torch.cuda.max_memory_allocated() / 2**20

        return task._replace(wait=torch.cuda.synchronize, peak=peak)

    def assign(self, arrays: dict[str, np.ndarray], gradients: bool = False) -> None:
        """Copy arrays with minivit's names to the parameters or their gradients."""
        for name, parameter, transposed in self.model.named():
            if gradients:
                parameter.grad = torch.empty_like(parameter)
            target, array = parameter.grad if gradients else parameter.data, np.array(arrays[name])
            target.copy_(torch.from_numpy(array.T if transposed else array))

    def results(self, gradients: bool) -> dict[str, np.ndarray]:
        """Return the loss and the gradients, or the parameters."""
        arrays = {"loss": self.gradients().cpu().numpy()} if gradients else {}
        for name, parameter, transposed in self.model.named():
            tensor = parameter.grad if gradients else parameter.data
            arrays[name] = (tensor.T if transposed else tensor).cpu().numpy()
        return arrays

    def logits(self) -> torch.Tensor:
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            return self.call(self.x)

    def forward(self) -> torch.Tensor:
        with torch.inference_mode():
            return self.logits()

    def gradients(self) -> torch.Tensor:
        self.model.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(self.logits().float(), self.y)
        loss.backward()
        return loss.detach()

    def make_task(self, phase: str, model: minivit.ViT) -> Task:
        if phase == "forward":
            return Task(self.forward, lambda: {"logits": self.forward().float().cpu().numpy()})
        if phase == "gradients":
            return Task(self.gradients, partial(self.results, gradients=True))
        named = {name: parameter for name, parameter, _ in self.model.named()}
        kernels = [p for name, p in named.items() if name.endswith("kernel")]
        others = [p for name, p in named.items() if not name.endswith("kernel")]
        groups = [{"params": kernels, "weight_decay": DECAY}, {"params": others}]
        optimiser = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.0, **self.adamw)
        if phase == "update":
            self.assign(make_gradients(model), gradients=True)
            return Task(optimiser.step, partial(self.results, gradients=False))
        first = self.results(gradients=True)  # before the weights change
        return Task(lambda: (self.gradients(), optimiser.step()), lambda: first)
