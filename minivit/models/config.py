"""The configuration of a Vision Transformer, in the paper's names and letters (Table 1)."""

import dataclasses
import math
import re
from collections.abc import Collection
from typing import Any

POSITIONS = ("none", "1d", "2d", "relative", "sincos2d")
POOLINGS = ("class", "mean")
GELUS = ("tanh", "erf")
PREPROCESSINGS = (
    "minivit", "google", "timm", "huggingface", "imagenet", "dino", "big_vision", "cropped",
)  # fmt: skip
MAX_DEPTH, MAX_STAGES, MAX_UNITS = 1_000, 8, 100  # blocks; stages of the stem; units per stage
MAX_TOKENS = 100_000  # per image; the attention weights of one head then have 10^10 entries
MAX_COUNT = 10**9  # limit of all other integers
GROUPS = 32  # of the stem's group norms

#         depth, width, mlp_width, heads
SIZES = {
    "Ti": (12, 192, 768, 3),
    "S": (12, 384, 1536, 6),
    "B": (12, 768, 3072, 12),
    "L": (24, 1024, 4096, 16),
    "H": (32, 1280, 5120, 16),
}

#                  size, units per stage of the stem, patch size on the stem's feature map
HYBRIDS = {
    "R+ViT-Ti/16": ("Ti", (), 8),
    "R26+ViT-S/32": ("S", (2, 2, 2, 2), 1),
    "R26+ViT-B/32": ("B", (2, 2, 2, 2), 1),
    "R50+ViT-B/16": ("B", (3, 4, 9), 1),
    "R50+ViT-L/32": ("L", (3, 4, 6, 3), 1),
}

TIMM_SIZES = {"tiny": "Ti", "small": "S", "base": "B", "large": "L", "huge": "H"}
TIMM_HYBRIDS = {
    "vit_tiny_r_s16_p8": "R+ViT-Ti/16", "vit_small_r26_s32": "R26+ViT-S/32",
    "vit_base_r26_s32": "R26+ViT-B/32", "vit_base_r50_s16": "R50+ViT-B/16",
    "vit_large_r50_s32": "R50+ViT-L/32",
}  # fmt: skip


