from dataclasses import replace

import pytest
from cases import CASES, problem

from fastdeconv import Problem
from fastdeconv.problem import DTYPES

pytestmark = pytest.mark.quick

KNOWN = [
    # The example of benchdnn's own documentation, read as the problem it names.
    (
        'mb8ic256ih16iw12oc256oh32ow24kh4kw4sh2sw2ph1pw1n"name"',
        problem((8, 256, 16, 12), (256, 256, 4, 4), stride=2, padding=1),
    ),
    ("mb1ic1ih5iw5oc1oh5ow5kh3kw3sh1sw1ph1pw1", problem((1, 1, 5, 5), (1, 1, 3, 3), padding=1)),
    (
        "g2mb3ic4ih5iw6oc6oh13ow8kh3kw2sh2sw1ph0pw1dh1dw3",
        problem((3, 4, 5, 6), (4, 3, 3, 2), groups=2, stride=(2, 1), padding=(0, 1), dilation=(2, 4), output_padding=0),
    ),
    ("--dt=f64 --unbatched mb1ic3iw7oc2ow9kw3sw1pw0", problem((3, 7), (3, 2, 3), dtype="float64")),
    (
        "--tag=nhwc mb2ic3ih4iw5oc2oh6ow7kh3kw3sh1sw1ph0pw0",
        problem((2, 3, 4, 5), (3, 2, 3, 3), channels_last=True),
    ),
    (
        "--dt=f64 --tag=nwc --unbatched mb1ic3iw7oc2ow9kw3sw1pw0",
        problem((3, 7), (3, 2, 3), dtype="float64", channels_last=True),
    ),
    (
        "mb1ic2id3ih4iw5oc1od6oh9ow12kd2kh3kw4sd2sh2sw2pd0ph0pw0",
        problem((1, 2, 3, 4, 5), (2, 1, 2, 3, 4), stride=2),
    ),
]


@pytest.mark.parametrize(("text", "p"), KNOWN)
def test_known_descriptors(text, p):
    assert Problem.parse(text) == p
    assert text.startswith(str(p))


@pytest.mark.parametrize("p", CASES.values(), ids=CASES.keys())
def test_round_trip(p):
    assert Problem.parse(str(p)) == p


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2, 3, 5), (3, 5)], ids=["batched", "unbatched"])
def test_round_trip_of_flags(dtype, shape):
    p = problem(shape, (3, 2, 3), stride=2, dtype=dtype)
    assert Problem.parse(str(p)) == p
    assert str(p).startswith("--") == (dtype != "float32" or len(shape) == 2)


@pytest.mark.parametrize(
    ("short", "full"),
    [
        ("ic1iw5oc1kw3", "mb1ic1iw5oc1ow7kw3sw1pw0"),
        ("mb1ic1ih5oc1kh3", "mb1ic1ih5iw5oc1oh7ow7kh3kw3sh1sw1ph0pw0"),
        ("ic1id5ih4oc1kd3sd2", "mb1ic1id5ih4iw4oc1od11oh9ow9kd3kh3kw3sd2sh2sw2pd0ph0pw0"),
        ("ic1ih5iw6oc1kh3dh1", "mb1ic1ih5iw6oc1oh9ow10kh3kw3sh1sw1ph0pw0dh1dw1"),
        ("ic1ih5iw6oc1oh12kh3sh2", None),  # oh12 would be ow12 too, but ow is 13 or 14
        ("kw3iw5oc1ic1", "mb1ic1iw5oc1ow7kw3sw1pw0"),
        ("  --dt=f32   ic1iw5oc1kw3nmy_layer ", "mb1ic1iw5oc1ow7kw3sw1pw0"),
        ("ic1iw5oc1kw3n", "mb1ic1iw5oc1ow7kw3sw1pw0"),
        ('--dt=f32 ic1iw5oc1kw3n"first layer, 3x3"', "mb1ic1iw5oc1ow7kw3sw1pw0"),
    ],
)
def test_what_is_left_out(short, full):
    if full is None:
        with pytest.raises(ValueError, match=r"output_size must be from \(11, 13\) to \(12, 14\)"):
            Problem.parse(short)
    else:
        assert str(Problem.parse(short)) == full


