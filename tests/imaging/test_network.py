"""Descriptions, the module against convolutions written out, its gradients, and its file in every state of damage."""

import json

import numpy as np
import pytest

from fastdeconv import fit, nn, tensor_file
from fastdeconv.imaging import network as networks
from fastdeconv.imaging.network import Degradation, Description, Network, NetworkError
from fastdeconv.imaging.resize import resize

SMALL = {"features": 5, "shrunk": 3, "maps": 1}


def small(scale, seed=0, **layers):
    """Return a network whose last layer, too, has weights of some size."""
    network = Network(Description(scale, **SMALL | layers), seed=seed)
    rng = np.random.default_rng(seed)
    for parameter in network.parameters():
        parameter.data[...] += rng.normal(0, 0.05, parameter.shape)
    return network


def picture(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width), dtype=np.float32)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_a_fresh_network_is_bicubic_enlargement(scale):
    network = Network(Description(scale, **SMALL))
    network.body[-1].weight.data[...] = 0
    x = np.pad(picture(11, 9), network.description.radius, mode="symmetric")
    expected = resize(picture(11, 9), (11 * scale, 9 * scale))
    np.testing.assert_allclose(network(x[None, None])[0, 0], expected, atol=2e-6)


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_the_radius_is_what_a_pixel_depends_on(scale):
    network = small(scale)
    radius = network.description.radius
    assert radius == 2 + 1 + 1
    x = picture(2 * radius + 1, 2 * radius + 1)[None, None]
    y = network(x)
    assert y.shape == (1, 1, scale, scale)
    for corner in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        changed = x.copy()
        changed[0, 0][corner] += 1
        assert np.abs(network(changed) - y).max() > 1e-6


def test_each_part_of_the_description_counts():
    description = Description(3, 7, 4, 2, 3, 5, 3)
    assert (description.radius, description.kernel_size) == (1 + 2 * 2 + 1, 9)
    sizes = [tuple(p.shape) for name, p in Network(description).body.named_parameters() if name.endswith("weight")]
    assert [shape for shape in sizes if len(shape) == 4] == [
        (7, 1, 3, 3), (4, 7, 1, 1), (4, 4, 5, 5), (4, 4, 5, 5), (7, 4, 1, 1), (7, 1, 9, 9)
    ]  # fmt: skip
    assert description.multiplications == 7 * 9 + 28 + 2 * 16 * 25 + 28 + 7 * 81


def test_gradients_are_those_of_finite_differences():
    network = small(2)
    x = picture(13, 12)[None, None]
    weight = np.random.default_rng(1).standard_normal(network(x).shape, dtype=np.float32)
    assert network.backward(weight) is None
    for name, parameter in network.named_parameters():
        direction = np.random.default_rng(2).standard_normal(parameter.shape, dtype=np.float32)
        losses = []
        for step in (1e-3, -1e-3):
            parameter.data[...] += step * direction
            with nn.no_grad():
                losses.append((network(x) * weight).sum(dtype=np.float64))
            parameter.data[...] -= step * direction
        slope = (losses[0] - losses[1]) / 2e-3
        np.testing.assert_allclose((parameter.grad * direction).sum(), slope, rtol=0.01, atol=0.02, err_msg=name)


def test_training_lowers_the_loss():
    network = Network(Description(2, **SMALL))
    radius = network.description.radius
    truth = np.kron(picture(20, 20) > 0.5, np.ones((4, 4))).astype(np.float32)
    low = resize(truth, (40, 40))
    x = np.pad(low, radius, mode="symmetric")[None, None]
    history = fit.fit(network, (x, truth[None, None]), max_steps=60, learning_rate=3e-3, progress=False)
    assert history.loss[-1] < 0.7 * history.loss[0]