@dataclasses.dataclass(frozen=True, repr=False)
class ViTConfig:
    """Configuration of a Vision Transformer.

    Parameters
    ----------
    image_size : int or (int, int)
        Height and width in pixels, stored as a pair. An int is the side of a square.
    patch_size : int
        Side P of a patch, in pixels of the image or of the stem's feature map.
    channels, classes : int
        Channels C of the image and number of classes K. If `classes` is None, the model has no
        classifier and returns features.
    width, depth, heads, mlp_width : int
        D, L, the number of attention heads, and M.
    positions : str
        Position embeddings: "1d", "2d", "relative", "sincos2d" or "none" (appendix D.4).
    pooling : str
        "class" for a class token, "mean" for the mean of the patch tokens.
    hidden_head : int, optional
        Width R of the hidden tanh layer of the pre-training head.
    gelu : str
        "tanh" (approximation) or "erf" (exact).
    norm_eps : float
        Epsilon of the layer norms.
    dropout, drop_path : float
        Rates of dropout and of stochastic depth in training. `drop_path` is the rate of the last
        block; the rates increase linearly from 0 in the first block.
    position_std : float
        Standard deviation of the initial position embeddings. With the authors' 0.02, small models
        on small, simple patches learn positions slowly.
    qkv_bias, patch_bias : bool
        Whether these two linear layers have a bias. All others do.
    stem : tuple of int, optional
        Number of units in each stage of a hybrid's ResNet: () is the root alone, None a plain ViT.
    stem_width : int
        Channels F of the stem's root, a multiple of 32.
    preprocessing : str
        Preprocessing of photographs, see `data/preprocessing.py`.

    Raises
    ------
    ValueError
        If a value is out of range, or if the values do not fit together.

    Examples
    --------
    >>> config = ViTConfig(image_size=32, patch_size=4, classes=10, width=192, heads=3)
    >>> config.image_size, config.grid, config.tokens
    ((32, 32), (8, 8), 65)
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: int = 16  # P
    channels: int = 3  # C
    classes: int | None = 1000  # K
    width: int = 768  # D
    depth: int = 12  # L
    heads: int = 12
    mlp_width: int = 3072  # M
    positions: str = "1d"
    pooling: str = "class"
    hidden_head: int | None = None  # R
    gelu: str = "tanh"
    norm_eps: float = 1e-6
    dropout: float = 0.0
    position_std: float = 0.02
    qkv_bias: bool = True
    patch_bias: bool = True
    stem: tuple[int, ...] | None = None
    stem_width: int = 64  # F
    preprocessing: str = "minivit"
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, to_python(getattr(self, field.name)))
        size: Any = self.image_size
        object.__setattr__(self, "image_size", size if isinstance(size, tuple) else (size, size))
        self._check()

    def _check(self) -> None:
        counts = ["patch_size", "channels", "width", "depth", "heads", "mlp_width", "stem_width"]
        counts += [name for name in ("classes", "hidden_head") if getattr(self, name) is not None]
        for name in counts:
            _check_positive(name, getattr(self, name), MAX_DEPTH if name == "depth" else MAX_COUNT)
        self._check_stem()
        self._check_image_size()
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")
        options = {"positions": POSITIONS, "pooling": POOLINGS, "gelu": GELUS}
        for name, choices in {**options, "preprocessing": PREPROCESSINGS}.items():
            if (value := getattr(self, name)) not in choices:
                raise ValueError(f"unknown {name} {value!r}: choose {', '.join(choices)}")
        divisor = {"2d": 2, "sincos2d": 4}.get(self.positions, 1)
        if self.width % divisor:
            raise ValueError(
                f"positions '{self.positions}' need a width that is a multiple of {divisor}, "
                f"not {self.width}"
            )
        for name in ("dropout", "drop_path"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        for name in ("norm_eps", "position_std"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be finite and not negative: {getattr(self, name)}")
            if getattr(self, name) > 1:
                raise ValueError(f"{name} must be at most 1, not {getattr(self, name)}")
        for name in ("qkv_bias", "patch_bias"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")

    def _check_stem(self) -> None:
        if self.stem is None:
            return
        if not isinstance(self.stem, tuple):
            raise ValueError(
                f"stem must be the units of each stage, such as (3, 4, 9): {self.stem!r}"
            )
        if len(self.stem) > MAX_STAGES:
            raise ValueError(f"stem must have at most {MAX_STAGES} stages, not {len(self.stem)}")
        for units in self.stem:
            _check_positive("the number of units in a stage of the stem", units, MAX_UNITS)
        if self.stem_width % GROUPS:
            raise ValueError(f"stem_width {self.stem_width} is not a multiple of {GROUPS} groups")

    def _check_image_size(self) -> None:
        if len(self.image_size) != 2:
            raise ValueError(f"image_size must be one number or two, not {self.image_size}")
        for side in self.image_size:
            _check_positive("image_size", side, MAX_COUNT)
        rows, columns = self.feature_map
        if rows % self.patch_size or columns % self.patch_size:
            H, W = self.image_size
            map_size = "" if self.stem is None else f" (feature map {rows} x {columns})"
            raise ValueError(
                f"image_size {H} x {W}{map_size} cannot be cut into patches of "
                f"{self.patch_size} x {self.patch_size}"
            )
        if self.tokens > MAX_TOKENS:
            H, W = self.image_size
            raise ValueError(
                f"image_size {H} x {W} gives {self.tokens:,} tokens, more than {MAX_TOKENS:,}: "
                "use larger patches or a smaller image"
            )

    @property
    def stride(self) -> int:
        """Pixels from one patch to the next: the stem's stride times the patch size."""
        return self.patch_size * self.stem_stride

    @property
    def stem_stride(self) -> int:
        """Pixels per entry of the stem's feature map, or 1 without a stem."""
        # The root has stride 4. Every stage except the first doubles it.
        return 1 if self.stem is None else 4 * 2 ** max(len(self.stem) - 1, 0)

    @property
    def feature_map(self) -> tuple[int, int]:
        """Rows and columns of the stem's feature map, or of the image without a stem."""
        H, W = self.image_size
        return -(-H // self.stem_stride), -(-W // self.stem_stride)  # SAME padding rounds up

    @property
    def feature_channels(self) -> int:
        """Channels of the stem's feature map, or of the image without a stem."""
        if self.stem is None:
            return self.channels
        return self.stem_width * (4 * 2 ** (len(self.stem) - 1) if self.stem else 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.feature_map
        return rows // self.patch_size, columns // self.patch_size

    @property
    def tokens(self) -> int:
        """The number of tokens T: N patches and, if the model has one, the class token."""
        return self.grid[0] * self.grid[1] + (self.pooling == "class")

    @property
    def name(self) -> str:
        """The name of the model in the paper, such as "ViT-B/16", or "ViT" and its sizes."""
        sizes = self.depth, self.width, self.mlp_width, self.heads
        size = next((name for name, values in SIZES.items() if values == sizes), None)
        hybrids = {(s, stem, P): name for name, (s, stem, P) in HYBRIDS.items()}
        if name := hybrids.get((size, self.stem, self.patch_size)):
            return name
        kind = "ViT" if self.stem is None else "hybrid ViT"
        if size and self.stem is None:
            return f"ViT-{size}/{self.patch_size}"
        D, L, h, M = self.width, self.depth, self.heads, self.mlp_width
        return f"{kind} with D={D}, L={L}, h={h}, M={M}, P={self.patch_size}"

    def __repr__(self) -> str:
        shown = "image_size", "patch_size", "channels", "classes", "width", "depth", "heads"
        return format_fields(self, (*shown, "mlp_width"))

    def drop_path_of_block(self, i: int) -> float:
        """Return the drop-path rate of block i, counted from 0."""
        return self.drop_path * (i / max(self.depth - 1, 1))

    @classmethod
    def named(cls, name: str, **fields: Any) -> "ViTConfig":
        """Return the configuration named, for example, "ViT-B/16" or "R50+ViT-B/16".

        timm's names of these sizes, such as "vit_base_patch16_224", also set the image size.
        Keyword arguments replace fields. Raises ValueError for an unknown name.
        """
        unknown = fields.keys() - {field.name for field in dataclasses.fields(cls)}
        if unknown:
            raise TypeError(f"unknown field {sorted(unknown)[0]!r}: ViTConfig has no such field")
        return cls(**named_fields(name) | fields)


def named_fields(name: str) -> dict[str, Any]:
    """Return the fields that the name of a model determines, see `ViTConfig.named`."""
    timm = re.fullmatch(r"(vit_(?:([a-z]+)_patch(\d{1,9})|\w+?))_(\d{1,9})(?:\..*)?", name)
    if timm and (timm[1] in TIMM_HYBRIDS or timm[2] in TIMM_SIZES):
        known = TIMM_HYBRIDS.get(timm[1]) or f"ViT-{TIMM_SIZES[timm[2]]}/{timm[3]}"
        return named_fields(known) | {"image_size": int(timm[4])}
    match = re.fullmatch(r"ViT-(\w+)/(\d{1,9})", name)
    if name in HYBRIDS:
        size, stem, patch_size = HYBRIDS[name]
    elif match and match[1] in SIZES:
        size, stem, patch_size = match[1], None, int(match[2])
    else:
        raise ValueError(
            f"unknown model {name!r}: choose ViT-{{{','.join(SIZES)}}}/PATCH, one of "
            f"{', '.join(HYBRIDS)}, or timm's name of such a model"
        )
    sizes = dict(zip(("depth", "width", "mlp_width", "heads"), SIZES[size], strict=True))
    return {"patch_size": patch_size, "stem": stem, **sizes}


def format_fields(config: Any, shown: Collection[str]) -> str:
    """Format a dataclass with the fields in `shown` and those that differ from their default."""
    fields = [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in dataclasses.fields(config)
        if field.name in shown or getattr(config, field.name) != field.default
    ]
    return f"{type(config).__name__}({', '.join(fields)})"


def to_python(value: Any) -> Any:
    """Convert a NumPy scalar to a Python number, and a list to a tuple of such numbers."""
    if isinstance(value, (tuple, list)):
        return tuple(map(to_python, value))
    return value.item() if hasattr(value, "item") else value


def _check_positive(name: str, value: Any, limit: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer, not {value!r:.40}")
    if value > limit:
        raise ValueError(f"{name} must be at most {limit:,}, not {value!r:.40}")
