"""The same model as PyTorch users write it, its training step and its AdamW."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

import minivit
from minivit.parallel import cpu_count


class Block(nn.Module):
    """Equations 2 and 3."""

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
        torch.set_num_threads(cpu_count())
        c = self.config = model.config
        D, P = c.width, c.patch_size
        self.patch = nn.Linear(P * P * c.channels, D)
        self.token = nn.Parameter(torch.zeros(D))
        self.table = nn.Parameter(torch.zeros(c.tokens, D))
        self.blocks = nn.Sequential(*(Block(c, fused) for _ in range(c.depth)))
        self.norm = nn.LayerNorm(D, eps=c.norm_eps)
        self.head = nn.Linear(D, c.classes)
        arrays = minivit.flatten(model.params)
        with torch.no_grad():
            for path, parameter, transposed in self.named():
                tensor = torch.from_numpy(np.array(arrays[path]))
                parameter.copy_(tensor.T if transposed else tensor)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        B, H, W, C = images.shape
        P = self.config.patch_size
        x = images.reshape(B, H // P, P, W // P, P, C).transpose(2, 3).reshape(B, -1, P * P * C)
        x = self.patch(x)
        z = torch.cat([self.token.expand(B, 1, -1), x], 1) + self.table
        return self.head(self.norm(self.blocks(z))[:, 0])

    def named(self) -> Iterator[tuple[str, nn.Parameter, bool]]:
        """Minivit's name, PyTorch's parameter, and whether one is the other's transpose."""
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


def training_step(
    model: minivit.ViT, images: np.ndarray, labels: np.ndarray, fused: bool, compiled: bool
) -> tuple[Callable, Callable]:
    """Forward and backward; and what they gave, by minivit's names."""
    peer = TorchViT(model, fused)
    forward = torch.compile(peer) if compiled else peer
    x, y = torch.from_numpy(images), torch.from_numpy(labels)

    def step() -> torch.Tensor:
        peer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(forward(x), y)
        loss.backward()
        return loss.detach()

    def outcome(loss: torch.Tensor) -> dict[str, np.ndarray]:
        gradients = {path: p.grad.T if t else p.grad for path, p, t in peer.named()}
        return {name: g.numpy() for name, g in ({"loss": loss} | gradients).items()}

    return step, outcome


def adamw_update(
    model: minivit.ViT, gradients: dict[str, np.ndarray], rate: float, decay: float, **how: bool
) -> tuple[Callable, Callable]:
    """An update of all parameters, the kernels decayed; and what became of them."""
    peer = TorchViT(model)
    groups = {True: [], False: []}
    for path, parameter, transposed in peer.named():
        gradient = torch.from_numpy(gradients[path])
        parameter.grad = (gradient.T if transposed else gradient).clone(
            memory_format=torch.contiguous_format
        )
        groups[path.endswith("kernel")].append(parameter)
    optimiser = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": decay},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        lr=rate,
        **how,
    )

    def outcome(_: None) -> dict[str, np.ndarray]:
        return {path: (p.T if t else p).detach().numpy() for path, p, t in peer.named()}

    return optimiser.step, outcome