def test_output_size_tells_output_padding():
    assert Problem.parse("ic1iw5oc1ow12kw3sw2").output_padding == (1,)
    assert Problem.parse("ic1iw5oc1kw3sw2").output_padding == (0,)


BAD = [
    (None, TypeError, "a descriptor must be a string; got None"),
    (b"ic1iw5oc1kw3", TypeError, "a descriptor must be a string; got b'ic1iw5oc1kw3'"),
    (problem((1, 1, 5), (1, 1, 3)), TypeError, "a descriptor must be a string; got Problem"),
    ("", ValueError, "flags and then a problem such as"),
    ("--dt=f32", ValueError, "flags and then a problem such as"),
    ("ic1iw5oc1kw3 ic1iw5oc1kw3", ValueError, "cannot be read from ' ic1iw5oc1kw3' on"),
    ("--dt=f31 ic1iw5oc1kw3", ValueError, "flag '--dt=f31' is not known; use --dt=f16"),
    ("--fast ic1iw5oc1kw3", ValueError, "flag '--fast' is not known"),
    ("--unbatched mb2ic1iw5oc1kw3", ValueError, "batch must be 1"),
    ("iw5oc1kw3", ValueError, "lacks ic"),
    ("ic1iw5kw3", ValueError, "lacks oc"),
    ("ic1oc1kw3", ValueError, "lacks iw"),
    ("ic1iw5oc1", ValueError, "lacks kw"),
    ("ic1iw5oc1kw3kw4", ValueError, "gives kw twice"),
    ("ic1iw5oc1kw3zz9", ValueError, "cannot be read from 'zz9' on"),
    ("ic1iw5oc1kw", ValueError, "cannot be read from 'kw' on"),
    ("ic1iw5oc1kw-3", ValueError, "cannot be read from 'kw-3' on"),
    ("ic1iw5.0oc1kw3", ValueError, "cannot be read from '.0oc1kw3' on"),
    ("ic1iw٥oc1kw3", ValueError, "cannot be read from 'iw٥oc1kw3' on"),
    ("ic1iw5oc1kw0", ValueError, "kernel_size must be at least 1"),
    ("ic0iw5oc1kw3", ValueError, "in_channels must be a positive multiple"),
    ("g2ic3iw5oc2kw3", ValueError, "in_channels must be a positive multiple of groups = 2; got 3"),
    ("g0ic3iw5oc2kw3", ValueError, "groups must be at least 1"),
    ("ic1iw5oc1kw3sw0", ValueError, "stride must be at least 1"),
    ("ic1iw5oc1kw3pw9", ValueError, "padding must leave some output"),
    ("ic1iw5oc1ow8kw3", ValueError, "output_size must be from (7,) to (7,)"),
    ("ic1iw5oc1ow0kw3", ValueError, "output_size must be from (7,) to (7,)"),
    ("ic1id5iw5oc1kw3kd3oh5ih5od9", ValueError, "output_size must be from (7, 7, 7) to (7, 7, 7)"),
    ("ic1id5oc1kh3kd3oh5", ValueError, "lacks od"),
    ("ic1iw5oc1kw3mb" + "9" * 19, ValueError, "batch must be less than 2**62"),
    ("ic1iw5oc1kw3mb" + "9" * 5000, ValueError, "cannot be read from '9999"),
    ("x" * 100_000, ValueError, "cannot be read"),
]


@pytest.mark.parametrize(("text", "error", "message"), BAD, ids=range(len(BAD)))
def test_bad_descriptors(text, error, message):
    with pytest.raises(error) as refusal:
        Problem.parse(text)
    assert message in str(refusal.value)
    assert len(str(refusal.value)) < 700


def test_str_differs_where_problems_differ():
    p = problem((1, 2, 5, 6), (2, 3, 3, 3), stride=2)
    assert str(p) != str(replace(p, output_padding=(0, 1)))
    assert "oh11ow13" in str(p)
    assert "oh11ow14" in str(replace(p, output_padding=(0, 1)))
