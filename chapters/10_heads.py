# %% [markdown]
# # 10. One vector, one answer
#
# After $L$ blocks there are $T$ tokens for each image, and the question has one answer. Which
# vector should stand for the image? The paper's Equation 4 takes the class token of chapter 3,
# token 0, after one last layer norm:
#
# $$ y = \mathrm{LN}(z_L^0) $$
#
# On $y$ stands the head, which gives the $K$ logits. With it the Vision Transformer is complete.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit import layers, models, training
from minivit.analysis import save_figure

# %% [markdown]
# ## Two ways to pool
#
# Why should a token that shows no patch know the image? Because it may ask: in each block its
# query meets all keys, and it takes what it needs. At first it is the same for every image; all
# that it knows of one came through attention. (BERT has such a token, [CLS].) The other way is the
# mean over all patches; then there is no class token, and $T = N$. In loops:

# %%
rng = np.random.default_rng(10)
B, T, D, K = 3, 5, 8, 10
z = rng.normal(size=(B, T, D))
first, mean = np.zeros((B, D)), np.zeros((B, D))
for b in range(B):
    first[b] = z[b, 0]
    for t in range(T):
        mean[b] += z[b, t] / T
assert np.array_equal(layers.class_pool(z)[0], first)
assert abs(layers.mean_pool(z)[0] - mean).max() < 1e-13

# %% [markdown]
# Layer norm treats each token by itself. So whether it comes before `class_pool` or after makes no
# difference, except in work. With the mean it does: the mean of normed tokens is not the norm of
# their mean. The authors norm first, and so does minivit.

# %%
scale, bias = rng.normal(size=(2, D))
normed, _ = layers.layer_norm(z, scale, bias)
for pool in (layers.class_pool, layers.mean_pool):
    difference = abs(pool(normed)[0] - layers.layer_norm(pool(z)[0], scale, bias)[0]).max()
    print(f"{pool.__name__}: commutes with layer norm: {difference <= 1e-12}")
    assert (difference > 1e-12) == (pool is layers.mean_pool)

# %% [markdown]
# The paper's appendix D.3 compares the two. At a learning rate of 0.0008 the mean is clearly worse,
# but at 0.0003 it ends level with the class token at 0.0008: it only wanted another rate.
#
# Their pullbacks follow from who was read. `class_pool` read one token, so $dz$ holds $dy$ in row 0
# and zeros elsewhere. `mean_pool` read each token with the weight $1 / N$: each gets $dy / N$.

# %%
dy = rng.normal(size=(B, D))
dfirst, dmean = layers.class_pool(z)[1](dy), layers.mean_pool(z)[1](dy)
assert np.array_equal(dfirst[:, 0], dy)
assert not dfirst[:, 1:].any()
assert np.array_equal(dmean, np.repeat(dy[:, None] / T, T, axis=1))

# %% [markdown]
# ## Two heads
#
# The paper's models are trained twice. In *pre-training*, on a very large data set, the head has a
# hidden layer of $R$ entries with a tanh, as BERT's has. In *fine-tuning*, on the data set that is
# asked about, it is replaced by a single linear layer, whose kernel starts at zero:
#
# $$ \mathrm{logits} = \mathrm{tanh}(y W_1 + b_1) W_2 + b_2, \qquad \mathrm{logits} = y W + b $$
#
# With $h = y W_1 + b_1$ and $t = \mathrm{tanh}(h)$, the way back through the tanh multiplies by
# $1 - t^2$. Where $t$ is near 1 or -1 hardly anything passes; such an entry has made up its mind.


# %%
def affine(n, m):
    return {"kernel": rng.normal(size=(n, m)) / n**0.5, "bias": rng.normal(size=m)}


y, hidden, head = rng.normal(size=(B, D)), affine(D, 6), affine(6, K)
t = np.tanh(y @ hidden["kernel"] + hidden["bias"])
logits, pullback = layers.pretraining_head(y, hidden, head)
assert abs(logits - (t @ head["kernel"] + head["bias"])).max() < 1e-12
dlogits = rng.normal(size=logits.shape)
dh = dlogits @ head["kernel"].T * (1 - t * t)
assert abs(pullback(dlogits)[0] - dh @ hidden["kernel"].T).max() < 1e-12

