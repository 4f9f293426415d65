#!/usr/bin/env bash
# SPDX-License-Identifier: BSD-2-Clause
#
# kubernetes-asyncio 36.1.0: KUBECONFIG is read when the package is imported. `load_kube_config()` does not look at
# it again.
#
# Seen on 2026-11-30, Python 3.11: KUBECONFIG names file "old" when `kubernetes_asyncio` is imported; afterwards the
# program sets it to "new" in `os.environ`.
#
#     load_kube_config()                                         https://old.test
#     load_kube_config(config_file=None)                         https://old.test
#     list_kube_config_contexts()                                the contexts of "old"
#     load_kube_config(config_file=os.environ["KUBECONFIG"])     https://new.test
#
# A good guess was wrong because the variable is that of `kubectl`, which reads it each time, and the argument's
# default of None says "find it out now". A program that reads a `.env` file or its settings after its imports, or a
# test that sets the variable, talks to another cluster than it says, and nothing reports it.
#
# It fails if that changes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check kubernetes-asyncio==36.1.0

for name in old new; do
    cat >"$folder/$name" <<YAML
apiVersion: v1
kind: Config
current-context: $name
contexts: [{name: $name, context: {cluster: $name, user: $name}}]
clusters: [{name: $name, cluster: {server: "https://$name.test"}}]
users: [{name: $name, user: {token: any}}]
YAML
done

cat >"$folder/loaded.py" <<'PYTHON'
import asyncio
import os
import sys

from kubernetes_asyncio import client, config

os.environ["KUBECONFIG"] = sys.argv[1]


async def load(**options):
    configuration = client.Configuration()
    await config.load_kube_config(client_configuration=configuration, **options)
    return configuration.host


async def main():
    contexts, _ = config.list_kube_config_contexts()
    return [
        await load(),
        await load(config_file=None),
        contexts[0]["name"],
        await load(config_file=os.environ["KUBECONFIG"]),
    ]


seen = asyncio.run(main())
print(*seen)
assert seen == ["https://old.test", "https://old.test", "old", "https://new.test"], "that has changed"
PYTHON
KUBECONFIG="$folder/old" timeout 60 "$folder/venv/bin/python" "$folder/loaded.py" "$folder/new"
