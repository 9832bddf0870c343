"""The Vision Transformer, Equations 1 to 4, forward and backward.

z_0  = [x_class; x_p^1 E; ...; x_p^N E] + E_pos                (1)
z'_l = MSA(LN(z_{l-1})) + z_{l-1},      l = 1 .. L             (2)
z_l  = MLP(LN(z'_l)) + z'_l,            l = 1 .. L             (3)
y    = LN(z_L^0)                                               (4)
"""

from typing import Any

import numpy as np

from ..arrays import Array, Pullback, Watch, add_prefix
from ..layers import (
    add_positions,
    add_positions_2d,
    add_positions_sincos2d,
    class_pool,
    drop_path,
    dropout,
    hidden_layer,
    layer_norm,
    linear,
    mean_pool,
    mlp,
    patch_embedding,
    prepend_class_token,
    pretraining_head,
    self_attention,
)
from .config import ViTConfig
from .resnet import infer_stem, resnet_stem

Params = dict[str, Any]


def vit(
    images: Array,
    params: Params,
    config: ViTConfig,
    generator: np.random.Generator | None = None,
    watch: Watch | None = None,
) -> tuple[Array, Pullback]:
    """From pixels to logits, keeping what the way back needs.

    images (B, H, W, C)  ->  logits (B, K), or for a model without classes what `forward_features`
    gives; the pullback gives (dimages, dparams). Dropout is on if a generator is given.
    `watch` is shown "embedding", "blocks/0/attention/probabilities", in the pullback
    "blocks/0/attention/dprobabilities", "blocks/0/output", and so on; of a hybrid also
    "stem/root", "stem/stages/0/0/output", and so on.
    """
    z, embed_back = embed(images, params, config, generator, add_prefix(watch, "stem"))
    if watch:
        watch("embedding", z)
    blocks_back = []
    for i, block in enumerate(params["blocks"]):
        own, shown = config.of_block(i), add_prefix(watch, f"blocks/{i}")
        z, block_back = encoder_block(z, block, own, generator, shown)
        blocks_back.append(block_back)
    logits, classify_back = classify(z, params, config)

    def pullback(dlogits: Array) -> tuple[Array, Params]:
        dz, dparams = classify_back(dlogits)
        dblocks = []
        for block_back in reversed(blocks_back):
            dz, dblock = block_back(dz)
            dblocks.append(dblock)
        dimages, dembed = embed_back(dz)
        return dimages, {**dembed, "blocks": dblocks[::-1], **dparams}

    return logits, pullback


def infer(images: Array, params: Params, config: ViTConfig, watch: Watch | None = None) -> Array:
    """From pixels to logits, keeping nothing: each block's pullback is dropped at once."""
    x = images
    if config.stem is not None:
        x = infer_stem(x, params["stem"], add_prefix(watch, "stem"))
    z, _ = embed_map(x, params, config)
    for i, block in enumerate(params["blocks"]):
        z, _ = encoder_block(z, block, config, watch=add_prefix(watch, f"blocks/{i}"))
    return classify(z, params, config)[0]


def forward_features(images: Array, params: Params, config: ViTConfig) -> Array:
    """What the classifier is given, keeping nothing: y or, from the hidden layer, tanh(...).

    images (B, H, W, C)  ->  (B, D), or (B, R) if there is a hidden layer of R
    """
    return infer(images, {name: params[name] for name in params if name != "head"}, config)


def embed(
    images: Array,
    params: Params,
    config: ViTConfig,
    generator: np.random.Generator | None = None,
    watch: Watch | None = None,
) -> tuple[Array, Pullback]:
    """Equation 1.  images (B, H, W, C)  ->  z_0 (B, T, D)

    In a hybrid the patches are cut from the feature map of the stem, in a plain ViT from the
    image. `watch` is shown what the stem shows.
    """
    if config.stem is None:
        return embed_map(images, params, config, generator)
    features, stem_back = resnet_stem(images, params["stem"], watch)
    z, map_back = embed_map(features, params, config, generator)

    def pullback(dz: Array) -> tuple[Array, Params]:
        dfeatures, dparams = map_back(dz)
        dimages, dstem = stem_back(dfeatures)
        return dimages, {"stem": dstem, **dparams}

    return z, pullback