# %% [markdown]
# **A zero head.** All logits are 0, so each class has the probability $1 / K$ and the loss is
# $\mathrm{log}(K)$, whatever the image: a free test of any training that begins this way. And $dy$
# is $dlogits · W^T$, hence zero: in the first step nothing but the head learns.

# %%
zero_head, labels = np.zeros((D, K)), np.array([3, 1, 4])
logits, head_back = layers.linear(y, zero_head, np.zeros(K))
loss, loss_back = layers.cross_entropy(logits, labels)
dy, dhead = head_back(loss_back())
print(f"loss {loss:.6f}, ln 10 is {np.log(10):.6f}")
assert abs(loss - np.log(K)) < 1e-12
assert not dy.any()
assert dhead["kernel"].any()

# %% [markdown]
# The library's `classify` is the last norm, the pooling and the head. Checked with the tanh layer,
# in both ways to pool:

# %%
for pooling in ("class", "mean"):
    R, K = head["kernel"].shape
    config = minivit.ViTConfig(
        8, patch_size=2, channels=1, classes=K, width=D, heads=2, pooling=pooling, hidden_head=R
    )
    params = {"norm": {"scale": scale, "bias": bias}, "hidden": hidden, "head": head}
    errors = minivit.gradcheck(models.classify, z, params, config)
    print(f"{pooling}: {errors.worst:.0e}")
    assert errors.worst < 1e-12

# %% [markdown]
# ## The whole Vision Transformer
#
# Equations 1 to 4, from pixels to logits. Nothing in it is new.


# %%
def forward(images, params, config):
    P = config.patch_size
    patches, _ = layers.patch_embedding(images, **params["patch_embedding"], patch_size=P)
    tokens, _ = layers.prepend_class_token(patches, params["class_token"])
    z, _ = layers.add_positions(tokens, **params["positions"])  # (1)
    for block in params["blocks"]:
        z, _ = models.encoder_block(z, block, config)  # (2), (3)
    normed, _ = layers.layer_norm(z, **params["norm"])
    y, _ = layers.class_pool(normed)  # (4)
    return layers.linear(y, **params["head"])[0]


# %% [markdown]
# `minivit.ViT` holds a config and the tree of parameters, drawn as the authors draw them, with a
# zero head; but the positions have the deviation 1 (see chapter 3). The head is drawn here, to
# compare more than zeros.

# %%
digits = minivit.data.load_digits()
sizes = {
    "image_size": 8,
    "patch_size": 2,
    "channels": 1,
    "classes": K,
    "width": 32,
    "depth": 4,
    "heads": 4,
    "mlp_width": 64,
    "position_std": 1.0,
}
model = minivit.ViT.create(minivit.ViTConfig(**sizes), seed=0)
model.params["head"]["kernel"][:] = rng.normal(size=(32, K)) / 32**0.5
images = digits.held_out_images[:64]
logits, pullback = model.forward(images)
assert abs(forward(images, model.params, model.config) - logits).max() < 1e-4
assert pullback(logits)[0].shape == images.shape  # gradient of the pixels

# %% [markdown]
# **How many parameters?** For ViT-B/16 on images of 224 x 224 x 3: 12 blocks, $D$ = 768, $M$ =
# 3072, $N$ = 14 · 14 patches and 1000 classes. The paper's Table 1 says 86M.

# %%
L, D, M, P, N = 12, 768, 3072, 16, 14 * 14
block = (D * 3 * D + 3 * D) + (D * D + D) + (D * M + M) + (M * D + D) + 2 * 2 * D
parts = {
    "patches": P * P * 3 * D + D,
    "class token": D,
    "positions": (N + 1) * D,
    "blocks": L * block,
    "norm": 2 * D,
    "head": D * 1000 + 1000,
}
print(f"{parts['blocks']:,} parameters in the blocks, {sum(parts.values()):,} in total")
assert sum(parts.values()) == 86_567_656
assert models.parameter_count(minivit.ViTConfig.named("ViT-B/16")) == 86_567_656

# %% [markdown]
# ## Where the gradient is
#
# Send a random $dlogits$ back through a model that is not yet trained, once for each way to pool.
# How long is the gradient of each token of $z_0$ to $z_4$, on average over 64 digits?


