"""The sizes of a Vision Transformer, by the paper's names and letters (Table 1)."""

import dataclasses
import math
import re
from typing import Any

POSITIONS = ("none", "1d", "2d", "relative", "sincos2d")
POOLINGS = ("class", "mean")
GELUS = ("tanh", "erf")

#         depth, width, mlp, heads
SIZES = {
    "Ti": (12, 192, 768, 3),
    "S": (12, 384, 1536, 6),
    "B": (12, 768, 3072, 12),
    "L": (24, 1024, 4096, 16),
    "H": (32, 1280, 5120, 16),
}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Everything that decides a model's shape. Raises ValueError for what does not fit together.

    image_size: pixels, one number for a square or (height, width); kept as a pair.
    hidden_head: width of the tanh layer that the head has in pre-training, or None.
    dropout: the rate, used only in training.
    position_std: the deviation of learned positions when they are first drawn. The authors' 0.02
    takes long to be heard beside the content of small, simple patches.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16  # P
    channels: int = 3  # C
    classes: int = 1000  # K
    width: int = 768  # D
    depth: int = 12  # L
    heads: int = 12  # k
    mlp_width: int = 3072  # M
    positions: str = "1d"
    pooling: str = "class"
    hidden_head: int | None = None
    gelu: str = "tanh"
    norm_eps: float = 1e-6
    dropout: float = 0.0
    position_std: float = 0.02

    def __post_init__(self) -> None:
        size = self.image_size
        size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        object.__setattr__(self, "image_size", size)
        self._check()

    def _check(self) -> None:
        counts = ["patch_size", "channels", "classes", "width", "depth", "heads", "mlp_width"]
        if self.hidden_head is not None:
            counts.append("hidden_head")
        for name in counts:
            _check_count(name, getattr(self, name))
        if len(self.image_size) != 2:
            raise ValueError(f"image_size is one number or two, not {self.image_size}")
        for side in self.image_size:
            _check_count("image_size", side)
            if side % self.patch_size:
                raise ValueError(
                    f"image_size {self.image_size[0]} x {self.image_size[1]} cannot be cut into "
                    f"patches of {self.patch_size} x {self.patch_size}"
                )
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be shared among {self.heads} heads")
        for name, choices in {"positions": POSITIONS, "pooling": POOLINGS, "gelu": GELUS}.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"unknown {name} {getattr(self, name)!r}: choose {', '.join(choices)}"
                )
        divisor = {"2d": 2, "sincos2d": 4}.get(self.positions, 1)
        if self.width % divisor:
            raise ValueError(
                f"positions '{self.positions}' need a width that is a multiple of {divisor}, "
                f"not {self.width}"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is a rate from 0 to below 1, not {self.dropout}")
        for name in ("norm_eps", "position_std"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def tokens(self) -> int:
        """T: the N patches and, if there is one, the class token."""
        return self.grid[0] * self.grid[1] + (self.pooling == "class")

    @classmethod
    def named(cls, name: str, **fields: Any) -> "ViTConfig":
        """The configuration of a name like "ViT-B/16", with any field replaced by keyword."""
        match = re.fullmatch(r"ViT-(\w+)/(\d+)", name)
        if not match or match[1] not in SIZES:
            raise ValueError(f"unknown model {name!r}: choose ViT-{{{','.join(SIZES)}}}/PATCH")
        depth, width, mlp_width, heads = SIZES[match[1]]
        known = {"patch_size": int(match[2]), "depth": depth, "width": width}
        return cls(**(known | {"mlp_width": mlp_width, "heads": heads} | fields))


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is a whole number from 1 up, not {value!r}")
