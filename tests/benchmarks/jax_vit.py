"""The same model in idiomatic JAX, with minivit's tree of parameters, as a contender."""

import jax
import jax.numpy as jnp
import numpy as np
from contenders import make_problem  # next to this file
from harness import Task

import minivit


def linear(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    return x @ kernel + bias


def layer_norm(x: jax.Array, scale: jax.Array, bias: jax.Array, eps: float) -> jax.Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + eps) * scale + bias


def attention(x: jax.Array, params: dict, heads: int) -> jax.Array:
    """Equations 5 to 8."""
    B, T, D = x.shape
    Dh = D // heads
    q, k, v = linear(x, **params["qkv"]).reshape(B, T, 3, heads, Dh).transpose(2, 0, 3, 1, 4)
    A = jax.nn.softmax(q @ k.swapaxes(-1, -2) * Dh**-0.5)
    return linear((A @ v).transpose(0, 2, 1, 3).reshape(B, T, D), **params["out"])


def mlp(x: jax.Array, params: dict, gelu: str) -> jax.Array:
    hidden = jax.nn.gelu(linear(x, **params["hidden"]), approximate=gelu == "tanh")
    return linear(hidden, **params["out"])


def vit(params: dict, images: jax.Array, c: minivit.ViTConfig) -> jax.Array:
    """Equations 1 to 4.  images (B, H, W, C)  ->  logits (B, K)"""
    B, H, W, C = images.shape
    P, eps = c.patch_size, c.norm_eps
    x = images.reshape(B, H // P, P, W // P, P, C).swapaxes(2, 3).reshape(B, -1, P * P * C)
    x = linear(x, **params["patch_embedding"])
    token = jnp.broadcast_to(params["class_token"], (B, 1, c.width))
    z = jnp.concatenate([token, x], 1) + params["positions"]["table"]
    for block in params["blocks"]:
        z = z + attention(layer_norm(z, **block["norm1"], eps=eps), block["attention"], c.heads)
        z = z + mlp(layer_norm(z, **block["norm2"], eps=eps), block["mlp"], c.gelu)
    return linear(layer_norm(z, **params["norm"], eps=eps)[:, 0], **params["head"])


class JAX:
    """JAX under jit."""

    def __call__(self, phase: str, config: minivit.ViTConfig, batch_size: int) -> Task:
        """Create the task of the phase "gradients"."""
        model, images, labels = make_problem(config, batch_size)
        arguments = jax.device_put((model.params, images, labels))

        @jax.jit
        @jax.value_and_grad
        def loss_and_gradients(params: dict, images: jax.Array, labels: jax.Array) -> jax.Array:
            log_p = jax.nn.log_softmax(vit(params, images, config))
            return -jnp.take_along_axis(log_p, labels[:, None], 1).mean()

        def gradients() -> tuple:
            return jax.block_until_ready(loss_and_gradients(*arguments))

        def results() -> dict[str, np.ndarray]:
            loss, tree = gradients()
            return {n: np.asarray(x) for n, x in (minivit.flatten(tree) | {"loss": loss}).items()}

        return Task(gradients, results)
