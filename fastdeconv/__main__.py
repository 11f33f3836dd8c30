"""``python -m fastdeconv``: the ``fastdeconv`` command."""

import sys

from fastdeconv.cli import main

sys.exit(main())
