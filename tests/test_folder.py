"""A folder of images by class: its layout, reading on demand, and unreadable files."""

import errno
import os
import threading
import warnings
import weakref
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minivit.data import load_digits, read_image, resize_dataset
from minivit.data.dataset import fingerprint, take
from minivit.data.folder import FolderImages, describe_unreadable, load_folder
from minivit.models import PREPROCESSINGS
from minivit.training.evaluate import BATCH_SIZE, predict_batches


def paint(path, level=0, **options):
    """Save a picture of 6 x 6 pixels of one grey level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 6), (level,) * 3).save(path, **options)
    return str(path)


def damage(path):
    Path(path).write_bytes(b"not an image")


@pytest.fixture
def zoo(tmp_path):
    """30 cats, 20 dogs and 3 eels, each of another grey level."""
    for c, (name, n) in enumerate([("eel", 3), ("cat", 30), ("dog", 20)]):
        for i in range(n):
            paint(tmp_path / "zoo" / name / f"{i:02}.png", 50 * c + i)
    return tmp_path / "zoo"


def names(images):
    """Return the files as CLASS/NAME."""
    return ["/".join(Path(file).parts[-2:]) for file in images.files]


# --- layout ----------------------------------------------------------------------------------


def test_a_tenth_of_each_class_is_held_out(zoo):
    paint(zoo / "fox" / "only.png")  # a single image is used for training
    d = load_folder(zoo, (4, 4))
    assert (d.name, d.classes) == ("images in zoo", ("cat", "dog", "eel", "fox"))
    assert np.bincount(d.labels).tolist() == [27, 18, 2, 1]
    assert np.bincount(d.held_out_labels).tolist() == [3, 2, 1]
    for images, labels in (d[1:3], d[3:5]):
        assert labels.dtype == np.int64
        assert [d.classes[c] for c in labels] == [name.split("/")[0] for name in names(images)]
        assert names(images) == sorted(names(images))
    both = names(d.images) + names(d.held_out_images)
    assert sorted(both) == sorted(f"{p.parent.name}/{p.name}" for p in zoo.glob("*/*"))


def test_the_split_depends_on_the_seed_and_on_the_files_of_each_class(zoo):
    held_out = names(load_folder(zoo, (4, 4)).held_out_images)
    assert names(load_folder(zoo, (8, 8), 1).held_out_images) == held_out
    assert names(load_folder(zoo, (4, 4), seed=1).held_out_images) != held_out
    paint(zoo / "cat" / "another.png")
    again = names(load_folder(zoo, (4, 4)).held_out_images)
    assert again != held_out
    assert [name for name in again if "dog" in name] == [n for n in held_out if "dog" in n]


def test_class_names_that_are_not_utf_8_are_escaped(zoo):
    try:
        (zoo / "cat").rename(zoo / "c\udcfft")  # the byte 255
    except OSError:
        pytest.skip("the file system does not allow such names")
    d = load_folder(zoo, (4, 4))
    assert d.classes == ("c\\udcfft", "dog", "eel")
    assert len(d.images[:1]) == 1


@pytest.mark.parametrize(
    "parts",
    [("train", "val"), ("train", "valid"), ("train", "validation"), ("Train", "Test"),
     ("train", "val", "valid", "validation", "test"), ("train", "valid", "test")],
)  # fmt: skip
def test_the_first_of_several_held_out_folders_is_used(tmp_path, parts):
    for place in ("a/1", "a/2", "b/3", "c/4"):
        paint(tmp_path / parts[0] / f"{place}.png")
    for part in parts[1:]:
        for place in ("c/5", "a/6"):
            paint(tmp_path / part / f"{place}{part}.png")
    paint(tmp_path / "other" / "d" / "7.png")  # ignored
    d = load_folder(tmp_path, (4, 4))
    assert d.classes == ("a", "b", "c")
    assert names(d.images) == ["a/1.png", "a/2.png", "b/3.png", "c/4.png"]
    assert names(d.held_out_images) == [f"a/6{parts[1]}.png", f"c/5{parts[1]}.png"]
    assert (d.labels.tolist(), d.held_out_labels.tolist()) == ([0, 0, 1, 2], [0, 2])


def test_a_class_may_be_called_train(tmp_path):
    for c in ("bus", "test", "train"):
        for i in range(3):
            paint(tmp_path / c / f"{i}.png")
    d = load_folder(tmp_path, (4, 4))
    assert d.classes == ("bus", "test", "train")
    assert (len(d.images), len(d.held_out_images)) == (6, 3)


def test_images_links_and_subfolders_are_listed_but_not_hidden_or_other_files(tmp_path):
    a = tmp_path / "train" / "a"
    for i, suffix in enumerate(["png", "jpg", "JPG", "JPEG", "webp", "bmp", "gif", "tiff", "ppm"]):
        paint(a / f"{i}.{suffix}", 255)
    (a / "9.png").symlink_to(paint(tmp_path / "elsewhere.png", 255))
    (a / "round").symlink_to(a)  # not followed
    for place in ("train/a/1/z.png", "train/a/1/deep.png/0.png", "train/b/0.png", "val/a/in/0.png"):
        paint(tmp_path / place, 255)
    for place in (".hidden.png", "._00.png", ".thumbnails/0.png", "../.cache/0.png"):
        paint(a / place)
    for place in ("../labels.csv", "notes.txt", "png", "Thumbs.db", "0.png.part"):
        (a / place).write_text("...")
    d = load_folder(tmp_path, (3, 3))
    files = [str(Path(file).relative_to(tmp_path / "train")) for file in d.images.files]
    assert files == [
        "a/0.png", "a/1/deep.png/0.png", "a/1/z.png", "a/1.jpg", "a/2.JPG", "a/3.JPEG", "a/4.webp",
        "a/5.bmp", "a/6.gif", "a/7.tiff", "a/8.ppm", "a/9.png", "b/0.png",
    ]  # fmt: skip
    assert names(d.held_out_images) == ["in/0.png"]
    np.testing.assert_allclose(d.images[:], 1, rtol=0, atol=0.02)


def test_the_order_does_not_depend_on_the_file_system(zoo, monkeypatch):
    scandir, results = os.scandir, []
    for reverse in (False, True):

        @contextmanager
        def sorted_scandir(path, reverse=reverse):
            yield sorted(scandir(path), key=lambda entry: entry.name, reverse=reverse)

        with monkeypatch.context() as patch:
            patch.setattr(os, "scandir", sorted_scandir)
            d = load_folder(zoo, (4, 4))
        results.append((d.classes, names(d.images), names(d.held_out_images)))
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ([], "SET has no classes"),
        (["1.png", "2.png"], "SET has no classes"),
        (["a/1.png", "b/notes.txt"], "b has no images"),
        (["a/1.png", "a/2.png"], "SET has only one class, 'a'"),
        (["a/1.png", "b/1.png"], "one image of each class"),
        (["train/a/1.png", "train/b/1.png"], r"no held-out .*SET.val, or pass .*SET.train to"),
        (["train/a/1.png", "val/a/1.png"], "SET has only one class, 'a'"),
        (["train/a/1.png", "train/b/1.png", "val/1.png"], "val has no classes"),
        (["train/a/1.png", "train/b/1.txt", "val/a/1.png"], "train.b has no images"),
        (["train/a/1.png", "train/b/1.png", "val/a/1.txt"], "val.a has no images"),
        (["train/a/1.png", "train/b/1.png", "val/c/1.png"], "val.c: .*train has no class of this"),
    ],
)
def test_another_layout_is_rejected_with_a_one_line_error(tmp_path, places, message):
    (tmp_path / "SET").mkdir()
    for place in places:
        paint(tmp_path / "SET" / place, format="png")
    with pytest.raises(ValueError, match=message) as error:
        load_folder(tmp_path / "SET", (4, 4))
    assert str(tmp_path / "SET") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_path_that_is_not_a_folder_is_rejected(tmp_path):
    with pytest.raises(NotADirectoryError, match=r"x\.png is a file, not a folder of images"):
        load_folder(paint(tmp_path / "x.png"), (4, 4))
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nothing"):
        load_folder(tmp_path / "nothing", (4, 4))
    with pytest.raises(ValueError, match="images have 1 or 3 channels, not 4"):
        load_folder(tmp_path, (4, 4), 4)


# --- reading ---------------------------------------------------------------------------------


def make_images(n, tmp_path, **options):
    """Return FolderImages of n pictures with the grey levels 0 to n - 1."""
    return FolderImages([paint(tmp_path / f"{i}.png", i) for i in range(n)], (2, 3), 3, **options)


def values(levels):
    return np.float32(levels) / np.float32(127.5) - 1


INDICES = [slice(None), slice(1, 6, 2), np.array([4, 0, 4]), [3], np.arange(7) % 2 == 1, -1, 2]


@pytest.mark.parametrize("indices", INDICES, ids=str)
@pytest.mark.parametrize("threads", [1, 3, None])
def test_images_are_indexed_like_an_array(tmp_path, indices, threads):
    images = make_images(7, tmp_path, threads=threads)
    assert (len(images), images.shape) == (7, (7, 2, 3, 3))
    expected = np.broadcast_to(values(np.arange(7))[:, None, None, None], images.shape)[indices]
    assert images[indices].dtype == np.float32
    assert np.array_equal(images[indices], expected)


def test_only_the_selected_files_are_opened(zoo, monkeypatch):
    opened, read_bytes = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda p: opened.append(str(p)) or read_bytes(p))
    d = load_folder(zoo, (4, 4))
    assert opened == []
    d.images[[5, 9]]
    assert sorted(opened) == sorted(d.images.files[[5, 9]])


def test_pillow_is_initialised_before_threads_start(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(Image, "init", lambda: calls.append(1))
    FolderImages(["1.png"], (2, 3), 3)
    assert calls == [1]


def test_files_are_read_in_parallel(tmp_path, monkeypatch):
    images, open_ = make_images(6, tmp_path, threads=3), Image.open
    barrier = threading.Barrier(3, timeout=60)  # raises an error if fewer than three threads wait

    def wait_and_open(path, formats):
        barrier.wait()
        return open_(path, formats=formats)

    monkeypatch.setattr(Image, "open", wait_and_open)
    assert images.read(slice(None))[1].all()


def test_only_the_warnings_of_pillow_are_silenced(tmp_path, monkeypatch):
    images = make_images(40, tmp_path, threads=4)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)  # Pillow warns about 36 pixels
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            assert images.read(slice(None))[1].all()
        with pytest.raises(UserWarning, match="another"):
            warnings.warn("another", stacklevel=1)


# --- unreadable files ------------------------------------------------------------------------


@pytest.fixture
def damaged(tmp_path):
    """Return six images. 1 is not an image, 2 is truncated, and 5 is a broken link."""
    images = make_images(6, tmp_path)
    damage(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes((tmp_path / "2.png").read_bytes()[:-30])
    (tmp_path / "5.png").unlink()
    (tmp_path / "5.png").symlink_to(tmp_path / "nothing.png")
    return images


def test_unreadable_images_are_skipped_with_their_labels_and_reported_once(
    damaged, tmp_path, capsys
):
    labels = np.arange(6) * 10
    images, batch_labels = take(damaged, labels, np.array([3, 2, 1, 1, 0]))
    assert images.dtype == np.float32
    assert images[:, 0, 0, 0].tolist() == values([3, 0]).tolist()
    assert batch_labels.tolist() == [30, 0]
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.split(" cannot")[0] for line in err.splitlines()] == [
        f"skipped: {damaged.files[2]}", f"skipped: {damaged.files[1]}"
    ]  # fmt: skip
    assert damaged.unreadable == {damaged.files[1], damaged.files[2]}
    paint(tmp_path / "1.png")  # it is not opened again, so that results stay comparable
    assert take(damaged, labels, slice(0, 5))[1].tolist() == [0, 30, 40]
    assert capsys.readouterr().err == ""
    assert damaged.read(slice(None))[1].tolist() == [True, False, False, True, True, False]
    assert capsys.readouterr().err == f"skipped: there is no file {damaged.files[5]}\n"
    images, batch_labels = take(damaged, labels, np.array([1, 2, 5]))
    assert (images.shape, batch_labels.shape) == ((0, 2, 3, 3), (0,))


def test_indexing_an_unreadable_image_raises_an_error(damaged):
    for indices in (2, [0, 2, 1], slice(2, 4)):
        with pytest.raises(ValueError, match=r"2\.png cannot be read as an image"):
            damaged[indices]
    assert np.array_equal(damaged[[0, 3]], damaged.read([0, 3])[0])


def test_an_error_is_raised_if_no_image_is_readable(damaged, tmp_path):
    for i in (0, 3, 4):
        damage(tmp_path / f"{i}.png")
    assert len(damaged.read(slice(0, 5))[0]) == 0  # the last one has not been tried
    for _ in range(2):
        with pytest.raises(ValueError, match=r"none of the .* from .*0\.png to .*5\.png can be"):
            damaged.read([5])


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.EMFILE, "Too many open files")])
def test_a_lack_of_system_resources_does_not_make_images_unreadable(tmp_path, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    images = make_images(2, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", fail)
        with pytest.raises(type(error)):
            images.read(slice(None))
    assert images.read(slice(None))[1].all()


def test_unreadable_images_of_both_parts_are_counted(zoo):
    (zoo / "cat" / "99.png").symlink_to(zoo / "nothing.png")
    (zoo / "cat" / "98.png").symlink_to(zoo / "cat" / "98.png")
    d = load_folder(zoo, (4, 4))
    resized = resize_dataset(d, (8, 8), 3)
    assert describe_unreadable(d) == describe_unreadable(load_digits()) == ""
    damage(next(file for file in d.held_out_images.files if Path(file).exists()))
    for images in (d.images, d.held_out_images):
        images.read(slice(None))
    assert describe_unreadable(d) == "3 of 55 images could not be read"
    assert describe_unreadable(resized) == "3 of 55 images could not be read"
    many = d._replace(images=NumberedImages(2000, range(1200)), held_out_images=np.zeros(6))
    assert describe_unreadable(many) == "1,200 of 2,006 images could not be read"


# --- evaluation -------------------------------------------------------------------------------


class NumberedImages:
    """Image i is the number i, unless it is unreadable."""

    def __init__(self, n, unreadable=()):
        self.n, self.unreadable, self.last = n, unreadable, lambda: None

    def __len__(self):
        return self.n

    def read(self, indices):
        assert self.last() is None  # the previous batch has been freed
        indices = np.arange(self.n)[indices]
        assert len(indices) <= BATCH_SIZE
        readable = ~np.isin(indices, list(self.unreadable))
        batch = indices[readable].astype(np.float32)
        self.last = weakref.ref(batch)
        return batch, readable


@pytest.mark.parametrize("n", [2, BATCH_SIZE, BATCH_SIZE + 1, 3 * BATCH_SIZE])
def test_readable_images_are_evaluated_batch_by_batch(n):
    unreadable = {0, 7, n - 1, *range(BATCH_SIZE, 2 * BATCH_SIZE)} - {1}  # one batch is empty
    readable = [i for i in range(n) if i not in unreadable]
    images = NumberedImages(n, unreadable)
    outputs, labels = predict_batches(np.negative, images, np.arange(n) + 1)
    assert outputs.tolist() == [-i for i in readable]
    assert labels.tolist() == [i + 1 for i in readable]
    with pytest.raises(ValueError, match="none of the images could be read"):
        predict_batches(np.negative, NumberedImages(n, range(n)), np.arange(n))


# --- resizing --------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3])
def test_a_data_set_of_the_right_format_is_not_changed(zoo, channels):
    d = load_folder(zoo, (8, 8), channels)
    assert resize_dataset(d, (8, 8), channels) is d
    assert resize_dataset(load_digits(n=20), (8, 9), 1).images.read(slice(3, 9))[1].all()


@pytest.mark.parametrize("family", PREPROCESSINGS)
def test_folders_and_single_files_are_preprocessed_in_the_same_way(tmp_path, family):
    rng = np.random.default_rng(0)
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        path = paint(tmp_path / name)
        Image.fromarray(rng.integers(0, 256, (20, 36, 3), dtype=np.uint8)).save(path)
    d = resize_dataset(load_folder(tmp_path, (8, 8), preprocessing=family), (8, 8), 3, family)
    expected = read_image(d.images.files[0], (8, 8), 3, family)
    np.testing.assert_allclose(d.images[[0]][0], expected, rtol=0, atol=1e-5)


def test_a_picture_that_is_too_large_is_skipped_by_name(zoo, capsys):
    name = load_folder(zoo, (4, 4)).images.files[3]
    Image.new("RGB", (10, 11)).save(name)
    d = load_folder(zoo, (4, 4), max_pixels=109)
    _, readable = d.images.read(slice(None))
    assert np.flatnonzero(~readable).tolist() == [3]
    message = "it has 11 x 10 pixels. The limits are 109 pixels"
    assert f"skipped: {name} cannot be read as an image: {message}" in capsys.readouterr().err


def test_unreadable_images_are_skipped_before_resizing(zoo):
    d = load_folder(zoo, (8, 8))
    damage(d.images.files[1])
    resized = resize_dataset(d, (16, 12), 3, "dino").images
    images, readable = resized.read(np.array([4, 1, 30]))
    assert readable.tolist() == [True, False, True]
    assert np.array_equal(images, resized[[4, 30]])
    assert resized.unreadable == d.images.unreadable == {d.images.files[1]}
    assert resized.read([1])[0].shape == (0, 16, 12, 3)
    with pytest.raises(ValueError, match="cannot be read"):
        resized[[4, 1, 30]]


def test_a_fingerprint_depends_on_the_names_of_files_and_not_on_their_preprocessing(zoo):
    before = load_folder(zoo, (4, 4))
    (zoo / "cat" / "00.png").rename(zoo / "cat" / "000.png")
    after = load_folder(zoo, (4, 4))
    resized = [fingerprint(resize_dataset(d, (4, 4), 3, "imagenet")) for d in (before, after)]
    assert resized == [fingerprint(before), fingerprint(after)]
    assert resized[0] != resized[1]
