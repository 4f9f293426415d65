# SPDX-License-Identifier: BSD-2-Clause
"""A page's commands, run as a reader runs them: one shell, one folder, from the first block to the last.

What differs from a reader's terminal: a server goes to the background and is waited for, ports are free ones,
a caller says half a second to an agent that does not greet, and what NOT_RUN names is left out.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from gateway.simulator.free_ports import free_port
from gateway.simulator.server_process import PATCHBAY, environment_without_settings
from gateway.simulator.waiting import WAIT_S
from gateway.simulator.wav import read_speech, write_wav
from tests.harness.pages import README, Block, blocks, name_of, parts

NOT_RUN: Mapping[str, str] = {
    "make setup": "needs a package index; tests/test_make_setup.py",
    "make demo": "takes a while; tests/simulator/test_command_line.py tries its parts",
    "pip install": "needs a package index; `make interop` installs them",
    "patchbay daily setup": "asks Daily; tests/carriers/daily runs it against a fake Daily",
    "docker": "needs a container engine; `make interop` runs both images, the bot's and the gateway's",
    "helm": "needs a cluster; `make interop` renders the chart",
    "kubectl": "needs a cluster",
    "sudo": "changes the machine; `make interop` has a systemd that does it in a container",
    "patchbay call wss://": "needs a public name",
    ".venv/bin/python docs/update.py": "writes into the repository; tests/test_docs.py",
}
"""Commands that no test runs, by how they begin, each with the reason. Everything else on a page is run."""

TOOLS = ("bash", "curl", "sqlite3")

PORTS = ("7860", "8080", "8081")
"""The ports of the pages: the gateway's, and those of agents. Free ones stand for them."""

FAILS = re.compile(r"#.*\bfails\b")
"""In a comment behind a command that shall fail."""

HALF_A_SECOND = 8000
"""Bytes of 16-bit sound at 8 kHz."""

IN_DIRECTORIES = {"/var/lib/patchbay/": "./", "/var/backups/": "./", "/etc/patchbay/": "./"}

ID = re.compile(r"\d")
"""In a text that may differ from what a page shows: ids, times, keys, addresses."""

PREAMBLE = r"""
set -o pipefail
shopt -s expand_aliases
served=()

finish() {
    trap - EXIT ERR
    for pid in "${served[@]}"; do kill -KILL "$pid"; done
    wait
}
trap finish EXIT
trap 'echo "$LINENO" >>"${BASH_SOURCE[0]}.failed"' ERR

# in_background URL COMMAND…: a server, that URL answered from here on.
in_background() {
    local url="$1" log="server-${#served[@]}.log"
    shift
    "$@" >"$log" 2>&1 </dev/null &
    served+=($!)
    until command curl -q -s -o /dev/null "$url"; do
        kill -0 ${served[-1]} 2>/dev/null || { cat "$log" >&2; return 1; }
        sleep 0.05
    done
}

# answered NAME: a member of the JSON that the last block was answered with.
answered() {
    "$PYTHON" -c 'import json, sys; print(json.loads(sys.argv[1])[sys.argv[2]])' "$output" "$1"
}

_patchbay() {
    local IFS=' '
    [[ " $running" == *" $*;"* ]] && return   # in another terminal already
    case "$1" in
    serve) GATEWAY_LOG="server-${#served[@]}.log"
        in_background "http://127.0.0.1:$PORT_7860/livez" $OUR_COMMAND "$@" && running+="$*;" ;;
    agent)
        local port=$PORT_8080 words=" $* " given="$*"
        if [[ $words == *" --port "* ]]; then port=${words#* --port } port=${port%% *}
        else set -- "$@" --port "$port"; fi
        set -- "$@" --no-greeting --delay 0.1  # so that a call is over soon
        in_background "http://127.0.0.1:$port/readyz" $OUR_COMMAND "$@" && running+="$given;" ;;
    call)
        [[ " $* " == *" --wav "* ]] || set -- "$@" --wav "$HALF_A_SECOND_WAV"
        $OUR_COMMAND "$@" ;;
    *) $OUR_COMMAND "$@" ;;
    esac
}
running=
.venv/bin/patchbay() { _left_out ".venv/bin/patchbay $*" || _patchbay "$@"; }
"""


@dataclass(frozen=True)
class Outcome:
    """What one block did: its output, and the lines of it (from 1) whose command failed."""

    output: str
    failed: frozenset[int]


def without_command(tool: str) -> str:
    """Return what to type where a tool is not installed."""
    return f"{tool} is not installed, and the pages use it: apt-get install {tool}"


