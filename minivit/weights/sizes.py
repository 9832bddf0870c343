"""How large is the model of a file? Its names and shapes tell nearly everything."""

import dataclasses
import math
from typing import Any

from ..models import SIZES, ViTConfig
from .files import CheckpointError
from .foreign import ForeignFile

HEADS = {width: heads for _, width, _, heads in SIZES.values()}


def config_of(
    file: ForeignFile,
    said: dict[str, Any],
    fields: dict[str, Any],
    image_size: int | tuple[int, int] | None = None,
) -> ViTConfig:
    """The configuration that names and shapes tell, what a config.json said, and the caller.

    The images are of the size that config.json said or, without one, of `image_size` if that has
    as many patches as there are positions; else the patches are a square. Raises CheckpointError
    for what contradicts itself or cannot be told.
    """
    told = told_by(file)
    for name, value in said.items():
        if name in told and told[name] != value:
            raise file.error(f"config.json says {name} is {value}, the arrays say {told[name]}")
    usual = {"heads": HEADS.get(told["width"])}
    fields = usual | file.layout.settings | said | told | fields  # whoever knows better comes later
    if fields["heads"] is None:
        raise file.error(
            f"its arrays do not tell how many heads share a width of {told['width']}: say heads="
        )
    try:
        some_size = told["patch_size"] * 4 * 2 ** len(told["stem"] or ())  # any that can be cut
        unsized = ViTConfig(**fields | {"image_size": some_size})
        size = image_size_of(file, unsized, image_size, said.get("image_size"))
        return ViTConfig(**fields | {"image_size": size})
    except CheckpointError:
        raise
    except ValueError as reason:
        raise file.error(str(reason)) from None


def told_by(file: ForeignFile) -> dict[str, Any]:
    """The fields of ViTConfig that names and shapes tell."""
    votes, has = file.votes(), file.has
    known = {letter: counts.most_common(1)[0][0] for letter, counts in votes.items()}
    stem = None
    if has("stem/conv/kernel") or has("stem/norm/scale") or file.count("stem/stages"):
        stages = range(file.count("stem/stages"))
        stem = tuple(file.count(f"stem/stages/{stage}") for stage in stages)
    source = "patch_embedding/kernel" if stem is None else "stem/conv/kernel"
    needed = {"P": "patch_embedding/kernel", "C" if stem is not None else "I": source}
    needed |= {"D": "norm/scale", "M": "blocks/0/mlp/hidden/kernel"}
    for letter, ours in needed.items():
        if letter not in known:
            raise file.shapeless(ours) if file.has(ours) else file.missing(ours)
    classes = has("head/kernel") or has("head/bias")
    hidden = has("hidden/kernel") or has("hidden/bias")
    qkv_bias = any(has(f"blocks/{i}/attention/qkv/bias") for i in range(file.count("blocks")))
    fields = {
        "patch_size": known["P"],
        "channels": known["I" if stem is None else "C"],
        "classes": known.get("K") if classes else None,
        "width": known["D"],
        "depth": file.count("blocks"),
        "mlp_width": known["M"],
        "pooling": "class" if has("class_token") else "mean",
        "hidden_head": known.get("R") if hidden else None,
        "qkv_bias": qkv_bias,
        "stem": stem,
    }
    if "k" in known:
        fields["heads"] = known["k"]
    if stem is not None:
        fields["stem_width"] = known["F"]
    return fields


def image_size_of(
    file: ForeignFile,
    config: ViTConfig,
    wanted: int | tuple[int, int] | None,
    said: int | list[int] | None,
) -> int | tuple[int, int] | list[int]:
    """The image whose patches are as many as the positions; `config` has all but its size."""
    sizes = [size for size in (said, wanted) if size is not None]
    if not file.has("positions/table"):
        if config.positions == "1d":
            raise file.missing("positions/table")
        if not sizes:
            raise file.error(f"positions '{config.positions}' have no table: say image_size=")
        return sizes[0]
    patches = [math.prod(dataclasses.replace(config, image_size=size).grid) for size in sizes]
    name = file.called(file.places["positions/table", 0])
    if not (tokens := file.votes()["T"]):
        raise file.shapeless("positions/table")
    N = max(tokens) - (config.pooling == "class")
    if N in patches:
        return sizes[patches.index(N)]
    if config.pooling == "mean" and (N - 1 in patches or (not is_square(N) and is_square(N - 1))):
        raise file.missing("class_token")
    if said is not None:
        raise file.error(f"config.json says image_size is {said}, '{name}' has {N} patches")
    if not is_square(N):
        which = "the file's own image_size" if wanted is not None else "image_size"
        raise file.error(f"'{name}' has {N} patches, not a square: say {which}=(height, width)")
    return math.isqrt(N) * config.stride


def is_square(number: int) -> bool:
    """Whether a number is 1, 4, 9 and so on."""
    return number > 0 and math.isqrt(number) ** 2 == number
