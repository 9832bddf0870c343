"""Figures are displayed in a Jupyter notebook, without changing Matplotlib's backend."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from minivit import ViT

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

BACKEND = "import matplotlib; print(matplotlib.get_backend())"


def run_notebook(folder, *cells):
    """Execute the cells in a kernel, and return the outputs of each."""
    notebook = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, cells)))
    options = {
        "timeout": 120,
        "kernel_name": "python3",
        "resources": {"metadata": {"path": folder}},
    }
    nbclient.NotebookClient(notebook, **options).execute()
    return [cell.outputs for cell in notebook.cells]


def images_in(outputs):
    """Return the sizes of the displayed images."""
    contents = [
        base64.b64decode(o.data["image/png"]) for o in outputs if "image/png" in o.get("data", {})
    ]
    return [Image.open(io.BytesIO(content)).size for content in contents]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the Jupyter packages
@pytest.mark.parametrize("pyplot", ["", "import matplotlib.pyplot as plt", "%matplotlib inline"])
def test_a_notebook_displays_each_figure_once_with_the_backend_unchanged(tmp_path, pyplot):
    ViT.create("ViT-Ti/16", depth=2).save(tmp_path / "vit.npz", layout="timm")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    training = "minivit.training.train(minivit.ViT.create('ViT-Ti/4', image_size=8, channels=1, "
    training += "classes=10, depth=1), minivit.data.load_digits(n=50), "
    training += "minivit.training.Recipe(epochs=1), 'run');"
    outputs = run_notebook(
        tmp_path,
        f"{pyplot}\n{BACKEND}",
        "import minivit\nmodel = minivit.ViT.load('vit.npz')",
        "minivit.plot_attention(model, 'photo.jpg', target='tabby')",
        training,
        "minivit.plot_training('run')",
        "figure = minivit.plot_attention(model, 'photo.jpg')\nfigure.savefig('figure.svg')",
        "minivit.analysis.plot_model(model, 'positions')",
        BACKEND,
    )
    assert [len(images_in(cell)) for cell in outputs] == [0, 0, 1, 0, 1, 0, 1, 0]
    assert outputs[0][0].text == outputs[-1][0].text
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")
