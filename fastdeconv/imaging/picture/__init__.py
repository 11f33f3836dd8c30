"""Picture files as arrays with what travels beside the pixels, and back.

`Reader` gives the pages of a PNG, JPEG, TIFF, WebP, BMP, GIF or PPM file as arrays: upright, of 8 or 16 bits or floats,
grey or RGB, with or without alpha. `write` stores pages as one of `FORMATS`. Colour profile, EXIF and resolution go
along.
"""

from fastdeconv.imaging.picture.formats import FORMATS, Format
from fastdeconv.imaging.picture.page import Exif, Page
from fastdeconv.imaging.picture.reading import MAX_PIXELS, Reader
from fastdeconv.imaging.picture.writing import Encoding, write

__all__ = ["FORMATS", "MAX_PIXELS", "Encoding", "Exif", "Format", "Page", "Reader", "write"]
