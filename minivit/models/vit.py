"""The Vision Transformer, Equations 1 to 4, forward and backward.

z_0  = [x_class; x_p^1 E; ...; x_p^N E] + E_pos                (1)
z'_l = MSA(LN(z_{l-1})) + z_{l-1},      l = 1 .. L             (2)
z_l  = MLP(LN(z'_l)) + z'_l,            l = 1 .. L             (3)
y    = LN(z_L^0)                                               (4)

A name that ends in `_back` is the pullback of a layer.
"""

import dataclasses
from typing import Any

import numpy as np

from ..arrays import Array, Pullback, Watch, add_prefix
from ..layers.attention import self_attention
from ..layers.dropout import drop_path, dropout
from ..layers.embedding import patch_embedding, prepend_class_token
from ..layers.heads import class_pool, hidden_layer, mean_pool, pretraining_head
from ..layers.layer_norm import layer_norm
from ..layers.linear import linear
from ..layers.mlp import mlp
from ..layers.positions import add_positions, add_positions_2d, add_positions_sincos2d
from .config import ViTConfig
from .resnet import resnet_stem

Params = dict[str, Any]


def vit(
    images: Array, params: Params, config: ViTConfig,
    generator: np.random.Generator | None = None, watch: Watch | None = None,
) -> tuple[Array, Pullback]:  # fmt: skip
    """Compute the logits and the pullback, which returns (dimages, dparams).

    images (B, H, W, C)  ->  logits (B, K), or features as in `forward_features` without classes
    Dropout and drop path are active if a generator is given. `watch` receives "embedding",
    "blocks/0/attention/probabilities", "blocks/0/output", ..., "tokens" (after the final norm) and,
    in the pullback, "blocks/0/attention/dprobabilities". For a hybrid it also receives "stem/root",
    "stem/stages/0/0/output", ...
    """
    z, embed_back = embed(images, params, config, generator, watch)
    blocks_back = []
    for i, block in enumerate(params["blocks"]):
        rate, watch_block = config.drop_path_of_block(i), add_prefix(watch, f"blocks/{i}")
        z, block_back = encoder_block(z, block, config, rate, generator, watch_block)
        blocks_back.append(block_back)
    logits, classify_back = classify(z, params, config, watch)

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
    """Compute the logits without a pullback.  images (B, H, W, C)  ->  logits (B, K)

    Each block's pullback is discarded immediately to save memory.
    """
    z, _ = embed(images, params, config, watch=watch, retain=False)
    for i, block in enumerate(params["blocks"]):
        z, _ = encoder_block(z, block, config, watch=add_prefix(watch, f"blocks/{i}"))
    return classify(z, params, config, watch)[0]


def forward_features(images: Array, params: Params, config: ViTConfig) -> Array:
    """Compute the input of the classifier: y, or the hidden layer's output if there is one.

    images (B, H, W, C)  ->  (B, D), or (B, R) with a hidden layer of width R
    """
    return infer(images, params, dataclasses.replace(config, classes=None))


def embed(
    images: Array, params: Params, config: ViTConfig, generator: np.random.Generator | None = None,
    watch: Watch | None = None, retain: bool = True,
) -> tuple[Array, Pullback]:  # fmt: skip
    """Equation 1.  images (B, H, W, C)  ->  z_0 (B, T, D)

    A hybrid cuts patches from the feature map of its stem, a plain ViT from the image. Without
    `retain`, the stem's pullback is discarded, and the returned pullback must not be called.
    """
    features, stem_back = apply_stem(images, params, config, watch, retain)
    kernel, bias = params["patch_embedding"]["kernel"], params["patch_embedding"].get("bias")
    patches, patches_back = patch_embedding(features, kernel, bias, config.patch_size)
    tokens, token_back = add_class_token(patches, params, config)
    positioned, positions_back = add_position_embeddings(tokens, params, config)
    z, drop_back = dropout(positioned, config.dropout, generator)
    if watch:
        watch("embedding", z)

    def pullback(dz: Array) -> tuple[Array, Params]:
        dtokens, dpositions = positions_back(drop_back(dz))
        dpatches, dtoken = token_back(dtokens)
        dfeatures, dpatch_embedding = patches_back(dpatches)
        dimages, dstem = stem_back(dfeatures)
        return dimages, {**dstem, "patch_embedding": dpatch_embedding, **dtoken, **dpositions}

    return z, pullback


def apply_stem(
    images: Array, params: Params, config: ViTConfig, watch: Watch | None, retain: bool
) -> tuple[Array, Pullback]:
    """Apply the hybrid's ResNet. A plain ViT has none; the images are returned unchanged."""
    if config.stem is None:
        return images, lambda dx: (dx, {})
    watch_stem = add_prefix(watch, "stem")
    return nest_gradients("stem", *resnet_stem(images, params["stem"], watch_stem, retain))


