"""Overlapping patches: the next patch begins before the last one ends.

The corners of the patches are `stride` pixels apart instead of P, so a pixel may lie in several
patches, and no edge cuts a stroke in two without another patch that holds it whole. There are

    ((H - P) // stride + 1) ((W - P) // stride + 1)    patches.

Several vision transformers begin in this way (T2T-ViT, Yuan et al., 2021). What changes on the
way back: a pixel that was copied into several patches collects its gradient from all of them.
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "A pixel that lies in three patches was used three times. Whatever is used several times\n"
    "gets the sum of the gradients of all its uses.",
    "Go over the corners (i, j) of the patches row by row. The patch is\n"
    "images[:, i : i + P, j : j + P], reshaped to (B, P P C). The pullback goes over the same\n"
    "corners and adds each patch's gradient, reshaped to (B, P, P, C), to the same place.",
    "Begin the pullback with dimages = np.zeros(images.shape), and write\n"
    "    dimages[:, i : i + P, j : j + P] += dpatches[:, n].reshape(B, P, P, C)\n"
    "for patch n with its corner at (i, j): += and not =.",
)


def overlapping_patches(images: Array, patch_size: int, stride: int) -> tuple[Array, Pullback]:
    """Cut images into patches whose corners are `stride` pixels apart.

    images (B, H, W, C), patch_size P  ->  patches (B, N, P P C), row by row from the top left
    corner, each flattened in the order row, column, channel. Pixels at the right and the bottom
    that no whole patch reaches are left out. The pullback returns dimages.
    """
    B, H, W, C = images.shape
    P = patch_size
    corners = [(i, j) for i in range(0, H - P + 1, stride) for j in range(0, W - P + 1, stride)]
    patches = [images[:, i : i + P, j : j + P].reshape(B, P * P * C) for i, j in corners]

    def pullback(dpatches):
        dimages = np.zeros(images.shape, dpatches.dtype)
        for n, (i, j) in enumerate(corners):
            dimages[:, i : i + P, j : j + P] += dpatches[:, n].reshape(B, P, P, C)
        return dimages

    return np.stack(patches, axis=1), pullback


def expected(images: Array, patch_size: int, stride: int) -> Array:
    """The value, number by number."""
    B, H, W, C = images.shape
    rows, columns = (H - patch_size) // stride + 1, (W - patch_size) // stride + 1
    patches = np.empty((B, rows * columns, patch_size * patch_size * C))
    for b, row, column in np.ndindex(B, rows, columns):
        for place, (i, j, c) in enumerate(np.ndindex(patch_size, patch_size, C)):
            pixel = images[b, row * stride + i, column * stride + j, c]
            patches[b, row * columns + column, place] = pixel
    return patches


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Inputs to grade it on: overlapping, with pixels left over, and side by side."""
    shapes = [((2, 5, 7, 1), 3, 2), ((1, 4, 6, 2), 3, 2), ((1, 4, 6, 3), 2, 2)]
    return [(rng.normal(size=shape), P, stride) for shape, P, stride in shapes]
