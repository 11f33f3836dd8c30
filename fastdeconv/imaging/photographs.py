"""Real photographs that come inside packages that pip installs: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.colour import luminance
from fastdeconv.imaging.files import FileError, read_image

# By name, where they lie: a package, and the path in it. Held out are the everyday photographs stored without loss, so
# that the truth is clean. The left and right motorcycle show one scene, so the right one serves nowhere.
HELD_OUT = {
    "astronaut": "skimage/data/astronaut.png",
    "camera": "skimage/data/camera.png",
    "chelsea": "skimage/data/chelsea.png",
    "coffee": "skimage/data/coffee.png",
    "motorcycle": "skimage/data/motorcycle_left.png",
}
# Every other photograph of at least 256 pixels a side whose licence scikit-image states: CC0, or free of restrictions.
TRAINING = {
    "brick": "skimage/data/brick.png",
    "cell": "skimage/data/cell.png",
    "clock": "skimage/data/clock_motion.png",
    "coins": "skimage/data/coins.png",
    "grass": "skimage/data/grass.png",
    "gravel": "skimage/data/gravel.png",
    "hubble": "skimage/data/hubble_deep_field.jpg",
    "ihc": "skimage/data/ihc.png",
    "retina": "skimage/data/retina.jpg",
    "rocket": "skimage/data/rocket.jpg",
}
# The same of packages that many have: Matplotlib (public domain), PyWavelets (public domain) and scikit-learn (CC BY
# 2.0, by danielbuechele and vultilion).
MORE_TRAINING = {
    "hopper": "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
    "ascent": "pywt/data/ascent.npz",
    "china": "sklearn/datasets/images/china.jpg",
    "flower": "sklearn/datasets/images/flower.jpg",
}
# Of SPORCO: free of copyright restrictions by its README. Others measure on monarch and barbara, so nothing is
# ever trained on these.
MORE_HELD_OUT = {
    "barbara": "sporco/data/barbara.png",
    "kodim23": "sporco/data/kodim23.png",
    "monarch": "sporco/data/monarch.png",
    "sail": "sporco/data/sail.png",
    "tulips": "sporco/data/tulips.png",
}


def photograph(file: str) -> NDArray[np.float32]:
    """Return the luminance of a photograph, from 0 to 1, as float32 of shape (H, W).

    Parameters
    ----------
    file : str
        A value of one of the tables above.

    Raises
    ------
    ModuleNotFoundError
        Its package is not installed.
    fastdeconv.imaging.files.FileError
        The installation lacks the photograph.
    """
    package, _, path = file.partition("/")
    # The file itself, not skimage.data or its like: those import much, and make a cache folder in the user's home.
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)
    found = Path(spec.submodule_search_locations[0], path)
    if found.suffix != ".npz":
        return luminance(read_image(found))
    try:
        with np.load(found, allow_pickle=False) as arrays:
            levels: NDArray[np.float32] = arrays["data"].astype(np.float32)
            return levels / np.float32(255)
    except (OSError, ValueError, KeyError) as error:
        raise FileError(f"{found}: cannot be read: {error}") from error


def installed(files: Mapping[str, str]) -> dict[str, NDArray[np.float32]]:
    """Return by name the luminance of those photographs whose packages are installed and have them."""
    planes = {}
    for name, file in files.items():
        try:
            planes[name] = photograph(file)
        except (ModuleNotFoundError, FileError):
            continue
    return planes