def add_class_token(x: Array, params: Params, config: ViTConfig) -> tuple[Array, Pullback]:
    """Prepend the class token if the model has one.  x (B, N, D)  ->  (B, T, D)"""
    if config.pooling == "class":
        return prepend_class_token(x, params["class_token"])
    return x, lambda dx: (dx, {})


def add_position_embeddings(x: Array, params: Params, config: ViTConfig) -> tuple[Array, Pullback]:
    """Add E_pos in one of its variants.  x (B, T, D)  ->  (B, T, D)

    `none` and `relative` add nothing here; relative positions are part of each attention layer.
    """
    if config.positions in ("none", "relative"):
        return x, lambda dx: (dx, {})
    if config.positions == "sincos2d":
        return add_positions_sincos2d(x, config.grid)
    add = add_positions if config.positions == "1d" else add_positions_2d
    return nest_gradients("positions", *add(x, **params["positions"]))


def nest_gradients(name: str, value: Array, value_back: Pullback) -> tuple[Array, Pullback]:
    """Nest the parameter gradients that a pullback returns: (dx, {name: dparams})."""

    def pullback(dvalue: Array) -> tuple[Array, Params]:
        dx, dparams = value_back(dvalue)
        return dx, {name: dparams}

    return value, pullback


def encoder_block(
    z: Array, params: Params, config: ViTConfig, drop_path_rate: float = 0.0,
    generator: np.random.Generator | None = None, watch: Watch | None = None,
) -> tuple[Array, Pullback]:  # fmt: skip
    """Equations 2 and 3.  z_{l-1} (B, T, D)  ->  z_l (B, T, D)

    Dropout and drop path are active if a generator is given.
    """
    normed1, norm1_back = layer_norm(z, **params["norm1"], eps=config.norm_eps)
    attn_out, attention_back = self_attention(
        normed1, **params["attention"], heads=config.heads, class_token=config.pooling == "class",
        rate=config.dropout, generator=generator, watch=add_prefix(watch, "attention"),
    )  # fmt: skip
    attn_out, path1_back = drop_path(attn_out, drop_path_rate, generator)
    mid = z + attn_out  # (2)
    normed2, norm2_back = layer_norm(mid, **params["norm2"], eps=config.norm_eps)
    mlp_out, mlp_back = mlp(
        normed2, **params["mlp"], kind=config.gelu, rate=config.dropout, generator=generator
    )
    mlp_out, path2_back = drop_path(mlp_out, drop_path_rate, generator)
    out = mid + mlp_out  # (3)
    if watch:
        watch("output", out)

    def pullback(dout: Array) -> tuple[Array, Params]:
        dparams = {}
        dnormed2, dparams["mlp"] = mlp_back(path2_back(dout))
        dbranch, dparams["norm2"] = norm2_back(dnormed2)
        dmid = dout + dbranch  # the residual connection passes dout on unchanged
        dnormed1, dparams["attention"] = attention_back(path1_back(dmid))
        dbranch, dparams["norm1"] = norm1_back(dnormed1)
        return dmid + dbranch, dparams

    return out, pullback


def classify(
    z: Array, params: Params, config: ViTConfig, watch: Watch | None = None
) -> tuple[Array, Pullback]:
    """Equation 4 and the head.  z_L (B, T, D)  ->  logits (B, K), or features as in `apply_head`"""
    normed, norm_back = layer_norm(z, **params["norm"], eps=config.norm_eps)
    if watch:
        watch("tokens", normed)
    pool = class_pool if config.pooling == "class" else mean_pool
    y, pool_back = pool(normed)  # (4)  (B, D)
    logits, head_back = apply_head(y, params, config)

    def pullback(dlogits: Array) -> tuple[Array, Params]:
        dy, dparams = head_back(dlogits)
        dz, dparams["norm"] = norm_back(pool_back(dy))
        return dz, dparams

    return logits, pullback


def apply_head(y: Array, params: Params, config: ViTConfig) -> tuple[Array, Pullback]:
    """Apply the hidden layer and the classifier. Each is optional.

    y (B, D)  ->  (B, K) with a classifier; else (B, R) with a hidden layer; else y itself
    """
    has_hidden, has_classes = config.hidden_head is not None, config.classes is not None
    if has_hidden and has_classes:
        return pretraining_head(y, params["hidden"], params["head"])
    if not has_hidden and not has_classes:
        return y, lambda dy: (dy, {})
    name, layer = ("head", linear) if has_classes else ("hidden", hidden_layer)
    return nest_gradients(name, *layer(y, **params[name]))
