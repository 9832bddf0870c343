# %% [markdown]
# # 0. A value and its pullback
#
# This book answers one question about the Vision Transformer of "An Image is Worth 16x16 Words"
# (Dosovitskiy et al., 2021): what does it compute, and how does each gradient come about? You
# need NumPy and some calculus. Nothing is used before it is explained.
#
# A chapter is a program: its text stands in the comments, and what it claims is printed or
# asserted. From the repository's root, `python chapters/00_value_and_pullback.py` runs this one in
# seconds. Guess where it asks you to, and change things. Chapters 1 to 10 build the model piece by
# piece, 11 sends a gradient back through all of it, 12 trains it, 13 and 14 examine it.

# %% [markdown]
# ## How strongly does the loss react?
#
# A model is a chain of functions. The last one returns a single number, the *loss*: how wrong the
# model is. Take any function $f$ out of the chain and call its input $x$ and its output $y = f(x)$.
# Training must know how strongly the loss reacts to each entry of $x$. These numbers are the
# *gradient* $dx = ∂\mathrm{loss} / ∂x$, an array of the shape of $x$. In this book, `dx` always
# means this and never a small step; `dy` is the same for $y$.
#
# $f$ does not know the loss. Whatever uses $y$ later tells it `dy`, the *cotangent*: a 2 says that
# the loss grows twice as fast as this output. $f$ must turn it into `dx`. The naive way is a loop:
# nudge one input, see how all outputs move, and add up what each movement does to the loss.

# %%
import matplotlib.pyplot as plt
import numpy as np

import minivit
from minivit.analysis import save_figure


def finite_difference(f, x, dy, h=1e-6):
    y, dx = f(x), np.zeros_like(x)
    for j in range(x.size):
        shifted = x.copy()
        shifted[j] += h
        dx[j] = (dy * (f(shifted) - y)).sum() / h
    return dx


# %% [markdown]
# Each input costs one more run of $f$, and a model has millions. So we derive. The example is the
# sigmoid $σ(x) = 1 / (1 + e^{-x})$ of each entry. With $s = σ(x)$, the quotient rule gives the
# slope $e^{-x} / (1 + e^{-x})^2$, which is $s (1 - s)$. Each output has one input, so
#
# $$ dx = dy · s (1 - s) $$
#
# This is cheap once $s$ is known, and $s$ *was* known, when $y$ was computed. Where is it kept?
#
# ## One function in three styles
#
# First, an object that remembers. Second, a pair of functions with a packed *cache* between them.


# %%
class Sigmoid:
    def forward(self, x):
        self.s = 1 / (1 + np.exp(-x))
        return self.s

    def backward(self, dy):
        return dy * self.s * (1 - self.s)


def sigmoid_forward(x):
    s = 1 / (1 + np.exp(-x))
    return s, {"s": s}


def sigmoid_backward(dy, cache):
    return dy * cache["s"] * (1 - cache["s"])


# %% [markdown]
# Third, the style of this book. A function returns two things: its value, and a second function,
# its *pullback*. Give the pullback `dy`, and it returns `dx`.


# %%
def sigmoid(x):
    s = 1 / (1 + np.exp(-x))

    def pullback(dy):
        return dy * s * (1 - s)

    return s, pullback


x, dy = np.array([0.0, 1.0, -3.0]), np.array([2.0, -1.0, 0.5])
y, sigmoid_back = sigmoid(x)
dx = sigmoid_back(dy)
print(dx.round(6))
assert abs(dx - finite_difference(lambda x: sigmoid(x)[0], x, dy)).max() < 1e-5

# %% [markdown]
# `sigmoid` had returned long before its pullback was called. Where did `s` come from? A function
# written inside another may go on using the outer one's variables, and Python keeps them alive as
# long as the inner function lives. This is a *closure*. `minivit.list_retained` shows what one
# holds.
#
# So nothing is packed or unpacked: what the way back needs are the local names of the way forth.
# Nor is there any state. Each call makes a pullback of its own; an object remembers its last call:

# %%
print(minivit.list_retained(sigmoid_back))
layer = Sigmoid()
layer.forward(x)
layer.forward(x + 1)  # a second input passes through the same layer
wrong = layer.backward(dy)  # computed from the first input
sigmoid(x + 1)
print(np.array_equal(wrong, dx), np.array_equal(sigmoid_back(dy), dx))
assert not np.allclose(wrong, dx)

# %% [markdown]
# These kept arrays are where training's memory goes. Whoever does not train drops the pullbacks,
# and the arrays go with them.
#
# ## The chain rule
#
# In a chain $g(f(x))$, `g_back(dy)` is how strongly the loss reacts to the input of $g$, which is
# the output of $f$. So `f_back` takes it on: the chain's pullback is `f_back(g_back(dy))`. Take the
# sigmoid of $x^2$. The square is a product whose inputs are the same, so the product comes first.


# %%
def product(a, b):
    return a * b, lambda dy: (dy * b, dy * a)  # a short pullback may be a lambda


def square(x):
    y, product_back = product(x, x)

    def pullback(dy):
        da, db = product_back(dy)
        return da + db

    return y, pullback


# %% [markdown]
# `square` hands `x` on twice. The loss reacts to `x` on both ways, and the two gradients add up.
# This matters as much as the chain rule: whatever is used more than once sums its gradients.


# %%
def bowl(x):
    u, square_back = square(x)
    y, sigmoid_back = sigmoid(u)
    return y, lambda dy: square_back(sigmoid_back(dy))


