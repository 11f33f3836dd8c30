"""Images of every stored kind through `Upscaler` and `Restorer`, against planes through `apply` and colours by hand."""

import numpy as np
import pytest

from fastdeconv.imaging import network as networks
from fastdeconv.imaging import shipped
from fastdeconv.imaging.colour import luminance
from fastdeconv.imaging.degrade import add_noise, blur, jpeg
from fastdeconv.imaging.enhance import Restorer, Upscaler
from fastdeconv.imaging.network import Degradation, Network, NetworkError
from fastdeconv.imaging.photographs import HELD_OUT, photograph
from fastdeconv.imaging.resize import resize
from fastdeconv.imaging.tiles import apply

LAYERS = {"features": 5, "shrunk": 3, "maps": 1}
BLUR = Degradation(blur=(1.6, 1.6))


def enhancer(scale, strength=0.05):
    made = Upscaler(scale, **LAYERS) if scale > 1 else Restorer(BLUR, **LAYERS)
    made.network = Network(made.description)
    rng = np.random.default_rng(0)
    for parameter in made.network.body[-1].parameters():
        parameter.data[...] = rng.normal(0, strength, parameter.shape)
    return made


def levels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def by_hand(made, rgb):
    """Return luma through the network, the differences of colour by bicubic interpolation, and back to RGB."""
    scale = made.description.scale
    size = tuple(scale * n for n in rgb.shape[:2])
    forward = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112], [112, -93.786, -18.214]]) / 255
    y, cb, cr = np.moveaxis(rgb @ forward.T, -1, 0).astype(np.float32)
    y = apply(made.network, y + np.float32(16 / 255)) - 16 / 255
    cb, cr = (resize(np.ascontiguousarray(plane), size) for plane in (cb, cr))
    return np.stack([y, cb, cr], axis=-1) @ np.linalg.inv(forward).T


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_colours_are_luma_through_the_network_and_bicubic_chroma(scale):
    made, rgb = enhancer(scale), levels(21, 26, 3)
    expected = by_hand(made, rgb / 255)
    np.testing.assert_allclose(made.transform((rgb / 255).astype("f4"), channel_axis=-1), expected, atol=1e-5)
    exact = made.transform(rgb, channel_axis=-1)
    assert exact.dtype == np.uint8
    assert np.abs(exact - expected.clip(0, 1) * 255).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32", "float64"])
