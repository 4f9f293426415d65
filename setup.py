# SPDX-License-Identifier: BSD-2-Clause
"""What pyproject.toml cannot say: the accelerator is built where there is a compiler, and optional.

`PATCHBAY_ACCELERATOR=off` leaves it out: the wheel is one for every machine (py3-none-any). `required` lets
the build fail without it, so that a wheel that is named after a machine has what that machine can run.
"""

import os

from setuptools import Extension, setup

ACCELERATOR = os.environ.get("PATCHBAY_ACCELERATOR", "on")

setup(
    ext_modules=[]
    if ACCELERATOR == "off"
    else [
        Extension(
            "gateway.fastpath._accelerator",
            ["gateway/fastpath/_accelerator.c"],
            extra_compile_args=["-O2"],
            optional=ACCELERATOR != "required",
        )
    ]
)
