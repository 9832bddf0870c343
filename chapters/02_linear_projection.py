# %% [markdown]
# # 2. The linear projection
#
# A patch is a row of $P^2 C$ numbers. The model works with tokens of $D$ numbers, its *width*. So
# the first thing it learns is a matrix $E$ that turns the one into the other. It stands in the
# paper's Equation 1, once for each patch:
#
# $$ x_p^1 E, \qquad x_p^2 E, \qquad ..., \qquad x_p^N E, \qquad E ∈ ℝ^{P^2 C × D} $$
#
# (Chapter 3 brings the rest of Equation 1.) One matrix serves all patches of all images. How does
# each of its entries learn what to do? And what can a model know that has nothing but $E$?

# %%
import math

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure
from minivit.layers import cross_entropy, linear, mean_pool, patchify, unpatchify
from minivit.training import fit_logistic_regression, train_sgd

# %% [markdown]
# The paper writes no *bias* in its equations, but its code has one: a vector `b` of D numbers,
# added to every token. In loops, and by the library's `linear`, which calls the matrix `kernel`:


# %%
def linear_by_hand(x, E, b):  # x (N, I), E (I, D), b (D,): I inputs, D outputs
    y = np.zeros((len(x), E.shape[1]))
    for n in range(len(x)):
        for d in range(E.shape[1]):
            y[n, d] = b[d]
            for i in range(E.shape[0]):
                y[n, d] += x[n, i] * E[i, d]
    return y


rng = np.random.default_rng(0)
x, E, b = rng.normal(size=(5, 4)), rng.normal(size=(4, 3)), rng.normal(size=3)
y, linear_back = linear(x, E, b)  # (5, 3)
assert abs(y - linear_by_hand(x, E, b)).max() < 1e-13

# %% [markdown]
# ## The gradient of a product
#
# One entry of the product is $y_{nd} = Σ_i x_{ni} E_{id} + b_d$. Ask of each input which outputs
# it enters, and with what factor; chapter 0's rule then adds up what comes back.
#
# - $E_{id}$ enters $y_{nd}$ for every row $n$, with the factor $x_{ni}$. So
#   $dE_{id} = Σ_n x_{ni} dy_{nd}$, a sum over all rows, all patches of all images.
# - $x_{ni}$ enters $y_{nd}$ for every $d$, with factor $E_{id}$: $dx_{ni} = Σ_d dy_{nd} E_{id}$.
# - $b_d$ enters $y_{nd}$ for every row, with the factor 1: $db_d = Σ_n dy_{nd}$.
#
# $$ dE = x^T dy, \qquad dx = dy E^T, \qquad db = \mathrm{sum}(dy) $$

# %%
dy = rng.normal(size=y.shape)
dx, dparams = linear_back(dy)
dE = sum(np.outer(x[n], dy[n]) for n in range(len(x)))  # row n contributes x_ni dy_nd
assert abs(dparams["kernel"] - dE).max() < 1e-13
assert abs(dparams["bias"] - dy.sum(0)).max() < 1e-13
assert abs(dx - dy @ E.T).max() < 1e-13
assert minivit.gradcheck(linear, x, E, b).worst < 1e-12

# %% [markdown]
# ## The same thing is a convolution
#
# Much code calls this layer a convolution: a small window slides over the image, and at each stop
# its pixels are multiplied by weights and summed, D times with different weights. If the window and
# its step (the *stride*) are as large as a patch, the stops are the patches, the weights are $E$.


# %%
def convolution(images, weights, stride):  # weights (P, P, C, D)
    P, side, outputs = len(weights), images.shape[1], []
    for top in range(0, side - P + 1, stride):
        for left in range(0, side - P + 1, stride):
            window = images[:, top : top + P, left : left + P, :, None]
            outputs.append((window * weights).sum((1, 2, 3)))  # (B, D)
    return np.stack(outputs, axis=1)  # (B, N, D)


images = rng.normal(size=(2, 6, 6, 3))
E27 = rng.normal(size=(3 * 3 * 3, 7))
tokens, _ = linear(patchify(images, 3)[0], E27)  # (2, 4, 7)
outputs = convolution(images, E27.reshape(3, 3, 3, 7), stride=3)
assert abs(tokens - outputs).max() < 1e-13

