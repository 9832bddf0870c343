"""The class that users hold: a configuration, its parameters, and what can be done with them."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from . import weights
from .arrays import Array, Pullback, Watch, array_module, device_of, to_host
from .devices import resolve_device, to_device
from .models import ViTConfig, forward_features, infer, initialise, vit
from .parallel import batch_slices, choose_shard_count, map_shards

CACHE_BYTES = 3 << 20  # bytes: the largest array of a shard should stay below
GPU_BATCH_SIZE = 256  # images at a time that a GPU, which fills them side by side, answers for
MIN_ROWS = 800  # tokens: BLAS packs a kernel anew for each product, which fewer do not repay


class ViT:
    """A Vision Transformer: `config` says its shape, `params` is the tree of its arrays.

    `minivit.flatten(model.params)` names the arrays; writing into them changes the model.
    """

    def __init__(self, config: ViTConfig, params: dict[str, Any]) -> None:
        self.config = config
        self.params = params

    @classmethod
    def create(
        cls,
        config: str | ViTConfig,
        *,
        seed: int = 0,
        dtype: str = "float32",
        device: str = "cpu",
        **fields: Any,
    ) -> "ViT":
        """A new model: `create("ViT-Ti/4", image_size=32, classes=10)`, or from a ViTConfig.

        Any field of ViTConfig can be given by keyword. Parameters are drawn as the authors do
        (`models/initialise.py`), the same numbers for any device: "cpu", "gpu", or "auto" for a GPU
        if there is one. Raises ValueError for an unknown name or what does not fit, NoGPU for
        "gpu" where there is none.
        """
        if isinstance(config, str):
            config = ViTConfig.named(config, **fields)
        elif fields:
            raise TypeError("fields go with a name; change a ViTConfig with dataclasses.replace")
        return cls(config, initialise(config, seed, dtype)).to(device)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        image_size: int | tuple[int, int] | None = None,
        resize: str = "aligned",
        device: str = "cpu",
        **fields: Any,
    ) -> "ViT":
        """The model of a file: minivit's, the authors', timm's, DINO's or Hugging Face's.

        path: a .npz or .safetensors file, or a folder with config.json and model.safetensors.
        Whose it is, and how large, its names and shapes tell; what they do not can be given:
        `heads`, `gelu`, `norm_eps` or any field of ViTConfig. For an image_size other than the
        file's, (height, width) or one number, the positions are resized by the method `resize`
        of `minivit.resampling` (section 3.2). Where the file does not tell its own size but has
        as many positions as the image_size has patches, it is taken to be the file's. `device` is
        as in `create`.

        Raises FileNotFoundError, or ValueError (a `weights.CheckpointError` where the file is not
        whole and right) in one line that names the file and the array.
        """
        return cls(*weights.load(path, image_size=image_size, resize=resize, **fields)).to(device)

    def to(self, device: str) -> "ViT":
        """The same model on "cpu", "gpu" or "auto", a GPU if there is one: itself if it is there.

        Its arrays are then CuPy's, and what is computed from them is too. Images may come from
        anywhere, and what the model answers (`model(images)`, `features`, `attention`) is on the
        host. Raises NoGPU if there is none, ValueError for another device.
        """
        device = resolve_device(device)
        if device == self.device:
            return self
        return type(self)(self.config, to_device(self.params, device))

    def save(self, path: str | Path, layout: str = "minivit") -> None:
        """Write the model, whole or not at all, so that others can open it.

        path: a .npz or .safetensors file or, for "huggingface", a folder; layout: "minivit",
        "google", "timm" or "huggingface". Raises OSError if it cannot be written, ValueError for
        an unknown layout or one that has no names for this model.
        """
        weights.save_as(path, self.config, self.params, layout)

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
        """logits (B, K) of images (B, H, W, C), keeping nothing, in shards over all cores.

        On the host.
        """
        images = self.prepare(images)
        return np.concatenate(list(self._map(self._infer, images)))

    def features(self, images: Array) -> Array:
        """What the classifier sees of images (B, H, W, C): y (B, D), or the hidden layer's (B, R).

        On the host, keeping nothing, in shards over all cores.
        """
        return np.concatenate(list(self._map(self._represent, self.prepare(images))))

    def attention(self, images: Array) -> Array:
        """Who attends to whom: the probabilities A of Equation 6, (L, B, k, T, T), on the host."""
        return np.concatenate(list(self._map(self._attention, self.prepare(images))), axis=1)

    def prepare(self, images: Array) -> Array:
        """images as this model takes them, on its device, or an error that says what is wrong."""
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
            with np.errstate(over="ignore"):  # what is too large is found below
                images = images.astype(self.dtype, copy=False)
        if isinstance(images, np.ndarray) and not np.isfinite(images).all():
            bad = int(np.argmax(~np.isfinite(images).all(axis=(1, 2, 3))))
            raise ValueError(f"image {bad} of the batch has pixels that are NaN or infinite")
        if device_of(images) == self.device:
            return images
        return to_host(images) if self.device == "cpu" else self.xp.asarray(images)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the parameters."""
        return self.params["norm"]["scale"].dtype

    @property
    def device(self) -> str:
        """Where the parameters are: "cpu" or "gpu"."""
        return device_of(self.params["norm"]["scale"])

    def shard_count(self, batch: int, threads: int | None = None) -> int:
        """How many shards suit such a batch: the encoder's largest array should fit the cache.

        A GPU does the batch at once.
        """
        if self.device == "gpu":
            return 1
        return choose_shard_count(batch, self._images_in_cache(), threads)

    @property
    def xp(self) -> Any:
        """The array module of the parameters: numpy, or cupy on a GPU."""
        return array_module(self.params["norm"]["scale"])

    def _images_in_cache(self) -> int:
        c = self.config
        widest = max(c.mlp_width, 3 * c.width, c.heads * c.tokens)  # MLP, queries to values, scores
        return max(1, CACHE_BYTES // (c.tokens * widest * self.dtype.itemsize))

    def _map(self, function: Callable[[Array], Array], images: Array) -> Iterator[Array]:
        # Nothing is kept for a way back: there is room for enough rows to suit BLAS.
        B = len(images)
        if self.device == "gpu":
            return self._in_parts(function, images)
        shards = choose_shard_count(B, max(self._images_in_cache(), MIN_ROWS // self.config.tokens))
        return map_shards(function, [images[part] for part in batch_slices(B, shards)])

    def _in_parts(self, function: Callable[[Array], Array], images: Array) -> Iterator[Array]:
        # A GPU does many images at once, and half as many where its memory does not do.
        start, many = 0, GPU_BATCH_SIZE
        while start < len(images):
            try:
                answers = function(images[start : start + many])
            except MemoryError:
                if many == 1:
                    raise
                many //= 2
                continue
            yield answers
            start += many

    def _infer(self, images: Array) -> Array:
        return to_host(infer(images, self.params, self.config))

    def _represent(self, images: Array) -> Array:
        return to_host(forward_features(images, self.params, self.config))

    def _attention(self, images: Array) -> Array:
        maps = {}
        infer(images, self.params, self.config, watch=maps.__setitem__)
        names = [f"blocks/{i}/attention/probabilities" for i in range(self.config.depth)]
        return np.stack([to_host(maps[name]) for name in names])  # (L, B, k, T, T)
