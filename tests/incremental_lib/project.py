"""A small source that is built for real, once with a base and once without."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.private_store import PrivateStore

LIBRARY = Path(__file__).parents[2] / "lib"

BUILD = "make PREFIX=$out"
INSTALL = "make install PREFIX=$out"


@dataclass(frozen=True)
class Built:
    """A build that succeeded: its outputs and what it said."""

    out: Path
    intermediates: Path
    log: str

    @property
    def compiled(self) -> list[str]:
        """The sources that a compiler was started for."""
        return sorted(re.findall(r"-c -o \S+ (\S+\.c)\b", self.log))

    @property
    def said(self) -> str:
        """The line on how the build began, without what begins all of ours."""
        (line,) = re.findall(r"^incremental: ((?:full build:|base) .*)$", self.log, re.MULTILINE)
        return str(line)

    def run(self, store: PrivateStore, *arguments: str) -> str:
        """What the program app prints."""
        return store.run(str(self.out / "bin/app"), *arguments).stdout


def patched_library(folder: Path, *changes: tuple[str, str, str]) -> Path:
    """A copy of lib/ with one text replaced in a file of it, for each change; each must occur."""
    copy = shutil.copytree(LIBRARY, folder / "lib")
    for file, old, new in changes:
        text = (copy / file).read_text()
        assert text.count(old) == 1, f"{old!r} occurs {text.count(old)} times in {file}"
        (copy / file).write_text(text.replace(old, new))
    return copy


def script_without(folder: Path, *changes: tuple[str, str]) -> Path:
    """The library with a guard of its script replaced."""
    return patched_library(folder, *(("incremental/incremental.sh", *change) for change in changes))


def evaluate(store: PrivateStore, expression: str) -> object:
    """The value of a Nix expression, whose sources are added to the store."""
    options = ["--eval", "--strict", "--json", "--read-write-mode"]
    done = store.run("nix-instantiate", *options, "-E", expression)
    return json.loads(done.stdout)


def refusal(store: PrivateStore, expression: str) -> str:
    """The error that an expression is refused with."""
    done = store.run("nix-instantiate", "--eval", "--strict", "-E", expression, check=False)
    assert done.returncode != 0, done.stdout
    return " ".join(done.stderr.rpartition("error: ")[2].split())


@dataclass
class Project:
    """A source folder, a store to build it in, and the library to build it with."""

    store: PrivateStore
    folder: Path
    library: Path = LIBRARY
    name: str = "app"
    build_command: str = BUILD
    install_command: str = INSTALL
    arguments: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def expression(self, *, base: str = "null", **policy: str) -> str:
        """The job; policy arguments are Nix text."""
        arguments = {
            "name": f'"{self.name}"',
            "system": "builtins.currentSystem",
            "src": f'builtins.path {{ path = {self.folder}; name = "source"; }}',
            "build": f"''{self.build_command}\n''",
            "install": f"''{self.install_command}\n''",
            "base": base,
            **self.arguments,
            **policy,
        }
        fields = " ".join(f"{name} = {value};" for name, value in arguments.items())
        return f"(import {self.library}).incremental.derivation {{ {fields} }}"

    def build(self, *, base: str = "null", **policy: str) -> Built:
        return self.realise(self.expression(base=base, **policy))

    def realise(self, expression: str, *options: str) -> Built:
        command = ["nix-build", "--no-out-link", *options, "-E", f"({expression}).all"]
        done = self.store.run(*command, check=False)
        assert done.returncode == 0, done.stderr
        out, *_, intermediates = map(Path, done.stdout.split())
        return Built(out=out, intermediates=intermediates, log=done.stderr)

    def fail(self, *, base: str = "null", **policy: str) -> str:
        """What a build says that must not succeed."""
        expression = f"({self.expression(base=base, **policy)}).all"
        done = self.store.run("nix-build", "--no-out-link", "-E", expression, check=False)
        assert done.returncode != 0, done.stderr
        return done.stderr

    def as_base(self, built: Built) -> str:
        """Add the intermediates by their hash, as the daemon does; the base as Nix text."""
        name = f"{self.name}-intermediates"
        self.store.run("nix", "store", "add", "--name", name, str(built.intermediates))
        found = self.store.run("nix", "hash", "path", str(built.intermediates)).stdout.strip()
        return (
            f"(import {self.library}).incremental.baseFromHash "
            f'{{ name = "{name}"; narHash = "{found}"; }}'
        )

    def contents(self, built: Built) -> bytes:
        """The output as one file, with its own hash blanked: equal for equal results."""
        dump = self.store.root / "dump"
        self.store.run("sh", "-c", f"nix-store --dump {built.out} >{dump}")
        own = built.out.name.partition("-")[0].encode()
        return dump.read_bytes().replace(own, b"0" * len(own))

    def assert_right(self, built: Built, **policy: str) -> None:
        """The result is the one of a build without a base."""
        assert self.contents(built) == self.contents(self.build(**policy))


HEADER = "int one(void);\nint two(void);\n"
MAIN = '#include <stdio.h>\n#include "part.h"\nint main(void) { printf("%d\\n", one() + two()); }\n'
ONE = '#include "part.h"\nint one(void) { return 1; }\n'
TWO = '#include "part.h"\nint two(void) { return 2; }\n'

MAKEFILE = """\
CFLAGS = -O1 -MMD $(MORE)
OBJECTS = main.o one.o two.o
app: $(OBJECTS)
\tgcc -o $@ $(OBJECTS)
%.o: %.c
\tgcc $(CFLAGS) -c -o $@ $<
install: app
\tmkdir -p $(PREFIX)/bin
\tcp app $(PREFIX)/bin
-include $(OBJECTS:.o=.d)
"""


def c_project(store: PrivateStore, folder: Path, library: Path = LIBRARY) -> Project:
    """A program of three units, made by make."""
    project = Project(store=store, folder=folder / "source", library=library)
    project.write("Makefile", MAKEFILE)
    project.write("part.h", HEADER)
    project.write("main.c", MAIN)
    project.write("one.c", ONE)
    project.write("two.c", TWO)
    return project
