"""Enlarging and restoring images of any stored kind: `Upscaler` and `Restorer`.

The network sees luminance alone (ITU-R BT.601), and what it adds there goes to red, green and blue alike: colours are
those of bicubic enlargement. That is the field's way, luminance through the network and the two differences of colour
by bicubic interpolation, without the conversions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self

from numpy.typing import NDArray

from fastdeconv.imaging import network as networks
from fastdeconv.imaging import shipped
from fastdeconv.imaging.network import Degradation, Description, Network
from fastdeconv.imaging.render import rendered
from fastdeconv.imaging.stored import as_pages, luminances
from fastdeconv.imaging.tiles import Tile
from fastdeconv.problem import as_int

Array = NDArray[Any]

# Steps of `fit`: some minutes on a few cores.
STEPS = 5_000


class _Enhancer(ABC):
    """What `Upscaler` and `Restorer` share.

    Attributes
    ----------
    description : Description
        The network that `fit` trains.
    network : Network or None
        None before `fit`, `load` or `pretrained`.
    """

    def __init__(self, description: Description) -> None:
        self.description = description
        self.network: Network | None = None

    @abstractmethod
    def _chosen(self, image: Array, channel_axis: int | None) -> Network | None:
        """Return the network for an image; None leaves it as it is."""

    def fit(
        self,
        images: Iterable[Array],
        *,
        channel_axis: int | None = None,
        steps: int = STEPS,
        seed: int = 0,
        progress: bool | None = None,
        device: str = "cpu",
    ) -> Self:
        """Train the network on what the degradation makes of images, and on these as they should come out.

        Parameters
        ----------
        images : iterable of ndarray
            Sharp and clean, stored as `transform` takes them; one has some 100 pixels a side at least, or more for
            larger scales.
        channel_axis : int, optional
            As of `transform`, of every image.
        steps : int
            Batches of crops to learn from.
        seed : int
            Of the first weights, the crops and the degradation: the same arguments give the same network.
        progress : bool, optional
            Whether to show a bar; None where the output is a terminal.
        device : str
            Where the network learns: "cpu", "cuda" or "cuda:N". Afterwards it is on the CPU.

        Returns
        -------
        self

        Raises
        ------
        TypeError, ValueError, RuntimeError
            The message names the argument, what came and what would do; or what the device lacks.
        """
        from fastdeconv.imaging.training.learn import learned

        planes = [plane for image in images for plane in luminances(image, channel_axis)]
        self.network = learned(self.description, planes, steps=steps, seed=seed, progress=progress, device=device)
        return self

    def transform(
        self,
        image: Array,
        *,
        channel_axis: int | None = None,
        tile: Tile = "auto",
        device: str | None = None,
        limits: bool = True,
    ) -> Array:
        """Return the enlarged or restored image.

        Parameters
        ----------
        image : ndarray, shape (…, H, W) with the channels anywhere
            uint8, uint16, float32 or float64; white is the type's highest value, or 1 for floating point. Leading axes
            are pages.
        channel_axis : int, optional
            The axis of the channels: grey, grey and alpha, RGB, or RGB and alpha. None for grey images without one.
        tile : int, "auto" or None
            As of `tiles.apply`; the result is the same.
        device : str, optional
            Where the network is computed, as of `fastdeconv.set_device`, whose setting None is: "cpu", "cuda",
            "cuda:N", or "auto" for what an estimate says is faster, transfers included.
        limits : bool
            As of `tiles.apply`, of luminance.

        Returns
        -------
        ndarray
            Of the image's dtype, with its axes. Integers are rounded and clipped; floating-point values are computed as
            float32, and may overshoot black and white a little, as bicubic interpolation does.

        Raises
        ------
        TypeError, ValueError, RuntimeError
            The message names the argument, what came and what would do; or what the device lacks.

        Notes
        -----
        Alpha is enlarged bicubically; it is not associated: colours are not multiplied by it, and are weighed by it
        where they are enlarged, so that what transparent pixels hold does not bleed into visible ones.
        """
        pages = as_pages(image, channel_axis)
        network = self._chosen(image, channel_axis)
        return pages.array.copy() if network is None else rendered(pages, network, tile, device, limits)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the network to a safetensors file.

        Raises
        ------
        RuntimeError
            There is none yet.
        OSError
            The file cannot be written, or exists and `overwrite` is False.
        """
        networks.save(self._trained(), path, overwrite=overwrite)

    def _trained(self) -> Network:
        if self.network is None:
            name = type(self).__name__
            raise RuntimeError(f"{name} has no network yet: call fit, or make it by {name}.load or {name}.pretrained")
        return self.network

    @classmethod
    def _of(cls, network: Network) -> Self:
        made = cls.__new__(cls)
        _Enhancer.__init__(made, network.description)
        made.network = network
        return made


