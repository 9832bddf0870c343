"""The kinds of figures that `plots.plot_model` draws."""

KINDS = {
    "maps": "attention maps of one layer's heads, rollout and gradient-weighted rollout",
    "distance": "mean attention distance of each head, by layer (Figure 7, right)",
    "positions": "cosine similarity of the position embeddings (Figure 7, centre)",
    "filters": "principal components of the patch embedding's filters (Figure 7, left)",
    "gradients": "attention maps of one layer's heads, and the gradient of the predicted logit",
}
IMAGE_KINDS = ("maps", "distance", "gradients")  # the others show only parameters
LAYER_KINDS = ("maps", "gradients")
