# %% [markdown]
# # 11. The whole backward pass, and how to trust it
#
# Chapter 10's forward pass is a chain, $f_n ( ... f_2 (f_1 (x)))$: patches, tokens, blocks, norm,
# pooling, head. Each link handed over a pullback, written $f_i^T$ here. By chapter 0's chain rule
# the last one is called first, and each gets the gradient that the one called before returned:
#
# $$ dx = f_1^T ( f_2^T ( ... f_n^T (dy))) $$
#
# This chapter walks that way once, and then asks why one should believe what arrives.

# %%
import tracemalloc

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit import layers, models
from minivit.analysis import save_figure
from minivit.training import StepOptions

rng = np.random.default_rng(11)
config = minivit.ViTConfig(4, 2, channels=1, classes=3, width=8, depth=2, heads=2, mlp_width=12)
params = minivit.ViT.create(config, dtype="float64").params
for leaf in minivit.flatten(params).values():
    leaf += 0.5 * rng.normal(size=leaf.shape)  # away from the initial zeros and ones
images = rng.normal(size=(2, 4, 4, 1))

# %% [markdown]
# ## The naive way
#
# As in chapter 0, a given $dlogits$ stands for the loss: it reacts as $s = dlogits · logits$ does.
# Move one pixel a little to both sides, see how $s$ moves, and go on to the next pixel. This needs
# two forward passes for each number that one can move.

# %%
logits, pullback = models.vit(images, params, config)
dlogits = rng.normal(size=logits.shape)
naive, h = np.zeros(images.shape), 1e-5
for index in np.ndindex(images.shape):
    step = np.zeros(images.shape)
    step[index] = h
    plus, _ = models.vit(images + step, params, config)
    minus, _ = models.vit(images - step, params, config)
    naive[index] = (dlogits * (plus - minus)).sum() / (2 * h)

dimages, dparams = pullback(dlogits)
assert abs(naive - dimages).max() < 1e-8 * abs(dimages).max()  # at least eight equal digits

# %% [markdown]
# The pullback gave all of them at once: every pixel's, and those of all parameters. It costs about
# two forward passes, for where `linear` has one product, its pullback has two of the same size.
#
# ## The walk back
#
# The links in order, each a function of what the one before it returned:

# %%
stages = {
    "patches": lambda x: layers.patch_embedding(x, **params["patch_embedding"], patch_size=2),
    "class_token": lambda x: layers.prepend_class_token(x, params["class_token"]),
    "positions": lambda x: layers.add_positions(x, **params["positions"]),
    "block 1": lambda z: models.encoder_block(z, params["blocks"][0], config),
    "block 2": lambda z: models.encoder_block(z, params["blocks"][1], config),
    "norm": lambda z: layers.layer_norm(z, **params["norm"]),
    "class_pool": layers.class_pool,
    "head": lambda y: layers.linear(y, **params["head"]),
}
value, backs = images, {}
for name, stage in stages.items():
    value, backs[name] = stage(value)
assert np.array_equal(value, logits)

# %%
gradient, stage_gradients = dlogits, {}
for name in reversed(backs):
    gradient = backs[name](gradient)
    if isinstance(gradient, tuple):  # (dx, {name: gradient})
        gradient, stage_gradients[name] = gradient
    print(f"{name:12} returns {gradient.shape}")
assert np.array_equal(gradient, dimages)
assert np.array_equal(stage_gradients["head"]["kernel"], dparams["head"]["kernel"])

# %% [markdown]
# Read `minivit/models/vit.py` with this list beside it: `classify`, the blocks from the last to the
# first, `embed`. Each link leaves its parameters' gradients behind and passes one array on. The
# last array has the shape of the images: which pixels, changed, would change the answer.
#
# ## Why differences stop short
#
# Expand $f(x + hv) = f + h f' + h^2 f'' / 2 + h^3 f''' / 6 + ...$ along a direction $v$. One step
# ahead minus where we are, over $h$, is off by $h f'' / 2$. Ahead minus behind, over $2h$, loses
# the even terms and is off by $h^2 f''' / 6$. Small $h$ helps, but both subtract two nearly equal
# numbers, each rounded to about $ε$ = 2e-16 of its size, and divide what rounding left by $h$.

