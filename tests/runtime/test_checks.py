"""The checks at the public doors, tried through these doors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import fisher
from vcjax import idt, inference, pretrained
from vcjax.clustering import kmeans, neighbors
from vcjax.data import augment, clips, manifest, splits, verify, video
from vcjax.evaluation import agreement, few_shot, probes, protocol, retrieval
from vcjax.interop import torch_files
from vcjax.models import state_dict
from vcjax.models.resnet3d import ResNet3D
from vcjax.objectives import instance_recognition, local_aggregation, memory_bank

POINTS = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
UNIT = POINTS / np.linalg.norm(POINTS, axis=1, keepdims=True)


def _with(value, row=7):
    points = POINTS.copy()
    points[row, 1] = value
    return points


@pytest.mark.parametrize(
    "points, num_clusters, message",
    [
        (_with(np.nan), 4, "point 7 has a value that is not finite"),
        (_with(np.inf), 4, "point 7 has a value that is not finite"),
        (POINTS, -1, "num_clusters is -1; use an integer of at least 1"),
        (POINTS, 0, "num_clusters is 0"),
        (POINTS, 2.5, "num_clusters is 2.5"),
        ([POINTS, POINTS[:30]], 4, "40, 30 rows"),
        (POINTS[0], 1, r"points must be an array \[n, d\], not of shape \[3\]"),
        (POINTS.astype(str), 4, "points must hold real numbers"),
        ([[1.0, 2.0]], 1, r"points must be an array \[n, d\], not a list"),
        ([], 1, "points is empty"),
    ],
)
def test_kmeans_refuses(points, num_clusters, message):
    with pytest.raises(ValueError, match=message):
        kmeans.fit(points, num_clusters=num_clusters, seed=0)


def test_kmeans_ignores_the_values_of_excluded_rows():
    included = np.arange(40) != 7
    labels = kmeans.fit(_with(np.nan), num_clusters=4, seed=0, included=included).labels
    expected = kmeans.fit(POINTS, num_clusters=4, seed=0, included=included).labels
    assert (np.asarray(labels) == np.asarray(expected)).all()


@pytest.mark.parametrize("offset", [1e4, -3e4])
def test_clusters_do_not_depend_on_the_distance_from_the_origin(offset):
    # multiples of 1/64, which float32 represents at this offset
    points = np.round(POINTS * 64) / 64
    near = kmeans.fit(points, num_clusters=5, seed=0)
    far = kmeans.fit((points + offset).astype(np.float32), num_clusters=5, seed=0)
    assert (np.asarray(near.labels) == np.asarray(far.labels)).all()
    np.testing.assert_allclose(np.asarray(far.centroids) - offset, near.centroids, atol=5e-3)
    labels, distance = kmeans.assign(
        jnp.asarray(points + offset, jnp.float32), jnp.asarray(near.centroids) + offset
    )
    assert (np.asarray(labels) == np.asarray(near.labels)).all()
    np.testing.assert_allclose(distance.sum(), near.inertia[-1], rtol=0.01)


LABELS = jnp.zeros((1, 40), jnp.int32)
INDEX = jnp.arange(4)
GOOD = {"embedding": UNIT[:4], "bank": UNIT, "labels": LABELS, "index": INDEX}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"temperature": 0.0}, "temperature is 0.0; use a number above 0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"num_background": 0}, "num_background is 0"),
        ({"labels": LABELS - 1}, "no row of labels is labeled"),
        ({"labels": jnp.zeros((1, 41), jnp.int32)}, r"labels of shape \[1, 41\]"),
        ({"labels": LABELS.astype(float)}, "labels must hold integers"),
        ({"index": INDEX + 37}, "index has values from 37 to 40; use rows from 0 to 39"),
        ({"index": INDEX - 1}, "index has values from -1"),
        ({"index": jnp.arange(3)}, r"embedding must be an array \[3, 3\]"),
        (
            {"embedding": UNIT[:4, :2]},
            r"embedding must be an array \[4, 3\], not of shape \[4, 2\]",
        ),
        ({"bank": _with(np.nan)}, "row 7 of bank has a value that is not finite"),
        ({"embedding": UNIT[:4].tolist()}, "embedding must be an array .* not a list"),
    ],
)
def test_local_aggregation_refuses(changes, message):
    arguments = GOOD | {"num_background": 8, "temperature": 0.07} | changes
    for loss in (local_aggregation.loss, local_aggregation.reference_loss):
        with pytest.raises(ValueError, match=message):
            loss(**arguments)


@pytest.mark.parametrize("name", sorted(instance_recognition.ESTIMATORS))
@pytest.mark.parametrize(
    "changes, message",
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"num_rows": 41}, "num_rows is 41, but the bank has 40 rows"),
        ({"num_rows": 0}, "num_rows is 0"),
        ({"index": INDEX + 40}, "index has values from 40 to 43"),
        ({"bank": UNIT[:, :2]}, r"embedding must be an array \[4, 2\]"),
    ],
)
def test_instance_recognition_refuses(name, changes, message):
    options = {"num_rows": 40, "temperature": 0.07, "key": jax.random.key(0)}
    if name != "full_softmax":
        options["num_negatives"] = 8
    arguments = {k: v for k, v in GOOD.items() if k != "labels"} | options | changes
    with pytest.raises(ValueError, match=message):
        instance_recognition.ESTIMATORS[name](**arguments)


def test_an_update_without_a_direction_keeps_the_row():
    bank = jnp.asarray(UNIT)
    updated = memory_bank.update(bank, INDEX, jnp.zeros((4, 3)), momentum=0.0)
    np.testing.assert_array_equal(updated, UNIT)
    opposite = memory_bank.update(bank, INDEX[:1], -bank[:1], momentum=0.5)
    np.testing.assert_array_equal(opposite, UNIT)


def test_an_update_of_a_row_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="index has values from 40 to 43"):
        memory_bank.update(jnp.asarray(UNIT), INDEX + 40, UNIT[:4], momentum=0.5)
    with pytest.raises(ValueError, match="momentum is 2; use a number from 0 to 1"):
        memory_bank.update(jnp.asarray(UNIT), INDEX, UNIT[:4], momentum=2)
    with pytest.raises(ValueError, match="row 1 of embedding"):
        memory_bank.update(jnp.asarray(UNIT), INDEX, _with(np.nan, 1)[:4], momentum=0.5)


def test_nearest_neighbors_refuse_more_neighbors_than_rows():
    with pytest.raises(ValueError, match="num_neighbors is 41, but there are 40 rows"):
        neighbors.nearest(UNIT, UNIT, num_neighbors=41)


@pytest.fixture(scope="module")
def network():
    return ResNet3D(width=8, embedding_dim=4, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    "clips, message",
    [
        (
            np.full((1, 4, 16, 16, 3), 0.5, np.float32),
            "clips must be uint8 .* not float32; scale",
        ),
        (np.zeros((1, 4, 16, 16, 3), np.int64), "clips must be uint8 in .* not int64; cast"),
        (np.zeros((4, 16, 16, 3), np.uint8), r"clips must be an array \[b, t, h, w, 3\], not of"),
        (np.zeros((1, 3, 4, 16, 16), np.uint8), r"not of shape \[1, 3, 4, 16, 16\]"),
        ([[0]], "clips must be an array .* not a list"),
    ],
    ids=["float", "int64", "no batch", "channels first", "list"],
)
def test_clips_of_another_form_are_refused(network, clips, message):
    with pytest.raises(ValueError, match=message):
        inference.clips_of(network, clips)


def test_the_network_refuses_raw_pictures(network):
    with pytest.raises(ValueError, match="clips must be mean-subtracted floats, not uint8"):
        network(np.zeros((1, 4, 16, 16, 3), np.uint8))
    with pytest.raises(ValueError, match="width is 0"):
        ResNet3D(width=0, rngs=nnx.Rngs(0))


def test_videos_refuses_a_list_of_paths(network):
    loaded = pretrained.Pretrained(network, {}, {})
    with pytest.raises(ValueError, match="source must be a folder, a table .* not a list"):
        loaded.videos(["a.mp4"])
    with pytest.raises(ValueError, match="clips_per_video is 0"):
        loaded.videos("videos", clips_per_video=0)
    with pytest.raises(ValueError, match="source must be a path or a name, not a NoneType"):
        pretrained.load(None)


FRAMES = [np.full((48, 64, 3), 128, np.uint8)] * 3


@pytest.mark.parametrize(
    "frames, options, message",
    [
        ([frame / 255 for frame in FRAMES], {}, "frame 0 must be uint8 in .* not float64"),
        ([np.zeros((3, 48, 64), np.uint8)], {}, "frame 0 must be RGB .* not of shape"),
        ([[1, 2]], {}, "frame 0 must be an array, not a list"),
        (FRAMES, {"homographies": np.full((2, 3, 3), np.nan)}, "row 0 of homographies"),
        (FRAMES, {"homographies": np.zeros((2, 2, 3))}, r"homographies must be .*, not of shape"),
        (FRAMES, {"people": [np.zeros((1, 3), np.float32)] * 3}, "people: boxes of frame 0 must"),
    ],
    ids=["float", "channels first", "list", "homography nan", "homography shape", "boxes"],
)
def test_frames_of_another_form_are_refused(frames, options, message):
    with pytest.raises(ValueError, match=message):
        idt.extract(frames, **options)


def test_weights_that_are_not_finite_are_refused_before_any_is_set(network):
    values = state_dict.arrays(network)
    name = sorted(values)[-1]
    with pytest.raises(state_dict.WeightsError, match=f"{name} has a value that is not finite"):
        state_dict.load(network, values | {name: values[name] * np.nan})


VALUES = np.array(list("abcd") * 10)
HAS_VECTOR = np.ones(40, bool)
TRAIN_TEST = {"x_train": POINTS, "y_train": VALUES, "x_test": POINTS, "y_test": VALUES}
PROBE = {name: TRAIN_TEST[name] for name in ("x_train", "y_train", "x_test")}
PRESENT = PROBE | {"train_has_vector": HAS_VECTOR, "test_has_vector": HAS_VECTOR}
RECOGNITION = {k: v for k, v in GOOD.items() if k != "labels"} | {"num_rows": 40}
RECOGNITION |= {"key": jax.random.key(0), "temperature": 0.07}
CLIPS = {"num_frames": 4, "stride": 1, "side": 16, "batch_size": 2, "seed": 0}
VIDEOS = manifest.Manifest(("a",), ("a.mp4",), {}, ("",), (4,))
DOORS = {
    "extract": (idt.extract, {"video": FRAMES, "matcher": "flow", "settings": idt.IdtSettings()}),
    "IdtSettings": (idt.IdtSettings, {"grid": 5, "quality": 0.1, "stride": 1.4, "max_side": 0}),
    "kmeans.fit": (kmeans.fit, {"points": POINTS, "num_clusters": 3, "seed": 0}),
    "kmeans.fit_runs": (kmeans.fit_runs, {"points": POINTS, "num_clusters": 3, "seeds": [0]}),
    "kmeans.assign": (kmeans.assign, {"points": POINTS, "centroids": POINTS[:3]}),
    "kmeans.update": (kmeans.update, {"sums": POINTS[:3], "sizes": np.ones(3, np.float32)}),
    "nearest": (neighbors.nearest, {"queries": UNIT, "rows": UNIT, "num_neighbors": 2}),
    "from_torch": (state_dict.from_torch, {"state_dict": {}}),
    "to_torch": (state_dict.to_torch, {"values": {}}),
    "arrays": (state_dict.arrays, {"model": None}),
    "loss": (
        local_aggregation.loss,
        GOOD | {"num_background": 8, "temperature": 0.07, "num_candidates": 0},
    ),
    "full_softmax": (instance_recognition.full_softmax, RECOGNITION),
    "nce": (instance_recognition.nce, RECOGNITION | {"num_negatives": 8}),
    "bank.update": (
        memory_bank.update,
        {"bank": UNIT, "index": INDEX, "embedding": UNIT[:4], "momentum": 0.5},
    ),
    "nearest_neighbor": (probes.nearest_neighbor, PROBE),
    "linear": (probes.linear, PROBE | {"seed": 0}),
    "standardize": (probes.standardize, {"x_train": POINTS, "x_test": POINTS}),
    "linear_fisher": (probes.linear_fisher, PRESENT | {"seed": 0}),
    "linear_svm": (probes.linear_svm, PRESENT | {"penalty": 1.0}),
    "recall": (retrieval.recall, TRAIN_TEST | {"depths": (1, 5)}),
    "vote": (retrieval.vote, PROBE | {"num_neighbors": 3, "temperature": 0.07}),
    "agreement": (
        agreement.adjusted_mutual_information,
        {"labels": np.zeros((1, 40), int), "values": VALUES},
    ),
    "few_shot": (few_shot.accuracy, TRAIN_TEST | {"shots": (1,), "num_draws": 1, "seed": 0}),
    "sides": (
        protocol.sides,
        {"values": VALUES, "split": VALUES, "is_group": False, "seed": 0},
    ),
    "probe": (video.probe, {"path": "a.mp4", "decode": True}),
    "frames": (video.frames, {"path": "a.mp4"}),
    "clip": (video.clip, {"path": "a.mp4", "start": 0, "num_frames": 4, "stride": 1}),
    "training_clips": (
        clips.training_clips,
        CLIPS | {"manifest": VIDEOS, "scales": (1.0,), "num_epochs": 1},
    ),
    "evaluation_clips": (
        clips.evaluation_clips,
        CLIPS | {"manifest": VIDEOS, "clips_per_video": 1},
    ),
    "augment": (
        augment.augment,
        {
            "clips": np.zeros((1, 4, 16, 16, 3), np.uint8),
            "keys": np.zeros(1, np.uint32),
        },
    ),
    "manifest.read": (manifest.read, {"source": "videos"}),
    "verify": (
        verify.verify,
        {"manifest": VIDEOS, "on_error": "skip", "num_workers": 1, "decode": True},
    ),
    "assign_split": (
        splits.assign_split,
        {"manifest": VIDEOS, "group": "", "holdout": 0.25, "seed": 0},
    ),
    "torch_files.read": (torch_files.read, {"path": "a.pth"}),
    "torch_files.write": (torch_files.write, {"arrays": {}, "file": None}),
    "GMM": (fisher.GMM, {"num_components": 2, "seed": 0, "max_iterations": 5}),
    "PCA": (fisher.PCA, {"explained_variance": 0.9}),
    "Sketch": (fisher.Sketch, {"dim_in": 6, "dim_out": 4, "seed": 0}),
    "sample_items": (fisher.sample_items, {"names": ["a"], "num_items": 1, "seed": 0}),
    "FisherVectors": (
        fisher.FisherVectors,
        {"video_ids": ("a",), "vectors": np.zeros((1, 3)), "has_vector": np.ones(1, bool)},
    ),
    "Model.load": (fisher.Model.load, {"path": "model.npz"}),
}


def _wrong(value):
    """Yield arguments that are wrong in the place of `value`."""
    yield from (object(), [object()])
    if isinstance(value, bool | str | dict | int | float):
        yield None
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield from (-1, np.nan, "3", np.ones(2))
    if isinstance(value, np.ndarray | jax.Array) and value.ndim:
        yield from (None, np.asarray(value)[None])
        if value.dtype.kind == "f":
            yield from (np.asarray(value).astype(str), np.asarray(value).astype(complex))


@pytest.mark.parametrize("name", DOORS)
def test_every_wrong_argument_is_refused_by_its_name(name):
    function, arguments = DOORS[name]
    for argument, value in arguments.items():
        for wrong in _wrong(value):
            with pytest.raises(ValueError) as raised:
                function(**arguments | {argument: wrong})
            message = str(raised.value)
            assert argument in message or "frame 0" in message, (argument, wrong)
            assert len(message) < 250 and "\n" not in message


@pytest.mark.parametrize(
    "name", ["loss", "linear", "linear_svm", "recall", "vote", "kmeans.assign"]
)
def test_arrays_that_do_not_match_and_values_that_are_not_finite_are_refused(name):
    function, arguments = DOORS[name]
    for argument, value in arguments.items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            with pytest.raises(ValueError, match=f"{argument}.*not finite|not finite.*{argument}"):
                function(**arguments | {argument: _with(np.nan, 1)[: len(value)]})
            with pytest.raises(ValueError, match=f"match .*{argument}|^{argument} must be"):
                function(**arguments | {argument: value[:, :2]})
