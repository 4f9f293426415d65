# SPDX-License-Identifier: BSD-2-Clause
"""`python -m gateway`, and what the installed `patchbay` runs.

A process that `multiprocessing` starts imports the main module of its parent once more. So this one imports
nothing: a worker has no use for the command line.
"""

from __future__ import annotations


def main() -> None:
    """Run the `patchbay` command."""
    from gateway.server.init_process import become_child_of_init  # noqa: PLC0415 - see above

    become_child_of_init()
    from gateway import cli  # noqa: PLC0415

    cli.main()


if __name__ == "__main__":
    main()