def test_element_types(dtype):
    made, grey = enhancer(2), levels(20, 31)
    values = (grey / 255).astype("f4")
    expected = apply(made.network, values)
    full = {"uint8": 255, "uint16": 65535}.get(dtype, 1)
    image = (grey.astype(dtype) * (full // 255)) if full > 1 else (grey / 255).astype(dtype)
    result = made.transform(image)
    assert result.dtype == dtype
    if full == 1:
        np.testing.assert_allclose(result, expected, atol=1e-6)
        assert result.min() < 0 or result.max() > 1  # not clipped
    else:
        assert np.abs(result - expected.clip(0, 1) * full).max() <= 0.51
    swapped = image.astype(image.dtype.newbyteorder(">"))
    np.testing.assert_array_equal(made.transform(swapped), result)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_channels_may_be_any_axis_and_pages_any_number(channels):
    made, image = enhancer(2), levels(2, 3, 12, 15, channels)
    image[..., -1] |= 1 if channels in (2, 4) else 0
    expected = made.transform(image, channel_axis=-1)
    assert expected.shape == (2, 3, 24, 30, channels)
    np.testing.assert_array_equal(made.transform(image[1, 2], channel_axis=2), expected[1, 2])
    for axis in (0, 1, 2, 3):
        moved = np.moveaxis(image, -1, axis)
        np.testing.assert_array_equal(made.transform(moved, channel_axis=axis), np.moveaxis(expected, -1, axis))
        np.testing.assert_array_equal(
            made.transform(np.ascontiguousarray(moved), channel_axis=axis), np.moveaxis(expected, -1, axis)
        )
    if channels == 1:
        np.testing.assert_array_equal(made.transform(image[..., 0]), expected[..., 0])


@pytest.mark.parametrize("scale", [1, 2])
def test_tiles_change_nothing(scale):
    made, image = enhancer(scale), levels(33, 41, 4)
    whole = made.transform(image, channel_axis=-1, tile=None)
    for tile in (9, 16, "auto"):
        np.testing.assert_array_equal(made.transform(image, channel_axis=-1, tile=tile), whole)


def test_the_image_is_left_as_it_was():
    made, image = enhancer(2), levels(12, 15, 4)
    before = image.copy()
    image.flags.writeable = False
    made.transform(image, channel_axis=-1)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("scale", [1, 2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_opaque_alpha_changes_nothing(scale, dtype):
    made, rgb = enhancer(scale), levels(14, 15, 3)
    full = 255 if dtype == "uint8" else 1
    if dtype == "float32":
        rgb = (rgb / 255).astype(dtype)
    result = made.transform(np.dstack([rgb, np.full((14, 15), full, dtype)]), channel_axis=-1)
    np.testing.assert_array_equal(result[..., :3], made.transform(rgb, channel_axis=-1))
    assert (result[..., 3] == full).all()
    # As translucent as cannot be seen: the other way of computing it.
    almost = np.dstack([rgb / full, np.full((14, 15), 0.999)]).astype("f4")
    np.testing.assert_allclose(
        made.transform(almost, channel_axis=-1)[..., :3],
        made.transform(almost[..., :3], channel_axis=-1),
        atol=1e-5,
    )


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("beneath", [0, 255])
def test_what_transparent_pixels_hold_does_not_bleed(scale, beneath):
    made = enhancer(scale, 0.01)
    image = np.full((24, 24, 4), 150, np.uint8)
    image[..., 3] = 255
    image[:12, :16] = beneath
    image[:12, :16, 3] = 0
    result = made.transform(image, channel_axis=-1)
    solid = made.transform(np.full((24, 24, 3), 150, np.uint8), channel_axis=-1)
    assert 0 < solid.min() <= solid.max() < 255
    visible = result[..., 3] > 0
    assert np.abs(result[..., :3].astype(int) - solid)[visible].max() <= 1
    alpha = resize((image[..., 3] / 255).astype("f4"), result.shape[:2])
    np.testing.assert_allclose(result[..., 3], alpha.clip(0, 1) * 255, atol=0.51)


def test_grey_is_the_plane_itself():
    made, grey = enhancer(2), levels(12, 15)
    expected = np.clip(apply(made.network, (grey / 255).astype("f4")), 0, 1)
    assert np.abs(made.transform(grey) - 255 * expected).max() <= 0.51
    rgb = np.dstack([grey] * 3)
    wanted = apply(made.network, luminance((rgb / 255).astype("f4")))
    got = luminance((made.transform((rgb / 255).astype("f4"), channel_axis=-1)).astype("f4"))
    np.testing.assert_allclose(got, wanted, atol=2e-6)


@pytest.mark.parametrize(
    ("image", "axis", "message"),
    [
        ([[1]], None, "image must be a NumPy array without a mask; got list"),
        (np.ma.zeros((4, 4)), None, "without a mask"),
        (np.zeros((4, 4), int), None, "image must be of uint8, uint16, float32, float64; got int64"),
        (np.zeros((4, 4), bool), None, "got bool"),
        (np.zeros(4, np.uint8), None, r"at least 2 axes; got shape \(4,\)"),
        (np.zeros((4, 4), np.uint8), -1, r"at least 3 axes, with that of the channels; got shape \(4, 4\)"),
        (np.zeros((9, 9, 5), np.uint8), -1, r"1 to 4 channels .* got 5 on axis 2 of shape \(9, 9, 5\)"),
        (np.zeros((9, 9, 3), np.uint8), None, "pass channel_axis=-1"),
        (np.zeros((9, 9, 3), np.uint8), 3, r"channel_axis must be an axis of the image of shape \(9, 9, 3\); got 3"),
        (np.zeros((9, 9, 3), np.uint8), 1.0, "channel_axis must be an int"),
        (np.zeros((9, 0), np.uint8), None, r"no empty axis; got shape \(9, 0\)"),
        (np.full((9, 9), np.nan, np.float32), None, "image must be finite"),
        (np.full((9, 9), -np.inf), None, "image must be finite"),
        (np.full((9, 9, 2), 2.0), -1, "alpha from 0 to 1; got 2 to 2"),
    ],
)
def test_images_that_are_refused(image, axis, message):
    with pytest.raises((TypeError, ValueError), match=message):
        enhancer(2).transform(image, channel_axis=axis)


def test_saving_and_loading(tmp_path):
    image = levels(12, 15)
    for made, kind, other, task in (
        (enhancer(3), Upscaler, Restorer, "enlarges"),
        (enhancer(1), Restorer, Upscaler, "restores"),
    ):
        path = tmp_path / f"{task}.safetensors"
        made.save(path)
        again = kind.load(path)
        assert again.description == made.description
        np.testing.assert_array_equal(again.transform(image), made.transform(image))
        with pytest.raises(NetworkError, match=f"holds a network that {task}; {kind.__name__}.load reads it"):
            other.load(path)
        with pytest.raises(FileExistsError):
            made.save(path)


def test_nothing_works_without_a_network(tmp_path):
    for made in (Upscaler(2), Restorer(BLUR)):
        with pytest.raises(RuntimeError, match="has no network yet: call fit, or make it by"):
            made.transform(levels(9, 9))
        with pytest.raises(RuntimeError, match="has no network yet"):
            made.save(tmp_path / "none")
    with pytest.raises(ValueError, match="scale must be 2, 3 or 4; got 1"):
        Upscaler(1)
    with pytest.raises(TypeError, match="degradation must be a Degradation"):
        Restorer(1.6)


def test_fit_learns_and_the_seed_decides():
    rng = np.random.default_rng(0)
    image = np.kron(rng.random((50, 50)) > 0.5, np.ones((3, 3)))
    image = (np.stack([image, 1 - image, image], axis=-1) * 255).astype(np.uint8)
    made = [Upscaler(2, **LAYERS).fit([image], channel_axis=-1, steps=3, seed=s, progress=False) for s in (0, 0, 1)]
    states = [each.network.state_dict()["body.0.weight"] for each in made]
    np.testing.assert_array_equal(states[0], states[1])
    assert (states[0] != states[2]).any()
    assert (states[0] != Network(made[0].description).state_dict()["body.0.weight"]).any()
    assert Restorer(BLUR, **LAYERS).fit([image[..., 0]], steps=1, progress=False).network.description.scale == 1
    with pytest.raises(ValueError, match=r"images must have at least one of \d+×\d+ pixels or more; got 20×20"):
        Upscaler(2).fit([image[:20, :20]], channel_axis=-1)
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        Upscaler(2).fit([image[..., 0]], steps=0)


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Have no networks in the package but those that are saved to the folder returned."""
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    for function in (shipped.upscaling, shipped.restoring):
        function.cache_clear()
    yield tmp_path
    for function in (shipped.upscaling, shipped.restoring):
        function.cache_clear()


def test_without_shipped_networks_the_error_says_what_to_do(models):
    with pytest.raises(NetworkError, match="no network for scale 3 in"):
        Upscaler.pretrained(3)
    with pytest.raises(NetworkError, match="no network that restores in"):
        Restorer.pretrained()
    with pytest.raises(ValueError, match="scale must be 2, 3 or 4; got 8"):
        Upscaler.pretrained(8)


def test_the_shipped_network_of_a_scale(models):
    for scale in (2, 3):
        enhancer(scale).save(models / f"upscale-x{scale}.safetensors")
    made = Upscaler.pretrained(3)
    assert made.scale == 3
    np.testing.assert_array_equal(made.transform(levels(9, 9)), enhancer(3).transform(levels(9, 9)))


def restorers(folder):
    for name, degradation in {
        "blur": Degradation((1.6, 1.6), (2 / 255, 2 / 255)),
        "jpeg": Degradation(jpeg=(30, 60)),
        "weak": Degradation((0.8, 1.2), (0.0, 0.01)),
    }.items():
        networks.save(
            Network(networks.Description(1, **LAYERS, degradation=degradation)), folder / f"{name}.safetensors"
        )


@pytest.mark.parametrize(
    ("asked", "name", "closest"),
    [
        ((1.6, 2 / 255, None), "blur", False),
        ((3.0, None, None), "blur", True),
        ((1.0, None, None), "weak", False),
        ((None, None, 40), "jpeg", False),
        ((None, None, 90), "jpeg", True),
    ],
)
def test_the_closest_network_is_taken_and_told(models, asked, name, closest):
    restorers(models)
    made = Restorer.pretrained(*asked)
    assert made.choice.startswith(f"{name}.safetensors undoes ")
    assert ("the closest to" in made.choice) == closest
    assert str(made.description.degradation) in made.choice


def test_auto_estimates_from_the_image(models):
    restorers(models)
    sharp = photograph(HELD_OUT["camera"])[:320, :320]
    made = Restorer.pretrained()
    for image, expected in (
        (sharp, "nothing to undo"),
        (add_noise(sharp, 0.1, np.random.default_rng(0)), "no network fits; weak.safetensors undoes"),
    ):
        np.testing.assert_array_equal(made.transform(image), image)
        assert expected in made.choice
    for image, name in ((blur(sharp, 1.6), "blur"), (blur(sharp, 1), "weak"), (jpeg(sharp, 40), "jpeg")):
        made.transform(image)
        assert f"{name}.safetensors undoes" in made.choice, made.choice
        assert made.choice.startswith("estimated: blocks ")
        assert str(made.description.degradation) in made.choice
    told = Restorer.pretrained(blur=1.6, noise=None, jpeg=None)
    told.transform(sharp)
    assert not told.choice.startswith("estimated")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"blur": "much"}, "blur must be a number, \"auto\" or None; got 'much'"),
        ({"blur": -1}, "blur must be a number of at least 0"),
        ({"noise": 2}, "noise must be a share of the full scale, 2/255 for instance; got 2"),
        ({"jpeg": 0}, "jpeg must be a quality from 1 to 100; got 0"),
        ({"jpeg": 40.0}, "jpeg must be an int"),
    ],
)
def test_what_cannot_be_undone_is_refused(models, asked, message):
    restorers(models)
    with pytest.raises((TypeError, ValueError), match=message):
        Restorer.pretrained(**asked)
