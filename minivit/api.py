"""The class ViT: a configuration, its parameters, and the operations on them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import weights
from .arrays import Array, Pullback, Watch, array_module, device_of, to_host
from .data import check_images
from .devices import resolve_device, to_device
from .inference import collect, images_in_cache, map_images
from .models import ViTConfig, forward_features, infer, initialise, vit
from .parallel import choose_shard_count
from .tree import count_parameters


class ViT:
    """A Vision Transformer.

    Parameters
    ----------
    config : ViTConfig
        The configuration.
    params : dict
        Tree of parameters, listed by `minivit.flatten(model.params)`. Changing an array in place
        changes the model.

    class_names : sequence of str, optional
        The names of the classes. `load` finds them, if they are known.

    Examples
    --------
    >>> model = ViT.create("ViT-Ti/4", image_size=32, classes=10, seed=0)
    >>> images = np.zeros((2, 32, 32, 3), dtype=np.float32)
    >>> model(images).shape
    (2, 10)
    """

    def __init__(
        self, config: ViTConfig, params: dict[str, Any], class_names: Sequence[str] | None = None
    ) -> None:
        self.config = config
        self.params = params
        self.class_names = class_names

    def __repr__(self) -> str:
        c, parameters = self.config, count_parameters(self.params)
        image = " x ".join(map(str, (*c.image_size, c.channels)))
        head = f"{c.classes:,} classes" if c.classes else "no classifier"
        size = f"{parameters:,} parameters, {self.dtype} on {self.device}"
        return f"<{c.name}: {image} pixels, {head}, {size}>"

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
        >>> ViT.create("ViT-Ti/4", image_size=32, classes=10)
        <ViT-Ti/4: 32 x 32 x 3 pixels, 10 classes, 5,362,762 parameters, float32 on cpu>
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
            A .npz or .safetensors file, or a folder with model.npz or model.safetensors. The
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
        config, params = weights.load(path, image_size=image_size, resize=resize, **fields)
        names = weights.find_class_names(weights.find_weights(Path(path)), config.classes)
        return cls(config, params, names).to(device)

    def to(self, device: str) -> "ViT":
        """Return a copy on another device ("cpu", "gpu" or "auto"), or self on the same device.

        On a GPU the parameters are CuPy arrays. Images may be on either device. The results of
        `model(images)`, `features` and `attention` are NumPy arrays. Raises NoGPUError if there is
        no working GPU, ValueError for an unknown device.
        """
        device = resolve_device(device)
        if device == self.device:
            return self
        return type(self)(self.config, to_device(self.params, device), self.class_names)

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
        weights.save_as(path, self.config, self.params, layout, self.class_names)

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

        images (B, H, W, C)  ->  (B, D), or (B, R) if there is a hidden layer of width R, a NumPy
        array. `tokens` returns all tokens instead of one vector per image.

        >>> model = ViT.create("ViT-Ti/4", image_size=32, classes=10)
        >>> model.features(np.zeros((2, 32, 32, 3), dtype=np.float32)).shape
        (2, 192)
        """
        return self._map(lambda part: forward_features(part, self.params, self.config), images)

    def attention(self, images: Array) -> Array:
        """Compute the attention weights A of Equation 6 in every layer, on all cores.

        images (B, H, W, C)  ->  (L, B, h, T, T), a NumPy array
        Entry [l, b, n, i, j] is the weight with which token i attends to token j in head n.

        >>> model = ViT.create("ViT-Ti/4", image_size=32, classes=10)
        >>> model.attention(np.zeros((2, 32, 32, 3), dtype=np.float32)).shape
        (12, 2, 3, 65, 65)
        """
        names = [f"blocks/{i}/attention/probabilities" for i in range(self.config.depth)]
        return self._collect(images, names)

    def tokens(self, images: Array) -> Array:
        """Compute all tokens after the final layer norm, on all cores.

        images (B, H, W, C)  ->  (B, T, D), a NumPy array
        """
        return self._collect(images, ["tokens"])[0]

    def intermediate(self, images: Array, layers: Sequence[int]) -> Array:
        """Compute the tokens z_l after chosen blocks (Equation 3), on all cores.

        Parameters
        ----------
        images : (B, H, W, C) array of floats
        layers : sequence of int
            Indices of the blocks, counted from 0. Negative indices count from the end.

        Returns
        -------
        (len(layers), B, T, D) NumPy array
            All other intermediate arrays are available from `forward(images, watch=...)`.

        Raises
        ------
        IndexError
            If there is no such block.

        Examples
        --------
        >>> model = ViT.create("ViT-Ti/4", image_size=32, classes=10)
        >>> model.intermediate(np.zeros((2, 32, 32, 3), dtype=np.float32), [0, -1]).shape
        (2, 2, 65, 192)
        """
        blocks = range(self.config.depth)
        return self._collect(images, [f"blocks/{blocks[i]}/output" for i in layers])

    def prepare_images(self, images: Array) -> Array:
        """Check images and convert them to the model's dtype and device.

        images (B, H, W, C)  ->  the same shape. Raises TypeError and ValueError as `forward` does.
        """
        images = check_images(images, self.config.image_size, self.config.channels, self.dtype)
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
        return choose_shard_count(
            batch_size, images_in_cache(self.config, self.dtype.itemsize), threads
        )

    def _map(self, function: Callable[[Array], Array], images: Array, axis: int = 0) -> Array:
        return map_images(function, self.prepare_images(images), self.config, axis)

    def _collect(self, images: Array, names: Sequence[str]) -> Array:
        """Return the intermediate arrays with these names.  ->  (len(names), B, ...)"""
        return self._map(lambda part: collect(part, self.params, self.config, names), images, 1)
