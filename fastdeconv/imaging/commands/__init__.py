"""The commands on pictures: each a module with ``add_arguments(parser)`` and ``run(options)``."""
