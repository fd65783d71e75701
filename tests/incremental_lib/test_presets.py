"""Presets with the build tools they are for: what is compiled, and that it comes out right.

Make and ninja are tried by examples/incremental; cargo, GHC and go are only evaluated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import Struct

from tests.incremental_lib.project import Built, Project, c_project
from tests.support.private_store import PrivateStore

UNITS = ["main.c", "one.c", "two.c"]


class Tool(Struct, frozen=True, kw_only=True):
    """A build tool, and how a project uses it."""

    preset: str
    configure: str
    build: str
    install: str
    file: str
    """What describes the build."""
    text: str
    other: str
    """The same, with another flag."""


CMAKE_LISTS = """\
cmake_minimum_required(VERSION 3.13)
project(app C)
add_executable(app main.c one.c two.c)
target_compile_options(app PRIVATE -O1)
target_compile_definitions(app PRIVATE PREFIX="${CMAKE_INSTALL_PREFIX}")
install(TARGETS app DESTINATION bin)
"""
MESON_BUILD = """\
project('app', 'c', default_options: ['optimization=1'])
executable('app', 'main.c', 'one.c', 'two.c', install: true,
  c_args: '-DPREFIX="' + get_option('prefix') + '"')
"""


def cmake(generator: str) -> Tool:
    return Tool(
        preset="cmake",
        configure=f"cmake -S . -B out -G '{generator}' -DCMAKE_INSTALL_PREFIX=$out",
        build="cmake --build out --verbose",
        install="cmake --install out",
        file="CMakeLists.txt",
        text=CMAKE_LISTS,
        other=CMAKE_LISTS.replace("-O1", "-O2"),
    )


TOOLS = {
    "cmake and make": cmake("Unix Makefiles"),
    "cmake and ninja": cmake("Ninja"),
    "meson": Tool(
        preset="meson",
        # Without being told its compiler, it takes a compiler cache that it finds on the host.
        configure="CC=cc meson setup out --prefix=$out",
        build="ninja -v -C out",
        install="meson install -C out --no-rebuild",
        file="meson.build",
        text=MESON_BUILD,
        other=MESON_BUILD.replace("optimization=1", "optimization=2"),
    ),
}


@pytest.fixture(params=[*TOOLS.values()], ids=[*TOOLS])
def tool(request: pytest.FixtureRequest) -> Tool:
    assert isinstance(request.param, Tool)
    return request.param


@pytest.fixture
def project(store: PrivateStore, tmp_path: Path, tool: Tool) -> Project:
    made = c_project(store, tmp_path)
    (made.folder / "Makefile").unlink()
    made.write(tool.file, tool.text)
    made.build_command, made.install_command = tool.build, tool.install
    made.arguments = {
        "preset": f"(import {made.library}).incremental.presets.{tool.preset}",
        "configure": f"''{tool.configure}''",
    }
    return made


def compiled(built: Built) -> Sequence[str]:
    return sorted(re.findall(r" -o \S+ -c \S*?([^/\s]+\.c)\b", built.log))


def test_the_second_build_compiles_what_changed(store: PrivateStore, project: Project) -> None:
    first = project.build()
    assert compiled(first) == UNITS
    assert first.run(store) == "3\n"
    project.write("one.c", '#include "part.h"\nint one(void) { return 5; }\n')
    second = project.build(base=project.as_base(first))
    assert second.said.startswith("base app-intermediates: 1 changed, 0 added, 0 deleted; ")
    assert compiled(second) == ["one.c"]
    assert second.run(store) == "7\n"
    project.assert_right(second)

    project.write("part.h", "int one(void);\nint two(void);\n#define MORE 1\n")
    third = project.build(base=project.as_base(second))
    assert compiled(third) == UNITS
    project.assert_right(third)


def test_another_way_to_build_is_a_full_build(tool: Tool, project: Project) -> None:
    first = project.build()
    project.write(tool.file, tool.other)
    second = project.build(base=project.as_base(first))
    assert second.said == f"full build: fullOn pattern matched {tool.file}"
    assert compiled(second) == UNITS
