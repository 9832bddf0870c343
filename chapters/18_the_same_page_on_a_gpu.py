# %% [markdown]
# # 18. The same page on a GPU
#
# Chapter 17 left two costs: passes over memory, and Python between them. What changes in the layers
# if a GPU does the work? Nothing. `minivit.ViT.create(..., device="gpu")` makes arrays of CuPy, and
# a layer asks `xp = array_module(x)` and goes on. What does it ask of the GPU? Could it ask less?
#
# This page needs no GPU: it counts. **Times on a GPU are not measured yet.** The library's kernels
# have been compiled (by NVRTC, for compute capability 7.5, 8.0 and 9.0), and run on a CPU in its
# tests, which emulate a GPU.

# %%
import sys
import types
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit import arrays, layers, optim, training

# %% [markdown]
# ## An array that counts
#
# A GPU runs *kernels*: programs that thousands of threads take at once, each for a few numbers. An
# operation on arrays *launches* one. That costs (a) some microseconds, however small the arrays,
# and (b) a pass over memory, where all that is read comes from and all that is written goes. So
# here is an array that notes of each launch the bytes read and written; a view is free. It says it
# comes from `tally`, and `array_module` believes that: a module made of NumPy's functions, counted.

# %%
log = []


def as_numpy(x):  # the same memory, without counting
    if isinstance(x, (list, tuple)):
        return type(x)(map(as_numpy, x))
    return x.view(np.ndarray) if isinstance(x, Tally) else x


def launch(function, *args, **kwargs):
    plain, kwargs = as_numpy(args), {name: as_numpy(a) for name, a in kwargs.items()}
    result = np.asarray(function(*plain, **kwargs))
    inputs = [x for x in minivit.flatten([*plain]).values() if isinstance(x, np.ndarray)]
    is_view = any(np.may_share_memory(result, x) for x in inputs)
    if "out" in kwargs or not (is_view or function in (np.empty, np.empty_like)):
        log.append((sum(x.nbytes for x in inputs), result.nbytes))
    return result.view(Tally)


# %%
class Tally(np.ndarray):
    __module__ = "tally"

    def __array_ufunc__(self, ufunc, method, *args, **kwargs):
        return launch(getattr(ufunc, method), *args, **kwargs)

    def __setitem__(self, at, value):
        launch(np.add, value, 0, out=self[at])  # costs the same as a copy

    def reshape(self, *shape):
        return launch(np.ndarray.reshape, self, *shape)

    def astype(self, *dtype, **kwargs):
        return launch(np.ndarray.astype, self, *dtype, **kwargs)

    def get(self):  # in CuPy, a copy to the host
        raise RuntimeError("Python would wait for the GPU")


tally = sys.modules["tally"] = types.ModuleType("tally")
tally.__getattr__ = lambda name: lambda *args, **kwargs: launch(getattr(np, name), *args, **kwargs)

# %% [markdown]
# Now layers of chapter 17's model, forth and back, and its step. The *floor*: forth, any program
# must read the inputs and write the value; back, it reads the inputs (or as much) and the value's
# gradient, and writes the inputs' gradients. (The hidden numbers of the MLP are not in it.)

# %%
B, T, D, heads, rng = 32, 65, 192, 3, np.random.default_rng(18)
config = minivit.ViTConfig(32, 4, classes=10, width=D, depth=2, heads=heads, mlp_width=4 * D)
params = minivit.ViT.create(config).params


def normal(*shape):
    return rng.standard_normal(shape, dtype="float32")


def as_tally(tree):
    return minivit.tree.map_tree(lambda x: tally.asarray(x.copy()), tree)


cases = {
    "softmax": (layers.softmax, normal(B, heads, T, T)),
    "layer norm": (layers.layer_norm, normal(B, T, D), normal(D), normal(D)),
    "GELU": (layers.gelu, normal(B, T, 4 * D)),
    "MLP": (layers.mlp, normal(B, T, D), *params["blocks"][0]["mlp"].values()),
}
images, labels = normal(B, 32, 32, 3), rng.integers(10, size=B)


# %%
def measure(name, layer, *args):
    args, _ = as_tally(list(args)), log.clear()
    y, pullback = layer(*args)
    pullback(y)  # any gradient
    total, floor = sum(map(sum, log)), 4 * (3 * minivit.tree.count_parameters(args) + 2 * y.size)
    print(f"{name:10} {len(log):2} launches, {total / 1e6:5.1f} MB, {total / floor:4.1f} floors")
    return len(log), total / floor


plain = {name: measure(name, *case) for name, case in cases.items()}