y, bowl_back = bowl(x)
assert abs(bowl_back(dy) - finite_difference(lambda x: bowl(x)[0], x, dy)).max() < 1e-5
print(minivit.list_retained(bowl_back))

# %% [markdown]
# Names before a slash are pullbacks inside the pullback. `a` and `b` are both `x`: listed once.
#
# ## What a pullback returns
#
# `dx`, if there is one input; `(da, db)`, in the order of the arguments, if there are more. Some
# arguments are *parameters*: learned numbers that serve every input. With those, a pullback
# returns `(dx, {name: gradient})`, where each gradient has its argument's name and shape. Here
# `scale` serves B rows of D numbers, and collects what it did to each.


# %%
def rescale(x, scale):  # x (B, D), scale (D,)
    return x * scale, lambda dy: (dy * scale, {"scale": (dy * x).sum(0)})


# %% [markdown]
# ## The complex step
#
# `finite_difference` is right to 8 digits at best. Over a large step a function bends; after a
# small one, the difference of two nearly equal numbers loses its digits. But nudge $x$ by $ih$,
# along the imaginary axis, and Taylor's series reads
#
# $$ f(x + ih) = f(x) + ih f'(x) - h^2 f''(x) / 2 - ... $$
#
# Divided by $h$, the imaginary part is the slope, up to a term in $h^2$. Nothing is subtracted,
# so $h$ may be as small as $10^{-20}$ (Squire and Trapp, 1998).


# %%
def complex_step(f, x, h=1e-20):
    return f(x + 1j * h)[0].imag / h


x0, steps = np.float64(0.7), 10.0 ** np.arange(-1, -21, -1)
y0, back = bowl(x0)
derivative = back(1.0)
difference_errors = [abs((bowl(x0 + h)[0] - y0) / h / derivative - 1) for h in steps]
complex_step_errors = [abs(complex_step(bowl, x0, h) / derivative - 1) for h in steps]
assert complex_step_errors[-1] < 1e-14 < 1e-10 < min(difference_errors)

# %%
figure, axis = plt.subplots(figsize=(8, 3.4), layout="constrained")
axis.loglog(steps, difference_errors, "C0o-", label="finite difference")
axis.loglog(steps, np.maximum(complex_step_errors, 1e-17), "C1s--", label="complex-step derivative")
axis.set(xlim=(0.3, 3e-21), xlabel="step size h")
axis.set(ylim=(3e-18, 10), ylabel="relative error of the derivative")
axis.legend(loc="center right")
save_figure(figure, "figures/00_value_and_pullback.png")

# %% [markdown]
# ![Steps shrink to the right. The difference is best at h = 1e-8. The complex step's error falls as
# h squared, down to rounding (1e-17 stands for less).](../figures/00_value_and_pullback.png)
#
# `minivit.gradcheck(f, x, ...)` compares a pullback with the complex step, at every entry of every
# argument, for a random `dy`. (All that `f` does must make sense for complex numbers.) It returns
# each argument's worst error, as a share of the argument's largest slope; `.worst` is the worst.

# %%
x2, scale = np.random.default_rng(0).normal(size=(4, 3)), np.array([1.0, 2.0, 3.0])
for f, arguments in (bowl, [x]), (product, [x, dy]), (rescale, [x2, scale]):
    errors = minivit.gradcheck(f, *arguments)
    print(f.__name__, list(errors), errors.worst < 1e-12)
    assert errors.worst < 1e-12

# %% [markdown]
# ## Two traps
#
# A closure holds names, not values: if a name is bound again later, the pullback sees the new
# value. The slope of $e^x + 1$ is $e^x$, but here `y` has moved on. And a returned array may be
# the one that a pullback keeps, as `s` of `sigmoid` is: whoever writes into it changes the past.


# %%
def one_plus_exp(x):
    y = np.exp(x)

    def back(dy):
        return dy * y

    y = y + 1  # bug: `back` reads this y; bind a new name instead
    return y, back


def centred_sigmoid(x):
    s, back = sigmoid(x)
    s -= 0.5  # bug: `back` reads s; `return s - 0.5, back` is correct
    return s, back


for f in (one_plus_exp, centred_sigmoid):
    print(f"{f.__name__}: error {minivit.gradcheck(f, x).worst:.1f}")
    assert minivit.gradcheck(f, x).worst > 0.1

# %% [markdown]
# So: a name that a pullback uses is bound once, and nobody writes into a returned array.
#
# ## Exercises
#
# **Predict.** Someone forgets that `square` uses `x` twice. What will the checker say?


# %%
def half_square(x):
    y, product_back = product(x, x)
    return y, lambda dy: product_back(dy)[0]


errors = minivit.gradcheck(half_square, x)
print(errors)
assert abs(errors.worst - 0.5) < 1e-12

# %% [markdown]
# Half of the gradient at every entry: one of two equal ways is missing.
#
# **Write.** swish(x) = x σ(x), a smooth switch that lets positive inputs pass. `x` goes two ways,
# and one of them leads through the sigmoid. `python -m minivit exercise 0 --start` puts a frame
# into `exercises/`; `python -m minivit exercise 0` grades it; `--hint` helps.
#
# **Ablation.** Almost all of the step: for h = 1e-320, among the last numbers before zero, where
# only a few digits fit, `complex_step` was off by 7e-4. At 1e-300 its error was still 2e-16.