# %% [markdown]
# With $f$ and its derivatives near 1, the errors are $h / 2 + ε / h$ and $h^2 / 6 + ε / h$. They
# are least where the slopes cancel: $h = \sqrt{2 ε}$ = 2e-8 in the first case, with an error as
# large; $h = (3 ε)^{1/3}$ = 9e-6 in the second, with an error of 4e-11.
#
# The complex step goes sideways, by $i h$. Since $i^2 = -1$,
#
# $$ f(x + i h v) = f + i h f' - h^2 f'' / 2 - i h^3 f''' / 6 + ... $$
#
# The imaginary part, over $h$, is $f' - h^2 f''' / 6$. Nothing is subtracted, so nothing cancels,
# and $h$ may be 1e-20: the error in $h$ is then 1e-40, and only $ε$ is left.

# %%
leaves = {"images": images, **minivit.flatten(params)}
v = {name: rng.normal(size=leaf.shape) for name, leaf in leaves.items()}
norm = np.sqrt(sum((leaf**2).sum() for leaf in v.values()))


def f(t):
    shifted = {name: leaf + t * v[name] / norm for name, leaf in leaves.items()}
    pixels = shifted.pop("images")
    return (dlogits * models.vit(pixels, minivit.unflatten(shifted), config)[0]).sum()


gradients = {"images": dimages, **minivit.flatten(dparams)}
derivative = sum((gradients[name] * v[name]).sum() for name in leaves) / norm

# %%
steps = 10.0 ** -np.arange(0, 20.5, 0.5)
methods = {
    "forward difference": ([(f(h) - f(0)) / h for h in steps], "C0o-"),
    "central difference": ([(f(h) - f(-h)) / (2 * h) for h in steps], "C1s--"),
    "complex step": ([f(1j * h).imag / h for h in steps], "C2^-."),
}
figure, axis = plt.subplots(figsize=(8, 3.8), layout="constrained")
for (name, (numeric, style)), bound in zip(methods.items(), (1e-6, 1e-9, 1e-13), strict=True):
    error = abs(np.array(numeric) - derivative) / abs(derivative)
    axis.loglog(steps, np.maximum(error, 1e-17), style, markersize=4, label=name)
    assert error.min() < bound
axis.set(xlabel="step size h (decreasing to the right)", ylabel="relative error of the derivative")
axis.invert_xaxis()
axis.legend()
save_figure(figure, "figures/11_whole_backward.png")

# %% [markdown]
# ![Three lines, error against step size: the two differences fall to 1e-8 and 1e-11 and rise again;
# the complex step's falls to 1e-16 and stays. Below 1e-17, it is drawn
# there](../figures/11_whole_backward.png)
#
# As derived, and for the whole model. (How large the rounding is depends on $f$, not on the slope.
# So small entries come out worse: the pixels above were right to about 1e-9 of the largest.)
#
# **What $f$ must be** for this: made of functions that have a power series. `abs`, `var`, `vdot`
# and conjugates drop the imaginary part or turn its sign; an array of a real dtype cannot hold it;
# complex numbers have no order, so comparisons are made on `.real`. The checker notices a loss:

# %%
try:
    minivit.gradcheck(lambda x: (abs(x), lambda dy: dy * np.sign(x)), rng.normal(size=3))
except TypeError as error:
    print(str(error)[:58], "...")

# %% [markdown]
# **Random directions.** Entry by entry, the model would need a forward pass for each of its
# numbers. Along one random $v$, all are tested at once. If the gradient is wrong by $e$, the slope
# is wrong by $e · v$, which is about as large as $e$ is long, and a million times smaller only once
# in a million draws. So `gradcheck`, given `directions`, moves each argument along that many:

# %%
errors = minivit.gradcheck(models.vit, images, params, config, directions=2)
print(f"{len(errors)} arguments, worst error {errors.worst:.0e}")
assert errors.worst < 1e-12

# %% [markdown]
# **A random cotangent.** A check of the *sum* of the outputs would pass chapter 5's pullback that
# returns zeros. So `gradcheck` draws a $dy$ instead, and that pullback does not get by.
#
# **What is the error?** Not each entry's own quotient: the key's bias has no gradient (chapter 6),
# so there one would divide rounding by rounding. It is the largest |analytic - numeric| of an
# argument, over the larger of its own largest |numeric| and 1e-3 of the largest of all arguments.

