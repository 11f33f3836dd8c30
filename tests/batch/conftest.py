import gc

import pytest
from batching import reading_threads

from fastdeconv import batch


@pytest.fixture(autouse=True)
def nothing_is_left():
    yield
    assert not reading_threads()


@pytest.fixture
def on_devices(monkeypatch):
    """Return a function that puts fake devices in the place of GPUs; all their memory must come back."""
    used = []

    def use(*devices):
        used.extend(devices)
        monkeypatch.setattr(batch, "_devices", lambda device: None if device == "cpu" else list(devices))
        return devices[0]

    yield use
    if any(device.leases for device in used):
        gc.collect()
    for device in used:
        assert device.violations == []
        assert not any(device.streams.values())
        assert not device.leases
        assert device.used == {True: 0, False: 0}