def test_the_seed_decides_the_weights():
    states = [Network(Description(2, **SMALL), seed=seed).state_dict() for seed in (1, 1, 2)]
    name = "body.0.weight"
    np.testing.assert_array_equal(states[0][name], states[1][name])
    assert (states[0][name] != states[2][name]).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 5}, "scale must be 2, 3 or 4 to enlarge, or 1 to restore; got 5"),
        ({"scale": 2.0}, "scale must be an int"),
        ({"scale": 2, "features": 0}, "features must be from 1 to 4096; got 0"),
        ({"scale": 2, "maps": -1}, "maps must be from 0"),
        ({"scale": 2, "map_size": 4}, "map_size must be odd"),
        ({"scale": 2, "maps": 0, "feature_size": 1, "taps": 3}, "must see at least 2 pixels around one"),
        ({"scale": 1, "degradation": "blur"}, "degradation must be a Degradation"),
    ],
)
def test_descriptions_that_are_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Description(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"blur": 1.6}, r"blur must be a pair \(low, high\); got 1.6"),
        ({"blur": (2, 1)}, r"blur must be a range \(low, high\); got \(2, 1\)"),
        ({"noise": (-1, 0)}, "noise must be a number of at least 0; got -1"),
        ({"jpeg": (0, 40)}, "qualities from 1 to 100"),
        ({"jpeg": (40.0, 40.0)}, "jpeg must be an int"),
    ],
)
def test_degradations_that_are_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Degradation(**arguments)


def test_a_degradation_says_what_it_is():
    assert str(Degradation((1.6, 1.6), (2 / 255, 2 / 255))) == "blur of σ 1.6 px and noise of σ 2/255"
    assert str(Degradation(jpeg=(30, 60))) == "JPEG of quality 30 to 60"
    assert str(Degradation()) == "nothing"


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "network.safetensors"
    network = small(1, degradation=Degradation((1.0, 2.0), (0.0, 0.01), (40, 40)))
    network.notes = {"data": "two photographs"}
    networks.save(network, path)
    return network, path


def test_a_file_holds_all(saved):
    network, path = saved
    again = networks.load(path)
    assert again.description == network.description
    assert again.notes == network.notes == networks.describe(path)[1]
    for name, array in network.state_dict().items():
        np.testing.assert_array_equal(again.state_dict()[name], array)
    copy = path.with_name("copy")
    copy.write_bytes(networks.to_bytes(again))
    assert networks.load(copy).description == network.description
    with pytest.raises(FileExistsError, match="overwrite=True"):
        networks.save(network, path)
    networks.save(network, path, overwrite=True)


def test_a_file_cut_off_anywhere_is_told(saved, tmp_path):
    content = saved[1].read_bytes()
    for length in (0, 1, 7, 8, 9, 200, len(content) // 2, len(content) - 1):
        path = tmp_path / "short.safetensors"
        path.write_bytes(content[:length])
        with pytest.raises(NetworkError, match=r"short.safetensors: cannot be read as a network: [^\n]*$"):
            networks.load(path)


def test_foreign_files_are_told(saved, tmp_path):
    with pytest.raises(NetworkError, match=r"none.safetensors: cannot be read \(No such file"):
        networks.load(tmp_path / "none.safetensors")
    with pytest.raises(NetworkError, match="cannot be read"):
        networks.load(tmp_path)
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(NetworkError, match="cannot be read as a network"):
        networks.load(path)
    tensor_file.write(path, {"weight": np.zeros(3, np.float32)}, {})
    with pytest.raises(NetworkError, match="is a safetensors file, but holds no network"):
        networks.load(path)


def rewritten(path, texts=None, **arrays):
    tensors, metadata = tensor_file.read(path)
    tensor_file.write(path, tensors | arrays, metadata | (texts or {}))
    return path


def test_files_that_contradict_themselves_are_told(saved):
    path = saved[1]
    whole = path.read_bytes()
    description = json.loads(tensor_file.read(path)[1]["description"])
    for texts, arrays, message in (
        ({"version": "2"}, {}, "has format 2; this version of fastdeconv reads 1"),
        ({"description": "{"}, {}, "its description cannot be read"),
        ({"description": "[1]"}, {}, "its description cannot be read: a description must be a JSON object"),
        ({"description": json.dumps(description | {"features": "many"})}, {}, "features must be an int"),
        ({"description": json.dumps(description | {"colour": 1})}, {}, "its description cannot be read"),
        ({"notes": "[]"}, {}, "its description cannot be read"),
        ({"description": json.dumps(description | {"maps": 2})}, {}, "differ by 10.bias"),
        ({"description": json.dumps(description | {"features": 6})}, {}, "must be finite float32 of shape"),
        ({}, {"extra": np.zeros(1, np.float32)}, "differ by extra"),
        ({}, {"0.bias": np.full(5, np.nan, np.float32)}, "0.bias must be finite"),
        ({}, {"0.bias": np.zeros(5)}, r"0.bias must be finite float32 of shape \(5,\); got float64"),
    ):
        path.write_bytes(whole)
        with pytest.raises(NetworkError, match=message):
            networks.load(rewritten(path, texts, **arrays))