# %% [markdown]
# ## A loss
#
# To learn, $E$ needs a loss. Let the last layer give $K$ numbers for each image, one for each of
# $K$ classes: the *logits*. The *softmax* makes probabilities of them, positive and with the sum 1.
# The *cross-entropy* is minus the logarithm of what the right class $t$ got, averaged over the $B$
# images. For one image with logits $y$:
#
# $$ p_c = e^{y_c} / Σ_j e^{y_j}, \qquad \mathrm{loss} = -\mathrm{log}(p_t) $$

# %% [markdown]
# The logarithm takes the quotient apart: the loss is $\mathrm{log}(Σ_j e^{y_j}) - y_t$. Along $y_c$
# the first term has the slope $e^{y_c} / Σ_j e^{y_j}$, which is $p_c$ again. The second takes away
# 1, at $c = t$ only. So the gradient is what the model says minus what is true (`target` is 1 at
# the right class and 0 elsewhere), and the mean over the images divides it by $B$:
#
# $$ dy = (p - \mathrm{target}) / B $$

# %%
logits, labels = rng.normal(size=(4, 3)), np.array([0, 2, 1, 2])
loss, loss_back = cross_entropy(logits, labels)
p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)  # (B, K)
target = np.eye(3)[labels]  # one-hot labels, (B, K)
assert abs(loss + np.log(p[range(4), labels]).mean()) < 1e-13
assert abs(loss_back() - (p - target) / 4).max() < 1e-13  # dloss defaults to 1
assert minivit.gradcheck(cross_entropy, logits, labels).worst < 1e-12

# %% [markdown]
# ## Descent
#
# The gradient says in which direction the loss grows. So go a little way in the other one, and
# again: *gradient descent*. The *rate* says how far. Here it is in full, for the smallest model
# there is: $E$ has ten columns, and a patch times $E$ gives the ten logits at once.


# %%
def gradient_descent(x, labels, steps=100, learning_rate=0.1):
    E, b = np.zeros((x.shape[1], 10)), np.zeros(10)
    for step in range(steps):
        logits, linear_back = linear(x, E, b)
        loss, loss_back = cross_entropy(logits, labels)
        if step % 33 == 0:
            print(f"{len(E)} inputs, step {step:2}: loss {loss:.3f}")
        _, gradients = linear_back(loss_back())
        E -= learning_rate * gradients["kernel"]
        b -= learning_rate * gradients["bias"]
    return E, b


# %% [markdown]
# With P = 8 the patch is the whole image. The first loss is $\mathrm{log}(10)$: while $E = 0$, each
# class gets a tenth. With P = 4 an image has four patches, and we take their mean.

# %%
digits = minivit.data.load_digits()
pixels = patchify(digits.images, 8)[0][:, 0].astype(float)  # (1437, 64)
E8, b8 = gradient_descent(pixels, digits.labels)
E4, b4 = gradient_descent(patchify(digits.images, 4)[0].mean(1, dtype=float), digits.labels)
held_out_pixels = patchify(digits.held_out_images, 8)[0][:, 0]
accuracy = np.mean((held_out_pixels @ E8 + b8).argmax(1) == digits.held_out_labels)
print(f"P = 8: held-out accuracy {accuracy:.1%}")
assert accuracy > 0.9

# %%
means = np.stack([pixels[digits.labels == c].mean(0) for c in range(10)], axis=1)
figure, axes = plt.subplots(3, 10, figsize=(9, 3.2), layout="constrained")
names = ["mean image", "E, P = 8", "E, P = 4"]
for row, name, table in zip(axes, names, [means, E8, E4], strict=True):
    side, top = math.isqrt(len(table)), abs(table).max()
    row[0].set_ylabel(name)
    for c in range(10):
        shown = row[c].imshow(
            table[:, c].reshape(side, side),
            vmin=-top,
            vmax=top,
            cmap="gray" if name == "mean image" else "RdBu_r",
        )
        row[c].set(xticks=[], yticks=[])
figure.colorbar(shown, ax=axes[1:], ticks=[-top, top]).ax.set_yticklabels(
    ["lowers the logit", "raises the logit"]
)
save_figure(figure, "figures/02_linear_projection.png")

# %% [markdown]
# ![The ten digits' mean images, and the trained columns of E as images: ink where a column is red
# speaks for the digit, where it is blue against it. For P = 8, a 0 has no ink in its middle, a 7
# none at the bottom right. For P = 4, the four quarters of a digit lie on one another, and no digit
# can be seen in E.](../figures/02_linear_projection.png)
#
# A column of E is a template with which a patch is compared. In a larger model the columns stand
# for no class, but for what serves the layers above. (Figure 7 of the paper: their main patterns.)
#
# `minivit.training.train_sgd` is this loop, but each step looks at a *batch* of at most 64 images,
# drawn at random, which is cheaper. Once through all of them, 23 batches, is an *epoch*. It changes
# the parameters in place and returns the share of held-out images named rightly, epoch by epoch.

