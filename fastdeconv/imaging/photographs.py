"""Real photographs that come inside scikit-image's wheel: nothing is downloaded."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastdeconv.imaging.colour import luminance
from fastdeconv.imaging.files import read_image

# Held out: the everyday photographs stored without loss, so that the truth is clean. The left and right motorcycle
# show one scene, so the right one serves nowhere.
HELD_OUT = {
    "astronaut": "astronaut.png",
    "camera": "camera.png",
    "chelsea": "chelsea.png",
    "coffee": "coffee.png",
    "motorcycle": "motorcycle_left.png",
}
# Every other photograph of at least 256 pixels a side; drawings and scanned text are none.
TRAINING = {
    "brick": "brick.png",
    "cell": "cell.png",
    "clock": "clock_motion.png",
    "coins": "coins.png",
    "grass": "grass.png",
    "gravel": "gravel.png",
    "hubble": "hubble_deep_field.jpg",
    "ihc": "ihc.png",
    "moon": "moon.png",
    "retina": "retina.jpg",
    "rocket": "rocket.jpg",
}


def photograph(file: str) -> NDArray[np.float32]:
    """Return the luminance of one of scikit-image's photographs, from 0 to 1, as float32 of shape (H, W).

    Parameters
    ----------
    file : str
        A value of `HELD_OUT` or `TRAINING`.

    Raises
    ------
    ModuleNotFoundError
        scikit-image is not installed.
    fastdeconv.imaging.files.FileError
        Its installation lacks the photograph.
    """
    # The file itself, not skimage.data: that would make a cache folder in the user's home.
    spec = find_spec("skimage")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("No module named 'skimage'", name="skimage")
    return luminance(read_image(Path(spec.submodule_search_locations[0], "data", file)))