# %%
def gradient_map(pooling):
    config = minivit.ViTConfig(**sizes, pooling=pooling)
    params = minivit.ViT.create(config, seed=0).params
    params["head"] = {**params["head"], "kernel": affine(32, K)["kernel"]}
    z, _ = models.embed(images, params, config)
    backs = []
    for block in params["blocks"]:
        z, back = models.encoder_block(z, block, config)
        backs.append(back)
    logits, back = models.classify(z, params, config)
    rows = [back(np.random.default_rng(0).normal(size=logits.shape))[0]]
    for back in reversed(backs):
        rows.append(back(rows[-1])[0])
    return np.linalg.norm(rows[::-1], axis=-1).mean(1)  # (L + 1, T)


# %%
maps = [gradient_map("class"), gradient_map("mean")]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for axis, norms, name in zip(axes, maps, ("class token", "mean"), strict=True):
    shown = axis.imshow(norms, norm="log", cmap="viridis", origin="lower", aspect="auto")
    shown.set_clim(0.03, 3)
    axis.set(xlabel=f"token (pooling: {name})", xticks=range(0, norms.shape[1], 4))
    axis.set(yticks=range(5), yticklabels=["z₀", "z₁", "z₂", "z₃", "z₄"])
figure.colorbar(shown, ax=axes, label="norm of the gradient")
save_figure(figure, "figures/10_heads.png")
assert not maps[0][4, 1:].any()
assert maps[0][:4].all()

# %% [markdown]
# ![Two maps of the gradient, blocks upwards and tokens to the right: with a class token the top row
# is white but for token 0; with the mean, each row is nearly even](../figures/10_heads.png)
#
# White is exactly zero. With a class token, no patch's output after the last block is read by
# anyone. The patches are heard one block earlier, as the keys and values that the class token's
# query meets, and so the row below is lit everywhere. The mean reads all alike.

# %% [markdown]
# ## The model so far
#
# Now it is `minivit.ViT` with the class token. (For a linear model on pixels the digits are easy.)

# %%
config = minivit.ViTConfig(**sizes, pooling="class")
params = minivit.ViT.create(config, seed=0).params
accuracy = training.train_sgd(
    lambda images, params: models.vit(images, params, config),
    params,
    digits,
    epochs=20,
    batch_size=64,
    learning_rate=0.1,
    seed=0,
)[-1]
print(
    f"the model so far: held-out accuracy {accuracy:.1%} "
    f"(logistic regression on the pixels: {training.fit_logistic_regression(digits):.1%})"
)
assert accuracy > 0.95

# %% [markdown]
# ## Exercises
#
# **Predict.** Pool by the class token. In the *last* block, each token has a query, a key, a value
# and a row in the MLP. Which tokens' queries are told how to ask better? Whose keys and values get
# a gradient? (`watch` shows $dA$, of shape (1, k, T, T).)

# %%
z, block = rng.normal(size=(1, 17, 32)), model.params["blocks"][3]
dz = layers.class_pool(z)[1](rng.normal(size=(1, 32)))  # gradient of the block's output
recorded = {}
_, back = models.encoder_block(z, block, model.config, watch=recorded.__setitem__)
back(dz)
dA = abs(recorded["attention/dprobabilities"]).max(axis=(0, 1)) > 0  # (T, T)
print("queries that receive a gradient:", np.flatnonzero(dA.any(1)))
print("keys and values that receive a gradient:", np.flatnonzero(dA.any(0)))
assert dA[0].all()
assert not dA[1:].any()

# %% [markdown]
# The class token's query only, but all keys and values, for that query met them all. The MLP is
# like the queries: as $dz$ is 0 in the other 16 rows, those are computed for nothing.
#
# **Write.** `attention_pool(z, probe)`: a learned vector $p$ asks all tokens. The weights are the
# softmax of $z · p / \sqrt{D}$ over the tokens, and $y$ is the weighted mean: between the class
# token, which asks, and the mean, which does not. `python -m minivit exercise 10 --start` puts a
# frame into `exercises/`; `python -m minivit exercise 10` grades it; `--hint` helps.
#
# **Ablation.** Pool by the mean; change `rate`. At 0.05, 0.1 and 0.2 the class token gave 98.3,
# 97.5 and 97.2%, the mean 93.3, 96.4 and 96.9%: here it is the mean that wants the larger rate.
