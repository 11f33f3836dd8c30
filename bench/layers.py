"""The layers that the benchmark reports: one table, from networks that people run."""

from __future__ import annotations

from typing import NamedTuple

from fastdeconv.problem import Problem


class Layer(NamedTuple):
    """One row of the table."""

    name: str
    source: str
    problem: Problem


_TABLE = """
textbook_5x5_k3    | the textbook example         | mb1ic1ih5iw5oc1kh3kw3sh1sw1ph1pw1
dcgan_1_k4         | DCGAN generator              | mb64ic100ih1iw1oc512kh4kw4sh1sw1ph0pw0
dcgan_2_k4s2       | DCGAN generator              | mb64ic512ih4iw4oc256kh4kw4sh2sw2ph1pw1
dcgan_3_k4s2       | DCGAN generator              | mb64ic256ih8iw8oc128kh4kw4sh2sw2ph1pw1
dcgan_4_k4s2       | DCGAN generator              | mb64ic128ih16iw16oc64kh4kw4sh2sw2ph1pw1
dcgan_5_k4s2       | DCGAN generator              | mb64ic64ih32iw32oc3kh4kw4sh2sw2ph1pw1
pix2pix_k4s2       | pix2pix U-Net                | mb1ic512ih64iw64oc128kh4kw4sh2sw2ph1pw1
unet_deep_k2s2     | U-Net                        | mb1ic1024ih28iw28oc512kh2kw2sh2sw2ph0pw0
unet_wide_k2s2     | U-Net                        | mb1ic128ih200iw200oc64kh2kw2sh2sw2ph0pw0
fsrcnn_k9s3        | FSRCNN x3                    | mb1ic56ih85iw85oc1kh9kw9sh3sw3ph4pw4
fsrcnn_hd_k9s2     | FSRCNN x2 to 1080p           | mb1ic56ih540iw960oc1oh1080ow1920kh9kw9sh2sw2ph4pw4
fcn32_k64s32       | FCN-32s                      | mb1ic21ih10iw10oc21kh64kw64sh32sw32ph0pw0
fcn8_dw_k16s8      | FCN-8s, bilinear             | g21mb1ic21ih64iw64oc21kh16kw16sh8sw8ph4pw4
simplepose_k4s2    | SimpleBaseline               | mb8ic256ih16iw12oc256kh4kw4sh2sw2ph1pw1
cyclegan_k3s2      | CycleGAN                     | mb1ic256ih64iw64oc128oh128ow128kh3kw3sh2sw2ph1pw1
dw_k3s2            | mobile decoder               | g128mb4ic128ih56iw56oc128oh112ow112kh3kw3sh2sw2ph1pw1
k3s1               | decoder, stride 1            | mb4ic64ih56iw56oc64kh3kw3sh1sw1ph1pw1
deblur_k5s1        | deblurring                   | mb1ic32ih256iw256oc32kh5kw5sh1sw1ph2pw2
dilated_k3d2       | dilated decoder              | mb1ic64ih64iw64oc64kh3kw3sh1sw1ph2pw2dh1dw1
grouped_k4s2       | grouped decoder              | g4mb4ic128ih32iw32oc128kh4kw4sh2sw2ph1pw1
hifigan_k16s8      | HiFi-GAN                     | mb1ic512iw800oc256kw16sw8pw4
istft_dw_k1024s256 | vocoder (pytorch 120982)     | g1026mb1ic1026iw224oc1026kw1024sw256pw0
audio_k4s2         | pytorch 41382                | mb1ic64iw40000oc32kw4sw2pw1
unet3d_k2s2        | 3-D U-Net                    | mb1ic128id32ih32iw32oc64kd2kh2kw2sd2sh2sw2pd0ph0pw0
vnet_k4s2          | 3-D decoder                  | mb1ic64id16ih16iw16oc32kd4kh4kw4sd2sh2sw2pd1ph1pw1
"""


def _layers() -> tuple[Layer, ...]:
    rows = (line.split("|") for line in _TABLE.strip().splitlines())
    return tuple(Layer(name.strip(), source.strip(), Problem.parse(text.strip())) for name, source, text in rows)


LAYERS = _layers()
