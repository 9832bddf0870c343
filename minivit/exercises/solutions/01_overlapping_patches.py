"""Overlapping patches: cut an image into patches that share pixels.

The corners of adjacent patches are `stride` pixels apart instead of P, so a pixel can belong to
several patches. There are

    ((H - P) // stride + 1) ((W - P) // stride + 1)    patches.

Several Vision Transformers use such patches (T2T-ViT, Yuan et al., 2021), because a stroke at the
edge of one patch lies inside a neighbouring patch. In the backward pass, a pixel that was copied
into several patches receives the sum of their gradients.
"""

import numpy as np

from minivit.arrays import Array, Pullback

HINTS = (
    "A pixel in three patches is used three times. The gradient of a value that is used several\n"
    "times is the sum of the gradients of all its uses.",
    "Loop over the corners (i, j) of the patches in raster order. The patch is images[:, i : i +\n"
    "P, j : j + P], reshaped to (B, P P C). The pullback loops over the same corners and adds\n"
    "each patch's gradient, reshaped to (B, P, P, C), at the same place.",
    "Start the pullback with dimages = np.zeros(images.shape). For patch n with corner (i, j):\n"
    "    dimages[:, i : i + P, j : j + P] += dpatches[:, n].reshape(B, P, P, C)\n"
    "Use += here, not =.",
)


def overlapping_patches(images: Array, patch_size: int, stride: int) -> tuple[Array, Pullback]:
    """Cut images into patches whose corners are `stride` pixels apart.

    images (B, H, W, C), patch_size P  ->  patches (B, N, P P C) in raster order
    Each patch is flattened in the order row, column, channel. Pixels at the right and at the bottom
    that no complete patch covers are ignored. The pullback returns dimages.
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
    """Compute the expected output one entry at a time."""
    B, H, W, C = images.shape
    rows, columns = (H - patch_size) // stride + 1, (W - patch_size) // stride + 1
    patches = np.empty((B, rows * columns, patch_size * patch_size * C))
    for b, row, column in np.ndindex(B, rows, columns):
        for place, (i, j, c) in enumerate(np.ndindex(patch_size, patch_size, C)):
            pixel = images[b, row * stride + i, column * stride + j, c]
            patches[b, row * columns + column, place] = pixel
    return patches


def arguments(rng: np.random.Generator) -> list[tuple]:
    """Return inputs with overlap, with ignored pixels, and without overlap."""
    shapes = [((2, 5, 7, 1), 3, 2), ((1, 4, 6, 2), 3, 2), ((1, 4, 6, 3), 2, 2)]
    return [(rng.normal(size=shape), P, stride) for shape, P, stride in shapes]
