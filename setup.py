# SPDX-License-Identifier: BSD-2-Clause
"""What pyproject.toml cannot say: the accelerator is built where there is a compiler, and optional."""

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "gateway.fastpath._accelerator",
            ["gateway/fastpath/_accelerator.c"],
            extra_compile_args=["-O2"],
            optional=True,
        )
    ]
)
