"""A small model, images and attention weights for the tests of analyses and figures."""

import numpy as np

from helpers.models import tiny_model
from minivit.layers import softmax


def random_attention(*shape, dtype="float64"):
    """Return rows of positive numbers that sum to one."""
    return softmax(np.random.default_rng(0).normal(size=shape).astype(dtype))[0]


def make_model(**fields):
    """Return a small model whose attention is not nearly uniform."""
    sizes = {"image_size": (4, 6), "patch_size": 2, "classes": 5, "depth": 2}
    return tiny_model(scale=0.5, **sizes | fields)


def make_images(n=3, channels=1):
    return np.random.default_rng(4).uniform(-1, 1, (n, 4, 6, channels))