class Upscaler(_Enhancer):
    """Enlarges images 2, 3 or 4 times.

    Parameters
    ----------
    scale : int
    **layers : int
        Sizes of the network's layers: those of `fastdeconv.imaging.network.Description`.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what came and what would do.

    Examples
    --------
    >>> from fastdeconv.imaging.enhance import Upscaler
    >>> large = Upscaler.pretrained(2).transform(photograph, channel_axis=-1)  # doctest: +SKIP
    """

    def __init__(self, scale: int = 2, **layers: int) -> None:
        super().__init__(_with_layers(Description(_enlarging(scale)), layers))

    @property
    def scale(self) -> int:
        """How many times larger the result is on each axis."""
        return self.description.scale

    def _chosen(self, image: Array, channel_axis: int | None) -> Network:
        return self._trained()

    @classmethod
    def load(cls, path: str | Path) -> Upscaler:
        """Read a network from a file.

        Raises
        ------
        fastdeconv.imaging.network.NetworkError
            It holds none, or one that restores.
        """
        network = networks.load(path)
        if network.description.scale == 1:
            raise networks.NetworkError(f"{path}: holds a network that restores; Restorer.load reads it")
        return cls._of(network)

    @classmethod
    def pretrained(cls, scale: int = 2) -> Upscaler:
        """Return one with a network that comes with the package.

        Raises
        ------
        fastdeconv.imaging.network.NetworkError
            There is none for this scale.
        """
        return cls._of(shipped.upscaling(_enlarging(scale)))

    def __repr__(self) -> str:
        return f"<Upscaler ×{self.scale}, {'trained' if self.network else 'not trained'}>"


def _with_layers(description: Description, layers: dict[str, Any]) -> Description:
    names = [field.name for field in fields(Description) if field.name not in ("scale", "degradation")]
    for name in layers:
        if name not in names:
            raise TypeError(f"layers must be of {', '.join(names)}; got {name}")
    return replace(description, **layers)


def _enlarging(scale: Any) -> int:
    if as_int("scale", scale) not in networks.SCALES[1:]:
        raise ValueError(f"scale must be 2, 3 or 4; got {scale}")
    return int(scale)


class Restorer(_Enhancer):
    """Undoes blur, noise and compression.

    Parameters
    ----------
    degradation : Degradation
        What `fit` spoils images with, to learn what undoes it.
    **layers : int
        As of `Upscaler`.

    Attributes
    ----------
    choice : str
        Of `pretrained`: which network the last image got, and why.
    """

    def __init__(self, degradation: Degradation, **layers: int) -> None:
        if not isinstance(degradation, Degradation):
            raise TypeError(
                f"degradation must be a Degradation, Degradation(blur=(1.6, 1.6)) for instance; got {degradation!r}"
            )
        super().__init__(_with_layers(Description(1, degradation=degradation), layers))
        self.choice = ""
        self._wanted: shipped.Wanted | None = None

    @classmethod
    def load(cls, path: str | Path) -> Restorer:
        """Read a network from a file.

        Raises
        ------
        fastdeconv.imaging.network.NetworkError
            It holds none, or one that enlarges.
        """
        network = networks.load(path)
        if network.description.scale != 1:
            raise networks.NetworkError(f"{path}: holds a network that enlarges; Upscaler.load reads it")
        return cls._of(network)

    @classmethod
    def pretrained(
        cls, blur: float | str | None = "auto", noise: float | str | None = "auto", jpeg: int | str | None = "auto"
    ) -> Restorer:
        """Return one that takes, of the networks that come with the package, the one trained for what comes closest.

        Parameters
        ----------
        blur : float, "auto" or None
            Standard deviation of the blur, in pixels; None for a sharp image. "auto" estimates it from each image.
        noise : float, "auto" or None
            Standard deviation of the noise, as a share of the full scale: 2/255, say.
        jpeg : int, "auto" or None
            Quality of the compression, from 1 to 100. "auto" tells whether blocks show, not how strong they are.

        Raises
        ------
        TypeError, ValueError
            The message names the argument, what came and what would do.
        fastdeconv.imaging.network.NetworkError
            The package has none that restores.

        Notes
        -----
        `choice` says what was taken for the last image and why. Where everything is "auto" and the image is found
        sharp, clean and free of blocks, it is left as it is. `fastdeconv.imaging.estimate` says how estimates are made
        and where they fail.
        """
        wanted = shipped.Wanted(blur, noise, jpeg)
        candidates = shipped.restoring()
        made = cls._of(candidates[0].network)
        made._wanted = wanted
        if not wanted.is_estimated:
            made._choose(wanted.closest(candidates))
        return made

    @classmethod
    def _of(cls, network: Network) -> Self:
        made = super()._of(network)
        made.choice, made._wanted = "", None
        return made

    def _choose(self, choice: shipped.Choice) -> Network | None:
        self.choice = choice.reason
        if choice.network is not None:
            self.network, self.description = choice.network, choice.network.description
        return choice.network

    def _chosen(self, image: Array, channel_axis: int | None) -> Network | None:
        if self._wanted is None or not self._wanted.is_estimated:
            return self._trained()
        plane = next(iter(luminances(image, channel_axis)))
        return self._choose(self._wanted.estimated(plane).closest(shipped.restoring()))

    def fit(self, images: Iterable[Array], **options: Any) -> Self:
        """Train; see `Upscaler.fit`."""
        self._wanted, self.choice = None, ""
        return super().fit(images, **options)

    def __repr__(self) -> str:
        return f"<Restorer of {self.description.degradation}, {'trained' if self.network else 'not trained'}>"