class PageSession:
    """The commands of one page, in a folder of their own. Closing ends what they started."""

    def __init__(self, page: Path, folder: Path, *, interop: Path | None = None) -> None:
        """`interop`: the folder of other people's programs; None leaves out the blocks that need them."""
        for tool in TOOLS:
            assert shutil.which(tool), without_command(tool)
        self.page = page
        self.folder = folder
        self._interop = interop
        self.parts = [
            (number, block)
            for number, block in enumerate(parts(page))
            if block.where == "here" or interop is not None
        ]
        self._ports = {printed: str(free_port()) for printed in PORTS}
        self.skipped: set[str] = set()

    def run(self) -> dict[int, Outcome]:
        """Run every block of commands, in one shell; return the outcomes by the block's number."""
        self._lay_out()
        script = self.folder / "page.sh"
        script.write_text("".join(self._script()))
        with (self.folder / "shell.log").open("wb") as log:
            shell = subprocess.Popen(
                ["bash", script.name],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                shell.wait(WAIT_S * 3)
            finally:
                with suppress(ProcessLookupError):  # of a group in which nothing runs any more
                    os.killpg(shell.pid, signal.SIGKILL)
                shell.wait()
        self.skipped = set(self._lines("left-out"))
        return {number: self._outcome(number) for number, block in self.parts if block.language == "sh"}

    def _lay_out(self) -> None:
        binaries = self.folder / ".venv" / "bin"
        binaries.mkdir(parents=True)
        (self.folder / "docs").mkdir()
        python = sys.executable if self._interop is None else str(self._interop / "python")
        for name in ("python", "python3"):
            (binaries / name).write_text(f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n')
            (binaries / name).chmod(0o755)
        (binaries / "activate").write_text(
            'PATH="$PWD/.venv/bin:$PATH"\npatchbay() { _left_out "patchbay $*" || _patchbay "$@"; }\n'
        )
        (self.folder / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")
        write_wav(self.folder / "words.wav", read_speech("caller").pcm[:HALF_A_SECOND], 8000)
        if not any(block.file == "patchbay.toml" for _, block in self.parts):
            self._write("patchbay.toml", blocks(README, "toml")[0])
        for number, block in self.parts:
            if block.file:
                self._write(block.file, block.text)
            elif block.language == "sh":
                self._write(f"block-{number}.sh", block.text)

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(self._with_ports(text))

    def _with_ports(self, text: str) -> str:
        for printed, port in self._ports.items():
            text = re.sub(rf"\b{printed}\b", port, text)
        for printed, directory in IN_DIRECTORIES.items():
            text = text.replace(printed, directory)
        return text

    def _script(self) -> Iterator[str]:
        yield PREAMBLE
        yield '_left_out() {\n    case "$1" in\n'
        for command in NOT_RUN:
            if self._interop is None or not command.startswith("pipecat"):
                yield f"    {shlex.quote(command)}*) echo {shlex.quote(command)} >>left-out ;;\n"
        yield "    *) return 1 ;;\n    esac\n}\n"
        for word in sorted({command.split()[0] for command in NOT_RUN} - {"patchbay", ".venv/bin/patchbay"}):
            yield f'{word}() {{ _left_out "{word} $*" || command {word} "$@"; }}\n'
        if self.page != README:  # whose reader does it there
            yield ". .venv/bin/activate\n"
        for number, block in self.parts:
            if block.language == "sh" and not block.file:
                start = f"in_background {self._with_ports(block.server)} " if block.server else ""
                yield f"{start}. ./block-{number}.sh >out-{number} 2>err-{number}\noutput=$(<out-{number})\n"

    def _environment(self) -> dict[str, str]:
        ours = str(Path(sys.executable).parent)  # a page has to say where `patchbay` is
        path = [entry for entry in os.environ["PATH"].split(os.pathsep) if entry != ours]
        path += [str(self._interop)] if self._interop else []
        return environment_without_settings(
            HOME=str(self.folder),
            PATH=os.pathsep.join(path),
            PYTHON=sys.executable,
            OUR_COMMAND=shlex.join(PATCHBAY),
            PYTHONPATH=str(README.parent),
            HALF_A_SECOND_WAV=str(self.folder / "words.wav"),
            **{f"PORT_{printed}": port for printed, port in self._ports.items()},
        )

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def _outcome(self, number: int) -> Outcome:
        output = "\n".join(self._lines(f"out-{number}"))
        for printed, port in self._ports.items():
            output = output.replace(f":{port}", f":{printed}")
        failed = {int(line) for line in self._lines(f"block-{number}.sh.failed")}
        return Outcome(output, frozenset(failed))

    def log(self, number: int) -> str:
        """Return everything that one block and the servers have said, for a failure's message."""
        files = [self.folder / f"out-{number}", self.folder / f"err-{number}"]
        files += [self.folder / "shell.log", *sorted(self.folder.glob("server-*.log"))]
        said = [path.read_text(errors="replace") for path in files if path.exists()]
        return "\n".join(filter(None, said))

    def where(self, block: Block, line: int = 1) -> str:
        """Return the place of a block's line, as in docs/api.md:89."""
        return f"{name_of(self.page)}:{block.line + line - 1}"


def commands(text: str) -> Iterator[tuple[range, str]]:
    """Yield the commands of a block with their lines, from 1.

    A command goes on behind a backslash, a `|`, an `&&`, and in quotes.
    """
    begin, held = 1, ""
    for number, line in enumerate(text.splitlines(), 1):
        held += line + "\n"
        if not _goes_on(held):
            yield range(begin, number + 1), held
            begin, held = number + 1, ""
    if held:
        yield range(begin, number + 1), held


def _goes_on(text: str) -> bool:
    if text.rstrip().endswith(("\\", "|", "&&")):
        return True
    try:
        shlex.split(text, comments=True)
    except ValueError:  # a quotation that is open
        return True
    return False


def unexpected(block: Block, outcome: Outcome) -> list[int]:
    """Return the lines of a block, from 1, whose command failed, or did not although the page says so."""
    return [
        lines[0]
        for lines, text in commands(block.text)
        if bool(outcome.failed & set(lines)) != bool(FAILS.search(text))
    ]


def shown_lines(block: Block) -> list[str]:
    """Return what a block shows of its output in comments: those that begin with a bracket."""
    return [line[2:] for line in block.text.splitlines() if re.match(r"# [{\[<]", line)]


def looks_like(shown: str, said: str) -> bool:
    """Return True if text is as shown: `…` stands for anything, an id or a number for another."""
    pattern = ""
    for piece in re.split(r"(…|\b[0-9a-f]{8}-[0-9a-f-]{27}\b)", shown.strip()):
        if piece == "…":
            pattern += ".*"
        elif re.fullmatch(r"[0-9a-f-]{36}", piece):
            pattern += "[0-9a-f-]{36}"
        else:
            pattern += re.sub(r"\\?\s+", r"\\s+", re.escape(piece))
    return re.search(pattern, said, re.DOTALL) is not None


def last_json(output: str) -> Any:
    """Return the last JSON value in an output. Raises ValueError if there is none."""
    begins = [found.start() for found in re.finditer(r"^[{\[]", output, re.MULTILINE)]
    for begin in begins[::-1]:
        try:
            return json.JSONDecoder().raw_decode(output[begin:])[0]
        except ValueError:
            continue
    raise ValueError(f"no JSON in {output!r}")


def difference(shown: Any, said: Any, at: str = "") -> str:
    """Return where JSON differs in form from what a page shows, or "".

    Objects have the same members, lists items of the same form, values the same type; a null on the page may
    be a value by now, and the other way round. A text without a digit is the same text.
    """
    if shown is None or said is None:
        return ""
    if isinstance(shown, dict) and isinstance(said, dict):
        if shown.keys() != said.keys():
            return f"{at or 'the object'} has other members: {sorted(shown.keys() ^ said.keys())}"
        return next(filter(None, (difference(shown[key], said[key], f"{at}.{key}") for key in shown)), "")
    if isinstance(shown, list) and isinstance(said, list):
        pairs = (
            [(shown[min(number, len(shown) - 1)], each) for number, each in enumerate(said)] if shown else []
        )
        return next(filter(None, (difference(*pair, f"{at}[]") for pair in pairs)), "")
    if isinstance(shown, bool | str) or isinstance(said, bool | str):
        alike = type(shown) is type(said)
        if alike and isinstance(shown, str) and not ID.search(shown):
            alike = shown == said
    else:
        alike = isinstance(shown, int | float) and isinstance(said, int | float)
    return "" if alike else f"{at or 'the value'} is {said!r}, not {shown!r}"


def shows_wrongly(block: Block, output: str) -> str:
    """Return what is wrong with a block that shows an output, or ""."""
    if block.language == "json":
        try:
            return difference(json.loads(block.text), last_json(output))
        except ValueError as error:
            return str(error)
    if block.language == "xml":
        shown, said = (ElementTree.canonicalize(text, strip_text=True) for text in (block.text, output))
        return "" if shown == said else f"the document is now:\n{output}"
    return "" if looks_like(block.text, output) else f"it is now:\n{output}"


def assert_as_printed(session: PageSession) -> None:
    """Run a page: every command does as printed, and every output is as shown."""
    outcomes = session.run()
    output = ""
    for number, block in session.parts:
        if block.language == "sh" and not block.file:
            output = outcomes[number].output
            for line in unexpected(block, outcomes[number]):
                raise AssertionError(f"{session.where(block, line)}: not as printed\n{session.log(number)}")
            for shown in shown_lines(block):
                assert looks_like(shown, output), (
                    f"{session.where(block)}: shown is {shown}, said was\n{output}"
                )
        elif block.follows and block.language in {"json", "xml", "text"}:
            assert not (wrong := shows_wrongly(block, output)), f"{session.where(block)}: {wrong}"
