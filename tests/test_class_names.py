"""The names of a model's classes: classes.txt, config.json and the bundled list of ImageNet."""

import json

import pytest
from helpers.models import tiny_model

from minivit import ViT

NAMES = ["ant", "bee", "cat"]


def save(path, layout="minivit", **fields):
    model = tiny_model("float32", classes=3, **fields)
    model.save(path, layout=layout)
    return model


def test_the_names_that_train_wrote_are_read(tmp_path, caplog, capsys):
    save(tmp_path / "model.npz")
    save(tmp_path / "other.npz")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    for path in (tmp_path, tmp_path / "model.npz"):  # the folder of a run, or its file
        assert list(ViT.load(path).class_names) == NAMES
    assert ViT.load(tmp_path / "other.npz").class_names is None
    assert ViT.load(tmp_path).to("cpu").class_names is not None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("content", ["ant\nbee\n", "", "ant\nbee\ncat\ndog\n"])
def test_a_wrong_number_of_names_is_a_warning(tmp_path, capsys, content):
    save(tmp_path / "model.npz")
    (tmp_path / "classes.txt").write_text(content)
    assert ViT.load(tmp_path).class_names is None
    message = f"warning: the class names are not used: {tmp_path}/classes.txt has "
    assert capsys.readouterr().err.startswith(message)


def test_hugging_face_files_keep_the_names(tmp_path, capsys):
    model = save(tmp_path / "plain", "huggingface")
    assert ViT.load(tmp_path / "plain").class_names is None  # LABEL_0, LABEL_1, LABEL_2
    model.class_names = NAMES
    model.save(tmp_path / "named", layout="huggingface")
    config = json.loads((tmp_path / "named" / "config.json").read_text())
    assert config["id2label"] == {"0": "ant", "1": "bee", "2": "cat"}
    assert config["label2id"] == {"ant": 0, "bee": 1, "cat": 2}
    for path in (tmp_path / "named", tmp_path / "named" / "model.safetensors"):
        assert list(ViT.load(path).class_names) == NAMES
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "labels", [{"0": "ant"}, {"0": "a", "1": "b", "3": "c"}, {"0": 1, "1": 2, "2": 3}]
)
def test_a_damaged_id2label_is_a_warning(tmp_path, capsys, labels):
    save(tmp_path / "model", "huggingface")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": labels}))
    assert ViT.load(tmp_path / "model").class_names is None
    message = f"warning: the class names are not used: 'id2label' in {path} is not one name for"
    assert capsys.readouterr().err.startswith(message)


def test_a_model_with_1000_classes_has_the_names_of_imagenet(tmp_path):
    for classes, found in ((1000, True), (999, False), (None, False)):
        tiny_model("float32", classes=classes).save(tmp_path / "vit.npz")
        names = ViT.load(tmp_path / "vit.npz").class_names
        assert (names is not None) == found
        if names:
            assert len(names) == 1000
            assert [names[i] for i in (0, 281, 282, 285, 999)] == [
                "tench", "tabby", "tiger cat", "Egyptian cat", "toilet tissue"
            ]  # fmt: skip


def test_names_in_a_file_have_priority_over_imagenet(tmp_path):
    tiny_model("float32", classes=1000).save(tmp_path / "model.npz")
    names = [f"synset {i}" for i in range(1000)]
    (tmp_path / "classes.txt").write_text("\n".join(names))
    assert list(ViT.load(tmp_path).class_names) == names