# %% [markdown]
# ## The model so far
#
# Now with small patches, P = 2, and D = 32. A classifier wants one vector for each image: take the
# mean of the tokens (`mean_pool`; on the way back each of the N receives dy / N), and let a second
# `linear` make the logits. It is called *head* too, but is no kin to the heads of chapter 1.


# %%
def model(images, params):
    P = math.isqrt(len(params["patch_embedding"]["kernel"]))
    patches, patchify_back = patchify(images, P)  # (B, N, P P)
    z, embedding_back = linear(patches, **params["patch_embedding"])  # (B, N, D)
    y, pool_back = mean_pool(z)  # (B, D)
    logits, head_back = linear(y, **params["head"])  # (B, K)

    def pullback(dlogits):
        dy, dhead = head_back(dlogits)
        dpatches, dembedding = embedding_back(pool_back(dy))
        return patchify_back(dpatches), {"patch_embedding": dembedding, "head": dhead}

    return logits, pullback


# %%
def create_params(P, D=32, K=10):
    E = np.random.default_rng(0).normal(size=(P * P, D)) / P  # 1 / √(inputs)
    embedding = {"kernel": E.astype("float32"), "bias": np.zeros(D, "float32")}
    head = {"kernel": np.zeros((D, K), "float32"), "bias": np.zeros(K, "float32")}
    return {"patch_embedding": embedding, "head": head}


params = create_params(P=2)
head = {"kernel": rng.normal(size=(32, 10)), "bias": np.zeros(10)}  # a zero head would make dE zero
assert minivit.gradcheck(model, images[:1, :4, :4, :1], params | {"head": head}).worst < 1e-12

accuracy = train_sgd(model, params, digits, epochs=20, batch_size=64, learning_rate=0.1, seed=0)[-1]
print(
    f"the model so far: held-out accuracy {accuracy:.1%} "
    f"(logistic regression on the pixels: {fit_logistic_regression(digits):.1%})"
)
assert 0.11 < accuracy < 0.25

# %% [markdown]
# Guessing gives 10%. (*Logistic regression* is our first model, P = 8, trained longer. Digits this
# small are easy if each pixel is seen in its place.) Why so bad? The same E serves every patch, so
#
# $$ \mathrm{mean}(x_p^n E + b) = \mathrm{mean}(x_p^n) E + b $$
#
# All that the model knows of an image is its *mean patch*: four numbers, in which the pixels of 16
# places lie on one another. It forgets where everything was. Patience does not help: with
# `epochs=200, learning_rate=0.5` we measured 20.3%. Chapter 3 gives each patch a place.

# %%
patches, _ = patchify(digits.images[:1], 2)
shuffled, _ = unpatchify(patches[:, np.random.default_rng(5).permutation(16)], 2, 8, 8)
logits, _ = model(np.concatenate([digits.images[:1], shuffled]), params)
assert abs(logits[0] - logits[1]).max() < 1e-5  # invariant to the order of the patches

# %% [markdown]
# ## Exercises
#
# **Predict.** The same model with P = 1, 4 and 8 knows 1, 16 and 64 numbers of an image. How good?

# %%
for P in 1, 4, 8:
    accuracy = train_sgd(
        model, create_params(P), digits, epochs=20, batch_size=64, learning_rate=0.1, seed=0
    )[-1]
    print(f"P = {P}: held-out accuracy {accuracy:.0%}")
assert accuracy > 0.95

# %% [markdown]
# Inside a patch every pixel has its place, a row of E. A single patch of 8 x 8 forgets nothing. But
# the E of an image of 224 x 224 x 3 would have 150,528 rows, and the sequence one token.
#
# **Write.** `low_rank_linear(x, down, up)`: y = x down up, where `down` has r columns and `up` r
# rows. For a small r, the two have far fewer numbers than one full matrix.
# `python -m minivit exercise 2 --start` puts a frame into `exercises/`;
# `python -m minivit exercise 2` grades it; `--hint` helps.
#
# **Ablation.** Leave E out of `model`: the head reads the mean patch itself. Two linear maps in a
# row are one, so E adds nothing that the head could not do; only, with it the model learns faster.
# After 20 epochs we measured 10.3% without E; after 200, at rate 0.5, 20.6% without, 20.3% with.
