"""How it was measured, as the page of figures tells it."""

METHOD = """\
## How it was measured

- Before anything is timed every kernel is checked on the device, in each layout and element type that it serves: exact
  on small integers, whose sums have no rounding, and on random floats within 16·eps·Σ|products| of sums in float32,
  with what the rounding of factors (TF32) and results (float16, bfloat16) adds. A kernel that fails is not timed.
- Each row is checked again: ours by the definition in float64 on drawn elements and all corners, peers' on every
  element against ours.
- Times are medians in milliseconds by CUDA events of up to {rounds} rounds, in which contenders take turns; ours with
  the 20th and 80th percentile. The JSON file has all of them.
- Calls follow each other without waiting, as in a caller's loop: where the work on the device is shorter than its
  launch, the host's time is what is measured. A section tells what that is.
- Every contender has its operands on the device beforehand, in its own layout, and allocates each result from its
  library's pool. cuDNN runs through PyTorch with cudnn.benchmark on: it tries its algorithms before it is timed.
- Precisions are those of the rows: float32 without TF32, tf32 with it, float16 and bfloat16 with sums in float32.
- **×** is the best peer's median over ours with channels first: above 1 we are faster. **either** is that over our
  median with channels first or last, whichever is lower. **roof** is the least time of the direct method on this
  device, max(operations / peak of matrix products, bytes / copy speed), over our median."""
