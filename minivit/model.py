"""The class that users hold: a configuration, its parameters, and what can be done with them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import weights
from .arrays import Array, Pullback, Watch, to_host
from .models import ViTConfig, infer, initialise, vit
from .shards import cut, map_shards, shard_count


class ViT:
    """A Vision Transformer: `config` says its shape, `params` is the tree of its arrays.

    `minivit.flatten(model.params)` names the arrays; writing into them changes the model.
    """

    def __init__(self, config: ViTConfig, params: dict[str, Any]) -> None:
        self.config = config
        self.params = params

    @classmethod
    def create(
        cls, config: str | ViTConfig, *, seed: int = 0, dtype: str = "float32", **fields: Any
    ) -> "ViT":
        """A new model: `create("ViT-Ti/4", image_size=32, classes=10)`, or from a ViTConfig.

        Any field of ViTConfig can be given by keyword. Parameters are drawn as the authors do
        (`models/initialise.py`). Raises ValueError for an unknown name or what does not fit.
        """
        if isinstance(config, str):
            config = ViTConfig.named(config, **fields)
        elif fields:
            raise TypeError("fields go with a name; change a ViTConfig with dataclasses.replace")
        return cls(config, initialise(config, seed, dtype))

    @classmethod
    def load(cls, path: str | Path) -> "ViT":
        """The model of a checkpoint. Raises CheckpointError if the file is not a whole one."""
        return cls(*weights.load(path))

    def save(self, path: str | Path) -> None:
        """Write a checkpoint, whole or not at all. Raises OSError if that cannot be done."""
        weights.save(path, self.config, self.params)

    def forward(
        self,
        images: Array,
        generator: np.random.Generator | None = None,
        watch: Watch | None = None,
    ) -> tuple[Array, Pullback]:
        """logits and the pullback, which gives (dimages, dparams).

        images (B, H, W, C), floats  ->  logits (B, K). Dropout is on if a generator is given.
        Raises ValueError or TypeError for images of another shape, of integers, or with NaNs.
        """
        return vit(self.prepare(images), self.params, self.config, generator, watch)

    def __call__(self, images: Array) -> Array:
        """logits (B, K) of images (B, H, W, C), keeping nothing, in shards over all cores."""
        images = self.prepare(images)
        return np.concatenate(list(self._map(self._infer, images)))

    def attention(self, images: Array) -> Array:
        """Who attends to whom: the probabilities A of Equation 6, as (L, B, k, T, T)."""
        return np.concatenate(list(self._map(self._attention, self.prepare(images))), axis=1)

    def prepare(self, images: Array) -> Array:
        """images as this model takes them, or an error that says what is wrong with them."""
        H, W = self.config.image_size
        C = self.config.channels
        if not hasattr(images, "dtype") or images.dtype.kind not in "fc":
            kind = getattr(images, "dtype", type(images).__name__)
            raise TypeError(
                f"images are arrays of floats, these are {kind}: scale them first, "
                "for example by images / np.float32(127.5) - 1"
            )
        if images.ndim != 4 or images.shape[1:] != (H, W, C):
            raise ValueError(
                f"images of shape {images.shape}: this model takes (B, {H}, {W}, {C}), "
                "batch, height, width, channels"
            )
        if len(images) == 0:
            raise ValueError("the batch is empty")
        if images.dtype.kind == "f":
            with np.errstate(over="ignore"):                  # what is too large is found below
                images = images.astype(self.dtype, copy=False)
        if isinstance(images, np.ndarray) and not np.isfinite(images).all():
            bad = int(np.argmax(~np.isfinite(images).all(axis=(1, 2, 3))))
            raise ValueError(f"image {bad} of the batch has pixels that are NaN or infinite")
        return images

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the parameters."""
        return self.params["head"]["kernel"].dtype

    def shard_count(self, batch: int, threads: int | None = None) -> int:
        """How many shards suit a batch of this size: their largest arrays should fit the cache."""
        c = self.config
        widest = max(c.mlp_width, 3 * c.width, c.heads * c.tokens)  # MLP, queries to values, scores
        return shard_count(batch, c.tokens * widest * self.dtype.itemsize, threads)

    def _map(self, function: Callable[[Array], Array], images: Array) -> Iterator[Array]:
        B = len(images)
        return map_shards(function, [images[part] for part in cut(B, self.shard_count(B))])

    def _infer(self, images: Array) -> Array:
        return to_host(infer(images, self.params, self.config))

    def _attention(self, images: Array) -> Array:
        maps = {}
        infer(images, self.params, self.config, watch=maps.__setitem__)
        names = [f"blocks/{i}/attention/probabilities" for i in range(self.config.depth)]
        return np.stack([to_host(maps[name]) for name in names])  # (L, B, k, T, T)
