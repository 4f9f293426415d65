#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# soxr 1.0.0 and 1.1.0: a ResampleStream from 8 to 16 kHz gives nothing for the first five pieces of 20 ms, then
# everything at once, and so on. Only QQ gives each piece as it comes.
#
# Seen on 2026-11-30, Python 3.11: samples that each piece of 160 gave, and the sound that was in the resampler
# after a piece at the most. pipecat-ai 1.14.0 takes VHQ for calls (audio/resamplers/soxr_stream_resampler.py).
#
#     QQ     316 320 320 320 320 320 320 ...                  0.25 ms
#     LQ     0 0 0 940 0 0 940 0 940 ...                     61.25 ms
#     MQ     0 0 0 0 0 1732 0 0 0 0 0 1732 ...               117.5 ms
#     HQ     0 0 0 0 0 1660 0 0 0 0 1660 ...                 115.0 ms
#     VHQ    0 0 0 0 0 1516 0 0 0 0 1516 ...                 110.5 ms
#
# From 16 to 8 kHz it is the same time. A good guess was wrong because the filter of VHQ needs no more than 10 ms of
# what is to come at these rates, and MQ and HQ hold back more than VHQ: it is not the filter that waits, but blocks
# of so many samples, whose size no argument sets. They pass for short at the rates of music (VHQ from 48 to 24 kHz:
# 37 ms). So a caller's pieces of 20 ms become bursts of some 95 ms, on the way to the bot and back again.
#
# It fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

cat >"$folder/stream.py" <<'PYTHON'
import numpy
import soxr

EXPECTED = {
    "QQ": ([316, 320, 320, 320, 320, 320, 320, 320, 320, 320, 320, 320], 0.25),
    "LQ": ([0, 0, 0, 940, 0, 0, 940, 0, 940, 0, 0, 940], 61.25),
    "MQ": ([0, 0, 0, 0, 0, 1732, 0, 0, 0, 0, 0, 1732], 117.5),
    "HQ": ([0, 0, 0, 0, 0, 1660, 0, 0, 0, 0, 1660, 0], 115.0),
    "VHQ": ([0, 0, 0, 0, 0, 1516, 0, 0, 0, 0, 1516, 0], 110.5),
}


def convert(quality, rate, new_rate):
    stream = soxr.ResampleStream(rate, new_rate, 1, dtype="int16", quality=quality)
    piece = numpy.zeros(rate // 50, dtype=numpy.int16)
    given = []
    held = []
    for count in range(1, 101):
        given.append(len(stream.resample_chunk(piece)))
        held.append(count * 20 - sum(given) * 1000 / new_rate)
    return given[:12], max(held)


for quality, expected in EXPECTED.items():
    given, held = convert(quality, 8000, 16000)
    _, held_down = convert(quality, 16000, 8000)
    print(soxr.__version__, quality, *given, f"at most {held} ms, from 16 to 8 kHz {held_down} ms")
    assert (given, held) == expected, "that has changed"
    assert held_down <= 0.25 if quality == "QQ" else held_down == held, "that has changed"
PYTHON

python3 -m venv "$folder/venv"
for version in 1.0.0 1.1.0; do
    "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "soxr==$version" numpy==2.4.6
    timeout 60 "$folder/venv/bin/python" "$folder/stream.py"
done
