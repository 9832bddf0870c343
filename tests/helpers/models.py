"""Small models, batches and data sets that several tests use."""

from functools import cache

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from minivit import ViT, ViTConfig, data, flatten

TINY = {
    "image_size": 8, "patch_size": 4, "channels": 1, "classes": 10,
    "width": 8, "depth": 1, "heads": 2, "mlp_width": 12,
}  # fmt: skip


def tiny_model(dtype="float64", scale=0.2, **fields):
    """Return a tiny model with parameters that are perturbed by normal noise of this scale.

    The head of a new model is zero, so its logits and most of its gradients would be zero.
    """
    model = ViT.create(ViTConfig(**TINY | fields), dtype=dtype)
    rng = np.random.default_rng(1)
    for leaf in flatten(model.params).values():
        leaf += scale * rng.normal(size=leaf.shape)
    return model


def random_batch(size=7, dtype="float64", shape=(8, 8, 1), classes=10):
    """Return random images and labels."""
    rng = np.random.default_rng(2)
    return rng.normal(size=(size, *shape)).astype(dtype), rng.integers(0, classes, size)


@cache
def few_digits():
    """Return 97 digits for training, five batches of 19 or 20, and 40 held-out digits."""
    d = data.load_digits(n=97)
    return d._replace(
        held_out_images=d.held_out_images[:40], held_out_labels=d.held_out_labels[:40]
    )


class Unreadable:
    """Images (n, H, W, C), of which those with the indices `unreadable` cannot be read."""

    def __init__(self, images, unreadable):
        self.images, self.shape, self.unreadable = images, images.shape, unreadable

    def __len__(self):
        return len(self.images)

    def read(self, indices):
        readable = ~np.isin(np.arange(len(self))[indices], self.unreadable)
        return self.images[indices][readable], readable


def copy_leaves(tree):
    return {name: leaf.copy() for name, leaf in flatten(tree).items()}


def same_bits(a, b):
    """Return whether two trees have the same names and equal arrays."""
    a, b = flatten(a), flatten(b)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def blas_threads():
    """Return the set of BLAS's thread limits, one per loaded library."""
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture
def three_blas_threads():
    """Limit BLAS to 3 threads, and verify afterwards that the limit has not changed."""
    with threadpool_limits(limits=3, user_api="blas"):
        assert blas_threads() == {3}
        yield
        assert blas_threads() == {3}, "the test changed BLAS's thread limit"
