"""The class ViT: a configuration, its parameters, and the operations on them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from . import weights
from .arrays import Array, Pullback, Watch, array_module, as_array, device_of, to_host
from .devices import resolve_device, to_device
from .models import ViTConfig, forward_features, infer, initialise, vit
from .parallel import batch_slices, choose_shard_count, map_parts, map_shards

CACHE_BYTES = 3 << 20  # maximum size of the largest array of a shard
GPU_BATCH_SIZE = 256  # images per call in inference on a GPU
MIN_ROWS = 800  # tokens per shard in inference, because BLAS repacks the kernels for each product


class ViT:
    """A Vision Transformer.

    Parameters
    ----------
    config : ViTConfig
        The configuration.
    params : dict
        Tree of parameters, listed by `minivit.flatten(model.params)`. Changing an array in place
        changes the model.

    Examples
    --------
    >>> model = ViT.create("ViT-Ti/4", image_size=32, classes=10, seed=0)
    >>> images = np.zeros((2, 32, 32, 3), dtype=np.float32)
    >>> model(images).shape
    (2, 10)
    """

    def __init__(self, config: ViTConfig, params: dict[str, Any]) -> None:
        self.config = config
        self.params = params

    @classmethod
    def create(
        cls, config: str | ViTConfig, *, seed: int = 0, dtype: str = "float32",
        device: str = "cpu", **fields: Any,
    ) -> "ViT":  # fmt: skip
        """Create a model with new parameters, initialised as in the authors' code.

        Parameters
        ----------
        config : str or ViTConfig
            A name such as "ViT-B/16" or "R50+ViT-B/16", or a configuration.
        seed : int
            Seed of the parameters. They do not depend on the device.
        dtype : str
            "float32", "float64" or "float16".
        device : str
            "cpu", "gpu", or "auto" for a GPU if there is one.
        **fields
            Fields of ViTConfig that replace those of the named configuration.

        Raises
        ------
        ValueError
            For an unknown name, or if the values do not fit together.
        NoGPUError
            If `device` is "gpu" and there is no working GPU.

        Examples
        --------
        >>> ViT.create("ViT-Ti/4", image_size=32, classes=10).config.tokens
        65
        """
        if isinstance(config, str):
            config = ViTConfig.named(config, **fields)
        elif fields:
            raise TypeError("fields need a model name; use dataclasses.replace on a ViTConfig")
        return cls(config, initialise(config, seed, dtype)).to(device)

    @classmethod
    def load(
        cls, path: str | Path, *, image_size: int | tuple[int, int] | None = None,
        resize: str = "aligned", device: str = "cpu", **fields: Any,
    ) -> "ViT":  # fmt: skip
        """Load a model saved by minivit, the authors (big_vision), timm or Hugging Face.

        Parameters
        ----------
        path : str or Path
            A .npz or .safetensors file, or a folder with config.json and model.safetensors. The
            configuration is inferred from the names and shapes of the arrays.
        image_size : int or (int, int), optional
            New image size. The position embeddings are resized to it (section 3.2), unless the file
            contains no image size and has as many positions as this size has patches.
        resize : str
            Interpolation method for the position embeddings, see `minivit.data.resampling`.
        device : str
            As in `create`.
        **fields
            Fields of ViTConfig that the file does not contain, such as `heads`, `gelu`, `norm_eps`.

        Raises
        ------
        FileNotFoundError
            If the file does not exist.
        CheckpointError
            A ValueError. The file is not a complete, valid model. The message is one line that
            names the file and the array.

        Examples
        --------
        >>> ViT.load(minivit.data.SCATTERED_MODEL).config.classes
        10
        """
        return cls(*weights.load(path, image_size=image_size, resize=resize, **fields)).to(device)

    def to(self, device: str) -> "ViT":
        """Return a copy on another device ("cpu", "gpu" or "auto"), or self on the same device.

        On a GPU the parameters are CuPy arrays. Images may be on either device. The results of
        `model(images)`, `features` and `attention` are NumPy arrays. Raises NoGPUError if there is
        no working GPU, ValueError for an unknown device.
        """
        device = resolve_device(device)
        if device == self.device:
            return self
        return type(self)(self.config, to_device(self.params, device))

    def save(self, path: str | Path, layout: str = "minivit") -> None:
        """Write the model atomically, in minivit's or another layout.

        Parameters
        ----------
        path : str or Path
            A .npz or .safetensors file or, for "huggingface", a folder.
        layout : str
            "minivit", "google", "timm" or "huggingface".

        Raises
        ------
        OSError
            If the file cannot be written.
        ValueError
            For an unknown layout or one that cannot represent this model.

        Examples
        --------
        >>> model = ViT.create("ViT-Ti/4", image_size=32, classes=10)
        >>> model.save(folder / "model.safetensors", layout="timm")
        >>> ViT.load(folder / "model.safetensors").config == model.config
        True
        """
        weights.save_as(path, self.config, self.params, layout)

    def forward(
        self, images: Array, generator: np.random.Generator | None = None,
        watch: Watch | None = None,
    ) -> tuple[Array, Pullback]:  # fmt: skip
        """Compute the logits and the pullback.

        Parameters
        ----------
        images : (B, H, W, C) array of floats
        generator : numpy.random.Generator, optional
            Enables dropout and drop path, which are disabled by default.
        watch : callable, optional
            Called as watch(name, array) with intermediate arrays, see `models.vit`.

        Returns
        -------
        logits : (B, K) array
            If the model has no classes, the features (B, D).
        pullback : callable
            pullback(dlogits) returns (dimages, dparams); dparams is a tree like `params`.

        Raises
        ------
        TypeError, ValueError
            If the images are not floats, have another shape, or contain NaN or infinite values.

        Examples
        --------
        >>> model = ViT.create("ViT-Ti/4", image_size=32, classes=10)
        >>> logits, pullback = model.forward(np.zeros((2, 32, 32, 3), dtype=np.float32))
        >>> dimages, dparams = pullback(np.ones_like(logits))
        >>> dimages.shape, dparams["head"]["kernel"].shape
        ((2, 32, 32, 3), (192, 10))
        """
        return vit(self.prepare_images(images), self.params, self.config, generator, watch)

    def __call__(self, images: Array) -> Array:
        """Compute the logits without a pullback, on all cores.

        images (B, H, W, C)  ->  logits (B, K), a NumPy array
        """
        return self._map(lambda part: infer(part, self.params, self.config), images)

    def features(self, images: Array) -> Array:
        """Compute the input of the classifier, on all cores.

        Parameters
        ----------
        images : (B, H, W, C) array of floats

        Returns
        -------
        (B, D) NumPy array, or (B, R) if there is a hidden layer of width R

        Examples
        --------
        >>> model = ViT.create("ViT-Ti/4", image_size=32, classes=10)
        >>> model.features(np.zeros((2, 32, 32, 3), dtype=np.float32)).shape
        (2, 192)
        """
        return self._map(lambda part: forward_features(part, self.params, self.config), images)

    def attention(self, images: Array) -> Array:
        """Compute the attention weights A of Equation 6 in every layer, on all cores.

        Parameters
        ----------
        images : (B, H, W, C) array of floats

        Returns
        -------
        (L, B, h, T, T) NumPy array
            Entry [l, b, n, i, j] is the weight with which token i attends to token j in head n.

        Examples
        --------
        >>> model = ViT.create("ViT-Ti/4", image_size=32, classes=10)
        >>> model.attention(np.zeros((2, 32, 32, 3), dtype=np.float32)).shape
        (12, 2, 3, 65, 65)
        """
        return self._map(self._attention, images, axis=1)

    def prepare_images(self, images: Array) -> Array:
        """Check images and convert them to the model's dtype and device.

        images (B, H, W, C)  ->  the same shape. Raises TypeError and ValueError as `forward` does.
        """
        H, W, C = *self.config.image_size, self.config.channels
        images = as_array(images)
        if not hasattr(images, "dtype") or images.dtype.kind not in "fc":
            dtype = getattr(images, "dtype", type(images).__name__)
            raise TypeError(
                f"images must be arrays of floats, not {dtype}: scale them first, "
                "for example by images / np.float32(127.5) - 1"
            )
        if images.ndim != 4 or images.shape[1:] != (H, W, C):
            raise ValueError(
                f"images of shape {images.shape}: this model expects (B, {H}, {W}, {C}), "
                "that is batch, height, width, channels"
            )
        if len(images) == 0:
            raise ValueError("the batch is empty")
        if images.dtype.kind == "f":
            with np.errstate(over="ignore"):  # infinite values are reported below
                images = images.astype(self.dtype, copy=False)
        if isinstance(images, np.ndarray) and not np.isfinite(images).all():
            bad = int(np.argmax(~np.isfinite(images).all(axis=(1, 2, 3))))
            raise ValueError(f"image {bad} of the batch has pixels that are NaN or infinite")
        return to_host(images) if self.device == "cpu" else self.xp.asarray(images)

    @property
    def dtype(self) -> np.dtype:
        """The dtype of the parameters."""
        return self.params["norm"]["scale"].dtype

    @property
    def device(self) -> str:
        """The device of the parameters: "cpu" or "gpu"."""
        return device_of(self.params["norm"]["scale"])

    @property
    def xp(self) -> Any:
        """The array module of the parameters: numpy, or cupy on a GPU."""
        return array_module(self.params["norm"]["scale"])

    def choose_shard_count(self, batch_size: int, threads: int | None = None) -> int:
        """Return the number of shards that fit the CPU cache, or 1 on a GPU."""
        if self.device == "gpu":
            return 1
        return choose_shard_count(batch_size, self._images_in_cache(), threads)

    def _images_in_cache(self) -> int:
        """Return the number of images such that no array of the encoder exceeds CACHE_BYTES."""
        c = self.config
        widest = max(c.mlp_width, 3 * c.width, c.heads * c.tokens)  # MLP, q k v, scores
        return max(1, CACHE_BYTES // (c.tokens * widest * self.dtype.itemsize))

    def _map(self, function: Callable[[Array], Array], images: Array, axis: int = 0) -> Array:
        """Concatenate function(part) over parts of the batch, on the host."""
        images = self.prepare_images(images)
        if self.device == "gpu":
            parts = map_parts(lambda part: to_host(function(part)), images, GPU_BATCH_SIZE)
        else:
            size = max(self._images_in_cache(), MIN_ROWS // self.config.tokens)
            shards = batch_slices(len(images), choose_shard_count(len(images), size))
            parts = map_shards(function, [images[shard] for shard in shards])
        return np.concatenate(list(parts), axis=axis)

    def _attention(self, images: Array) -> Array:
        maps: dict[str, Array] = {}
        infer(images, self.params, self.config, watch=maps.__setitem__)
        names = [f"blocks/{i}/attention/probabilities" for i in range(self.config.depth)]
        return np.stack([to_host(maps[name]) for name in names])  # (L, B, h, T, T)