def embed_map(
    x: Array, params: Params, config: ViTConfig, generator: np.random.Generator | None = None
) -> tuple[Array, Pullback]:
    """Equation 1 for images or feature maps alike.  x (B, h, w, C)  ->  z_0 (B, T, D)"""
    kernel, bias = params["patch_embedding"]["kernel"], params["patch_embedding"].get("bias")
    patches, patches_back = patch_embedding(x, kernel, bias, config.patch_size)
    tokens, token_back = class_token(patches, params, config)
    z, positions_back = positions(tokens, params.get("positions"), config)
    z, drop_back = dropout(z, config.dropout, generator)

    def pullback(dz: Array) -> tuple[Array, Params]:
        dparams = {}
        dtokens = positions_back(drop_back(dz))
        if isinstance(dtokens, tuple):  # the kinds that learn something
            dtokens, dparams["positions"] = dtokens
        dpatches, dtoken = token_back(dtokens)
        dparams |= dtoken
        dx, dparams["patch_embedding"] = patches_back(dpatches)
        return dx, dparams

    return z, pullback


def class_token(x: Array, params: Params, config: ViTConfig) -> tuple[Array, Pullback]:
    """The class token in front of the patches, if the model pools by one."""
    if config.pooling == "class":
        return prepend_class_token(x, params["class_token"])
    return x, lambda dx: (dx, {})


def positions(
    x: Array, params: dict[str, Array] | None, config: ViTConfig
) -> tuple[Array, Pullback]:
    """E_pos in one of its kinds. `none` leaves x as it is, and so does `relative`, which acts
    inside each attention."""
    if config.positions == "1d":
        return add_positions(x, **params)
    if config.positions == "2d":
        return add_positions_2d(x, **params)
    if config.positions == "sincos2d":
        return add_positions_sincos2d(x, config.grid)
    return x, lambda dx: dx


def encoder_block(
    z: Array,
    params: Params,
    config: ViTConfig,
    generator: np.random.Generator | None = None,
    watch: Watch | None = None,
) -> tuple[Array, Pullback]:
    """Equations 2 and 3.  z_{l-1} (B, T, D)  ->  z_l (B, T, D)

    In training each branch is left out for some of the images, at the rate config.drop_path.
    """
    normed1, norm1_back = layer_norm(z, **params["norm1"], eps=config.norm_eps)
    mixed, attention_back = self_attention(
        normed1,
        **params["attention"],
        heads=config.heads,
        class_token=config.pooling == "class",
        rate=config.dropout,
        generator=generator,
        watch=add_prefix(watch, "attention"),
    )
    mixed, path1_back = drop_path(mixed, config.drop_path, generator)
    mid = z + mixed  # (2)
    normed2, norm2_back = layer_norm(mid, **params["norm2"], eps=config.norm_eps)
    thought, mlp_back = mlp(
        normed2, **params["mlp"], kind=config.gelu, rate=config.dropout, generator=generator
    )
    thought, path2_back = drop_path(thought, config.drop_path, generator)
    out = mid + thought  # (3)
    if watch:
        watch("output", out)

    def pullback(dout: Array) -> tuple[Array, Params]:
        dparams = {}
        dnormed2, dparams["mlp"] = mlp_back(path2_back(dout))
        dbranch, dparams["norm2"] = norm2_back(dnormed2)
        dmid = dout + dbranch  # the residual hands dout through
        dnormed1, dparams["attention"] = attention_back(path1_back(dmid))
        dbranch, dparams["norm1"] = norm1_back(dnormed1)
        return dmid + dbranch, dparams

    return out, pullback


def classify(z: Array, params: Params, config: ViTConfig) -> tuple[Array, Pullback]:
    """Equation 4 and the head.  z_L (B, T, D)  ->  logits (B, K), see `head`"""
    normed, norm_back = layer_norm(z, **params["norm"], eps=config.norm_eps)
    pool = class_pool if config.pooling == "class" else mean_pool
    y, pool_back = pool(normed)  # (4)  (B, D)
    logits, head_back = head(y, params)

    def pullback(dlogits: Array) -> tuple[Array, Params]:
        dy, dparams = head_back(dlogits)
        dz, dparams["norm"] = norm_back(pool_back(dy))
        return dz, dparams

    return logits, pullback


def head(y: Array, params: Params) -> tuple[Array, Pullback]:
    """As much of a head as the parameters have: a classifier, a hidden layer, both or neither.

    y (B, D)  ->  (B, K), (B, R), (B, K) or y itself
    """
    if "hidden" in params and "head" in params:
        return pretraining_head(y, params["hidden"], params["head"])
    if "hidden" not in params and "head" not in params:
        return y, lambda dy: (dy, {})
    name, layer = ("head", linear) if "head" in params else ("hidden", hidden_layer)
    out, layer_back = layer(y, **params[name])

    def pullback(dout: Array) -> tuple[Array, Params]:
        dy, dlayer = layer_back(dout)
        return dy, {name: dlayer}

    return out, pullback