# %%
def step(B=B):  # one training step
    model, batch = minivit.ViT(config, params), (images[:B], labels[:B])
    options = training.StepOptions()
    expected = training.batch_gradients(model, *batch, options).gradients  # with NumPy
    model.params = as_tally(params)
    adamw, _ = training.AdamW(minivit.tree.pack(model.params)), log.clear()
    gradients = training.batch_gradients(model, *batch, options).gradients
    adamw.update(gradients.vector, 1e-3)
    print(f"training step, batch size {B}: {len(log)} launches, {sum(map(sum, log)) / 1e6:.0f} MB")
    assert abs(as_numpy(gradients.vector) - expected.vector).max() < 1e-5


step()

# %% [markdown]
# The same page, the same gradients. But GELU moves eleven times as many bytes as it must.
#
# ## Thirty-two threads
#
# A kernel of our own could read a row, do everything and write a row. But a row has sums, over all
# of its numbers. Threads run in *warps* of 32, all at the same line of the program, and each, a
# *lane*, can hand others what it holds. Let each lane add what the lane 16 places away holds (3
# that of 19, and 19 that of 3), then 8 places, 4, 2 and 1. After five exchanges all lanes have the
# sum of all, and nothing went through memory. First in NumPy, where lanes are an axis and each row
# has a warp; then the library's kernel, in C++. There `LANE_ENTRIES` are `j`, `j + 32`, ..., and
# `F` is a float. It reads a row three times, but after the first a row, being short, is in a cache.


# %%
def warp(x, combine):  # x (..., 32), one value per lane
    for far in 16, 8, 4, 2, 1:
        x = combine(x, x[..., np.arange(32) ^ far])
    return x


def softmax_by_warps(x):  # (rows, n)
    rows, n = x.shape

    def split_lanes(x, pad):  # lane j holds entries j, j + 32, ...
        return np.pad(x, ((0, 0), (0, -n % 32)), constant_values=pad).reshape(rows, -1, 32)

    lanes = split_lanes(x, -np.inf)
    largest = warp(lanes.real.max(1), np.maximum)  # (rows, 32)
    exps = np.exp(lanes - largest[:, None])
    p = (exps / warp(exps.sum(1), np.add)[:, None]).reshape(rows, -1)[:, :n]
    return p, lambda dp: p * (dp - warp(split_lanes(p * dp, 0).sum(1), np.add)[:, :1])


# %%
source = (Path(minivit.__path__[0]) / "cuda" / "softmax.py").read_text(encoding="utf-8")
print(source[source.index("    F largest") : source.index("}\n")])
values, scores = rng.normal(size=32), rng.normal(size=(2, 65))
assert abs(warp(values, np.add) - values.sum()).max() < 1e-14  # in all 32 lanes
assert abs(softmax_by_warps(scores)[0] - layers.softmax(scores)[0]).max() < 1e-14
assert minivit.gradcheck(softmax_by_warps, scores).worst < 1e-12

# %% [markdown]
# ## What stays for the way back
#
# Softmax's pullback needs $p$. Layer norm's needs $\hat x$ and $σ$ (chapter 4):
#
# $$ dx = (g - \mathrm{mean}(g) - \hat x · \mathrm{mean}(g \hat x)) / σ, \qquad g = dy · scale $$
#
# The plain function keeps $\hat x$, which it writes beside $y$. But $\hat x = (x - μ) / σ$, and $x$
# is there. The kernel keeps $x$, and $μ$ and $1 / σ$ of each row: no more memory, one array less to
# write, two operations more on numbers that are at hand. Back, it writes $dx$, and $dy · \hat x$
# for `sum_leading`: the scale's gradient is a sum over all rows, and a warp has but one.


# %%
def register_kernel(function, norm=False):  # without μ, σ, scale and bias
    plain = function.dispatch(object)

    def kernel(x, *args, **kwargs):
        kwargs = {name: as_numpy(a) for name, a in kwargs.items()}
        y, pullback = plain(*as_numpy([x, *args]), **kwargs)
        log.append((x.nbytes, y.nbytes))

        def back(dy):
            gradients = pullback(as_numpy(dy))
            log.append((x.nbytes + dy.nbytes, x.nbytes * (1 + norm)))
            [arrays.sum_leading(each) for each in [x, dy] * norm]  # x instead of dy · x_hat
            return tuple(map(as_tally, gradients)) if norm else as_tally(gradients)

        return tally.asarray(y), back

    function.register(Tally, kernel)


# %% [markdown]
# Such a layer is a `functools.singledispatch`: what is registered for a class of arrays takes its
# place for these. `minivit/cuda/` registers kernels for CuPy's arrays, this page their counts for
# `Tally`. (The library's loss has one too, and GELU's also adds the MLP's first bias.)
#
# Products are cuBLAS's. It is told where a matrix begins, how far apart its rows or columns are and
# how far the next matrix is. So it reads q, k and v where they are, in one array of $3D$ columns,
# with no copy. But the next image and the next head are at two distances: a call for each head.

