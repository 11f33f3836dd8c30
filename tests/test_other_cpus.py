"""What LLVM makes of the kernels for CPUs with other vectors: arithmetic stays in registers, results are exact."""

import json
import platform

import pytest
from llvmlite import binding as llvm
from other_cpus import run

X86 = {
    "skylake-avx512": (512, "+sse4.2,+avx,+avx2,+fma,+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx512cd"),
    "haswell": (256, "+sse4.2,+avx,+avx2,+fma"),
    "x86-64": (128, ""),
}
# What has a register tile, and the products of its largest one, in vectors: the loops of some have 4 or 8 terms a turn.
TILES = {
    "direct_tile.tile_units": "outer",
    "direct_joint.joint_units": "outer",
    "chain.chain_units": "outer",
    "direct_dot.dot_units": "inner",
    "units.product_units": "block",
    "units.chunk_units": "block",
    "direct_images.product_units": "block",
    "direct_panels.product_units": "panel",
    "direct_col2im.window_units": "panel",
    "direct_windows.window_units": "window",
    "direct_im2col.window_units": "strided panel",
    "direct_im2row.row_units": "inner",
    "direct_outer.outer_units": "block",
    "weight.weight_units": "panel",
    "direct_pointwise.product_units": "product",
    "dense.product_units": "pixel",
    "dense_weight.weight_units": "weight",
    "depthwise.depthwise_units": "channelwise",
    "depthwise_weight.depthwise_weight_units": "channelwise",
    "direct_rows.row_units": "row",
}
LARGEST = {
    512: {
        "outer": 25,
        "inner": 24,
        "product": 24,
        "panel": 96,
        "strided panel": 24,
        "window": 48,
        "block": 96,
        "row": 8,
        "pixel": 24,
        "weight": 24,
        "channelwise": 16,
    },
    256: {
        "outer": 12,
        "inner": 12,
        "product": 12,
        "panel": 48,
        "strided panel": 48,
        "window": 24,
        "block": 96,
        "row": 8,
        "pixel": 12,
        "weight": 12,
        "channelwise": 8,
    },
}

# Cases that between them reach every kernel.
CASES = (
    "dcgan,fsrcnn,each_axis_its_own,depthwise,one_pixel_many_taps,parallel,3d,deblur,fcn,wide_stride_cut_at_both_ends,"
    "wide_stride_24,1d_depthwise_long_kernel,long_kernel_stride_2,rows_of_one_channel,rows_early_phases,"
    "kernel_shorter_than_stride,stride_7,many_tiles,stride_is_kernel_rectangular,one_pixel_many_images"
)

on_x86 = pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="Numba compiles for x86 here")


def report(*arguments, **environment):
    found = json.loads(run("machine_code.py", *arguments, **environment))
    assert found["kernels"]
    assert {name: kernel["calls"] for name, kernel in found["kernels"].items() if kernel["calls"]} == {}
    return found


@on_x86
@pytest.mark.parametrize("cpu", X86)
def test_code_for_other_cpus(cpu, tmp_path):
    bits, features = X86[cpu]
    environment = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    found = report(**environment)
    assert found["bits"] == bits
    widest = {128: "xmm", 256: "ymm", 512: "zmm"}[bits]
    for name, kernel in found["kernels"].items():
        assert max(kernel["registers"]) <= widest, f"{name} has {kernel['registers']} for {cpu}"
    for name, tile in TILES.items():
        kernel = found["kernels"][name]
        assert widest in kernel["registers"], name
        if bits > 128:
            assert max(loop["fmas"] for loop in kernel["loops"]) == LARGEST[bits][tile], f"{name}: {kernel['loops']}"
            assert all(loop["stack"] == 0 for loop in kernel["loops"]), f"{name} spills for {cpu}: {kernel['loops']}"
    wanted = [feature.lstrip("+") for feature in features.split(",") if feature]
    if all(llvm.get_host_cpu_features().get(feature) for feature in wanted):
        # What was compiled is on disk, and runs here; test_simd_width has doubles.
        told = run("exactness.py", CASES, "float32", **environment).split()
        assert told == [str(bits), "32" if bits == 512 else "16"]


def test_register_tiles_for_arm(tmp_path):
    found = report("arm", FASTDECONV_SIMD_BITS="128", NUMBA_CACHE_DIR=str(tmp_path))
    for name, tile in found["kernels"].items():
        assert tile["registers"] == ["v"], name
        assert max(loop["fmas"] for loop in tile["loops"]) >= 24, f"{name}: {tile['loops']}"
