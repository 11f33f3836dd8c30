import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "default",
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("default")


def pytest_collection_modifyitems(items):
    """Have the file whose tests take longest begin first: processes that share the files then end together."""
    items.sort(key=lambda item: item.path.name != "test_other_cpus.py")


@pytest.fixture(autouse=True, scope="session")
def untuned():
    """Keep what somebody tuned on this machine out of the tests."""
    from fastdeconv import tuning

    tuning._table = {}
