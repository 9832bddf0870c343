"""Section 3.1: an image becomes a sequence of N = HW / P² flattened patches."""

from ..arrays import Array, Pullback


def patchify(images: Array, patch_size: int) -> tuple[Array, Pullback]:
    """Cut images into patches in raster order.

    images (B, H, W, C), patch_size P  ->  patches (B, N, P P C)    (Section 3.1)
    Each patch is flattened in the order row, column, channel. Every pixel belongs to one patch, so
    the pullback reassembles the image. Raises ValueError if H or W is not a multiple of P.
    """
    H, W = images.shape[1:3]
    patches = unfold(images, patch_size)
    return patches, lambda dpatches: fold(dpatches, patch_size, H, W)


def unpatchify(patches: Array, patch_size: int, height: int, width: int) -> tuple[Array, Pullback]:
    """Reassemble images from patches. This is the inverse of `patchify`.

    patches (B, N, P P C)  ->  images (B, H, W, C)
    Raises ValueError unless there are HW / P² patches.
    """
    P, N = patch_size, patches.shape[1]
    if height % P or width % P or (height // P) * (width // P) != N:
        raise ValueError(f"{N} patches of {P} x {P} do not form an image of {height} x {width}")
    return fold(patches, P, height, width), lambda dimages: unfold(dimages, P)


def unfold(images: Array, P: int) -> Array:
    """images (B, H, W, C)  ->  patches (B, N, P P C)"""
    B, H, W, C = images.shape
    if H % P or W % P:
        raise ValueError(f"an image of {H} x {W} pixels cannot be cut into {P} x {P} patches")
    grid = images.reshape(B, H // P, P, W // P, P, C)  # (B, rows, P, columns, P, C)
    return grid.swapaxes(2, 3).reshape(B, -1, P * P * C)  # (B, N, P P C)


def fold(patches: Array, P: int, H: int, W: int) -> Array:
    """patches (B, N, P P C)  ->  images (B, H, W, C)"""
    B, _, PPC = patches.shape
    grid = patches.reshape(B, H // P, W // P, P, P, PPC // (P * P))
    return grid.swapaxes(2, 3).reshape(B, H, W, -1)  # (B, H, W, C)
