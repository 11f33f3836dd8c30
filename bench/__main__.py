"""``python -m bench``: the whole suite, as ``fastdeconv bench --full``."""

import sys

from fastdeconv.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", "--full", *sys.argv[1:]]))
