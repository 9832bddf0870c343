"""The sizes of a Vision Transformer, by the paper's names and letters (Table 1)."""

import dataclasses
import math
import re
from typing import Any

POSITIONS = ("none", "1d", "2d", "relative", "sincos2d")
POOLINGS = ("class", "mean")
GELUS = ("tanh", "erf")
PREPROCESSINGS = (
    "minivit", "google", "timm", "huggingface", "imagenet", "dino", "big_vision", "cropped",
)  # fmt: skip
GROUPS = 32  # of the stem's group norms

#         depth, width, mlp, heads
SIZES = {
    "Ti": (12, 192, 768, 3),
    "S": (12, 384, 1536, 6),
    "B": (12, 768, 3072, 12),
    "L": (24, 1024, 4096, 16),
    "H": (32, 1280, 5120, 16),
}

#                  size, units of the stem's stages, patch side on the stem's feature map
HYBRIDS = {
    "R+ViT-Ti/16": ("Ti", (), 8),
    "R26+ViT-S/32": ("S", (2, 2, 2, 2), 1),
    "R26+ViT-B/32": ("B", (2, 2, 2, 2), 1),
    "R50+ViT-B/16": ("B", (3, 4, 9), 1),
    "R50+ViT-L/32": ("L", (3, 4, 6, 3), 1),
}


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Everything that decides a model's shape. Raises ValueError for what does not fit together.

    image_size: pixels, one number for a square or (height, width); kept as a pair.
    classes: None for a model without a classifier, which gives y (or, where there is a
    hidden_head, what that makes of y).
    hidden_head: width of the tanh layer that the head has in pre-training, or None.
    qkv_bias, patch_bias: whether these two linear layers add one; the others always do.
    stem: the hybrid's ResNet, as the number of units in each of its stages; () is its root
    alone, None a plain ViT. Patches are then cut from its feature map. stem_width: the channels
    of the root, a multiple of 32.
    preprocessing: how photographs are brought to the model, see `data/preprocessing.py`.
    dropout: the rate, used only in training.
    drop_path: the rate at which the last block leaves out each of its two branches for an image,
    only in training; in the first it is 0, between them it lies on a line (stochastic depth).
    position_std: the deviation of learned positions when they are first drawn. The authors' 0.02
    takes long to be heard beside the content of small, simple patches.
    """

    image_size: int | tuple[int, int] = 224
    patch_size: int = 16  # P
    channels: int = 3  # C
    classes: int | None = 1000  # K
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
    qkv_bias: bool = True
    patch_bias: bool = True
    stem: tuple[int, ...] | None = None
    stem_width: int = 64
    preprocessing: str = "minivit"
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        size = self.image_size
        size = tuple(size) if isinstance(size, (tuple, list)) else (size, size)
        object.__setattr__(self, "image_size", size)
        if isinstance(self.stem, list):  # as JSON keeps it
            object.__setattr__(self, "stem", tuple(self.stem))
        self._check()

    def _check(self) -> None:
        counts = ["patch_size", "channels", "width", "depth", "heads", "mlp_width", "stem_width"]
        counts += [name for name in ("classes", "hidden_head") if getattr(self, name) is not None]
        for name in counts:
            _check_count(name, getattr(self, name))
        self._check_stem()
        self._check_image()
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be shared among {self.heads} heads")
        kinds = {
            "positions": POSITIONS,
            "pooling": POOLINGS,
            "gelu": GELUS,
            "preprocessing": PREPROCESSINGS,
        }
        for name, choices in kinds.items():
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
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a rate from 0 to below 1, not {getattr(self, name)}")
        for name in ("norm_eps", "position_std"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} must be a finite number, it is {getattr(self, name)}")
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, it is {getattr(self, name)}")
        for name in ("qkv_bias", "patch_bias"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is True or False, not {getattr(self, name)!r}")

    def _check_stem(self) -> None:
        if self.stem is None:
            return
        if not isinstance(self.stem, tuple):
            raise ValueError(f"stem is the units of each stage, like (3, 4, 9), not {self.stem!r}")
        for units in self.stem:
            _check_count("the units of a stem's stage", units)
        if self.stem_width % GROUPS:
            raise ValueError(f"stem_width {self.stem_width} cannot be shared among {GROUPS} groups")

    def _check_image(self) -> None:
        if len(self.image_size) != 2:
            raise ValueError(f"image_size is one number or two, not {self.image_size}")
        for side in self.image_size:
            _check_count("image_size", side)
        mh, mw = self.feature_map
        if mh % self.patch_size or mw % self.patch_size:
            made = "" if self.stem is None else f"makes a feature map of {mh} x {mw}, which "
            raise ValueError(
                f"image_size {self.image_size[0]} x {self.image_size[1]} {made}cannot be cut into "
                f"patches of {self.patch_size} x {self.patch_size}"
            )

    @property
    def stride(self) -> int:
        """Pixels from one token to the next: the stem's stride times the patch side."""
        return self.patch_size * self.stem_stride

    @property
    def stem_stride(self) -> int:
        """Pixels from one place of the feature map to the next; 1 without a stem.

        The root has 4, and every stage but the first doubles it.
        """
        return 1 if self.stem is None else 4 * 2 ** max(len(self.stem) - 1, 0)

    @property
    def feature_map(self) -> tuple[int, int]:
        """Rows and columns of what is cut into patches: the stem's map, or the image itself."""
        H, W = self.image_size
        return -(-H // self.stem_stride), -(-W // self.stem_stride)  # padding rounds up

    @property
    def feature_channels(self) -> int:
        """Channels of what is cut into patches."""
        if self.stem is None:
            return self.channels
        return self.stem_width * (4 * 2 ** (len(self.stem) - 1) if self.stem else 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        mh, mw = self.feature_map
        return mh // self.patch_size, mw // self.patch_size

    @property
    def tokens(self) -> int:
        """T: the N patches and, if there is one, the class token."""
        return self.grid[0] * self.grid[1] + (self.pooling == "class")

    def of_block(self, i: int) -> "ViTConfig":
        """What block i, counted from 0, is to read: drop_path is then this block's own rate."""
        share = i / max(self.depth - 1, 1)
        return dataclasses.replace(self, drop_path=self.drop_path * share)

    @classmethod
    def named(cls, name: str, **fields: Any) -> "ViTConfig":
        """The configuration of a name like "ViT-B/16" or "R50+ViT-B/16".

        Any field may be replaced by keyword. Raises ValueError for an unknown name.
        """
        match = re.fullmatch(r"ViT-(\w+)/(\d+)", name)
        if name in HYBRIDS:
            size, stem, patch_size = HYBRIDS[name]
        elif match and match[1] in SIZES:
            size, stem, patch_size = match[1], None, int(match[2])
        else:
            raise ValueError(
                f"unknown model {name!r}: choose ViT-{{{','.join(SIZES)}}}/PATCH "
                f"or one of {', '.join(HYBRIDS)}"
            )
        depth, width, mlp_width, heads = SIZES[size]
        known = {"patch_size": patch_size, "stem": stem, "depth": depth, "width": width}
        return cls(**(known | {"mlp_width": mlp_width, "heads": heads} | fields))


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} is a whole number from 1 up, not {value!r}")