# %%
keys = normal(B, T, 3, heads, D // heads).transpose(2, 0, 3, 1, 4)[1]
assert keys.strides == (4 * T * 3 * D, 4 * D // heads, 4 * 3 * D, 4)  # image, head, row, entry


def matmul_kernel(a, b, out=None):
    y = np.matmul(as_numpy(a), as_numpy(b), out=as_numpy(out))
    log.extend(heads * [((a.nbytes + b.nbytes) // heads, y.nbytes // heads)])
    return tally.asarray(y)


def sum_kernel(x):  # sums of chunks, then their sum
    log.extend([(x.nbytes, 0), (0, 0)][: 1 + (x.size > 128 * x.shape[-1])])
    return tally.asarray(as_numpy(x).reshape(-1, x.shape[-1]).sum(0))


def adamw_kernel(p, g, m, v, **kwargs):  # counts the bytes only
    log.append((4 * p.nbytes, 3 * p.nbytes))


register_kernel(layers.softmax), register_kernel(layers.gelu)
register_kernel(layers.layer_norm, norm=True)
arrays.matmul.register(Tally, matmul_kernel), arrays.sum_leading.register(Tally, sum_kernel)
optim.adamw.register(Tally, adamw_kernel)

# %% [markdown]
# Nearly half of a step's launches go, and almost two thirds of its bytes. What is left: products,
# biases, residuals, sums over rows, copies. For products of fewer digits GPUs have units of their
# own. Of a factor's 23 binary digits behind the point `--precision tf32` keeps 10, `bfloat16` 7;
# the sums are of float32. What gets lost?

# %%
fused, _ = {name: measure(name, *case) for name, case in cases.items()}, step()


def round_mantissa(x, digits):
    fraction, exponent = np.frexp(x)  # 1/2 <= |fraction| < 1
    return np.ldexp(np.round(fraction * 2 ** (digits + 1)), exponent - digits - 1)


a, b = rng.normal(size=(2, 512, 512))
for name, digits in {"float32": 23, "TF32": 10, "bfloat16": 7}.items():
    error = round_mantissa(a, digits) @ round_mantissa(b, digits) - a @ b
    print(f"{name:8} RMS error {np.sqrt((error**2).mean() / 512):.0e} relative to an entry")

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")


def bars(axis, names, label, *pair):
    for offset, values in zip((-0.2, 0.2), pair, strict=True):
        axis.barh(np.arange(len(names)) + offset, values, 0.4)
    axis.set(yticks=range(len(names)), yticklabels=names, xlabel=label, ylim=(len(names), -1))


for i, label in enumerate(("launches", "bytes, in floors")):
    bars(axes[i], cases, label, *([row[i] for row in each.values()] for each in (plain, fused)))
axes[0].legend(["plain", "kernels"]), axes[1].axvline(1, color="k", ls="--", lw=1)
if (file := Path("figures/gpu_layers.csv")).exists():
    rows = np.genfromtxt(file, delimiter=",", names=True, dtype=None, encoding="utf-8", ndmin=1)
    plain, fused = (rows[rows["contestant"] == version] for version in ("plain", "fused"))
    names = [f"{row['layer']} {row['pass']}, {row['width']}" for row in fused]
    bars(axes[2], names, "ms on a GPU", plain["median_ms"], fused["median_ms"])
else:
    axes[2].set(xticks=[], yticks=[], xlabel="ms on a GPU: not measured yet")
minivit.analysis.save_figure(figure, "figures/18_the_same_page_on_a_gpu.png")

# %% [markdown]
# ![Launches and bytes of four layers, forth and back, and the floor. Right, times, where there are
# any.](../figures/18_the_same_page_on_a_gpu.png)
#
# **What must not be in a step.** Python queues launches. `float(loss)` waits until all are done,
# and then the GPU waits for Python: `train` does it every 50 steps. Batches are copied a step
# ahead, from *pinned* memory, which stays in place, so that the GPU fetches them by itself.
#
# ## Exercises
#
# **Predict.** Half the batch. What is left of a step's launches, and what of its bytes?

# %%
step(B // 2)

# %% [markdown]
# All launches, and more than half of the bytes, for the parameters have not changed. Where a step
# waits for its launches, a larger batch is free.
#
# **Write.** `variance_in_one_reading(x, lanes)`: the kernel of layer norm goes over a row three
# times; with lanes that merge count, mean and squares in pairs, two will do.
# `python -m minivit exercise 18 --start` puts a frame into `exercises/`;
# `python -m minivit exercise 18` grades it; `--hint` helps.
#
# **Ablation.** The last exchange, `far` = 1. Odd lanes and even ones never meet, a row of softmax
# sums to 2, and an assert stops the chapter.