# %%
key_bias = dparams["blocks"][0]["attention"]["qkv"]["bias"][8:16]  # entries D to 2D of the bias
assert abs(key_bias).max() < 1e-13 * max(abs(leaf).max() for leaf in gradients.values())

# %% [markdown]
# ## What the pullbacks keep
#
# Every pullback waits for its turn with what it will need in its closure. That memory grows with
# the batch $B$ and the depth $L$. (The parameters are in it too: they would remain at $B = 0$.)


# %%
def create(L, dtype="float32", patch_size=2):
    sizes = {"image_size": 8, "channels": 1, "classes": 10, "width": 32, "mlp_width": 64}
    config = minivit.ViTConfig(**sizes, patch_size=patch_size, depth=L, heads=4)
    return minivit.ViT.create(config, dtype=dtype)


digits = minivit.data.load_digits()
for L in (2, 4, 8):
    retained = {}
    for B in (16, 32, 64):
        _, back = create(L).forward(digits.images[:B])
        retained[B] = minivit.list_retained(back).bytes
    print(f"L = {L}: " + ", ".join(f"B = {B}: {size / 1e6:.1f} MB" for B, size in retained.items()))
    assert retained[64] - retained[32] == 2 * (retained[32] - retained[16])  # linear in B

# %% [markdown]
# Inference calls the same functions and drops each pullback at once (`z, _ = encoder_block(...)`),
# so its memory does not grow with the depth. Python's `tracemalloc` notes the peak:

# %%
for forward in (models.vit, models.infer):
    peaks = []
    for model in (create(2), create(8)):
        tracemalloc.start()
        forward(digits.images[:64], model.params, model.config)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    print(f"~{forward.__name__}: L = 2 {peaks[0] / 1e6:.1f} MB, L = 8 {peaks[1] / 1e6:.1f} MB")
assert peaks[1] < 1.1 * peaks[0]

# %% [markdown]
# **Shards.** The loss of a batch is a mean over images, so a batch may be cut, each shard sent
# forward and back by itself, and the gradients added, if each image counts $1/B$ of the *whole*
# batch. That bounds the memory, and the shards can run at the same time, one on each core.

# %%
model, batch = create(4, "float64"), (digits.images[:64], digits.labels[:64])
model.params["head"]["kernel"][:] = rng.normal(size=(32, 10))  # a zero head stops the gradient
whole_loss, whole = minivit.training.loss_and_gradients(model, *batch, StepOptions(shards=1))
loss, parts = minivit.training.loss_and_gradients(model, *batch, StepOptions(shards=5))
parts = minivit.flatten(parts)
assert abs(loss - whole_loss) < 1e-12
assert all(abs(parts[n] - leaf).max() < 1e-12 for n, leaf in minivit.flatten(whole).items())

# %% [markdown]
# ## Exercises
#
# **Predict.** With patches of one pixel instead of 2 x 2 there are 65 tokens instead of 17. By what
# factor does the memory grow that the pullbacks keep? And how does the share of the matrices $A$?

# %%
bytes_of_A = {}
for P in (2, 1):
    retained = minivit.list_retained(create(4, patch_size=P).forward(digits.images[:64])[1])
    bytes_of_A[P] = sum(array.nbytes for name, array in retained.items() if name.endswith("/A"))
    print(
        f"P = {P}: {retained.bytes / 1e6:.1f} MB, of which A {bytes_of_A[P] / retained.bytes:.0%}"
    )
assert bytes_of_A[1] * 17**2 == bytes_of_A[2] * 65**2

# %% [markdown]
# About five-fold. What is kept for each token grows 3.8-fold, and $A$, with $T^2$ numbers a head,
# 14.6-fold, as chapter 1 counted: from an eighth of the memory to a third.
#
# **Write.** `complex_step(f, x, v)`, the directional derivative of `f` at `x` along `v`: the heart
# of the checker, in one line. `python -m minivit exercise 11 --start` puts a frame into
# `exercises/`; `python -m minivit exercise 11` grades it; `--hint` helps.
#
# **Ablation.** Half of the digits: in `f`, cast `shifted` to float32 (complex64 when complex). The
# best errors became 1e-4 ahead, 3e-5 ahead and behind, and 5e-8 for the complex step.
