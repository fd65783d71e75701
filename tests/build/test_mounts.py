"""Nix's pre-build-hook with a real Nix: what builds are shown, and what it must not be talked into.

The reconciler's user writes what the hook reads, and root runs it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.build import mounts
from reconciler.build.mounts import Kind, Mount, hook
from reconciler.model import DrvPath
from tests.support.private_store import PrivateStore
from tests.support.shown import mounted

LOOK = """
derivation {
  name = "looks@number@"; system = builtins.currentSystem;
  builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-c" ''
    if [ -d /incremental ]; then ls /incremental >$out; else echo nothing >$out; fi
    cd /incremental/base 2>/dev/null && {
      cat file
      chmod -R u+w . && echo changed >file && echo "BROKEN: written to"
      chmod -R u+w . || echo "kept: chmod"
      ( : >new ) 2>/dev/null || echo "kept: new"
    } >>$out 2>&1
    :
  '' ];
}
"""


@dataclass
class Hooked:
    """A store whose Nix runs the hook."""

    store: PrivateStore
    count: int = 0

    @property
    def answers(self) -> Path:
        return self.store.root / "answers"

    @property
    def view(self) -> Path:
        return self.store.root / "view"

    @property
    def caches(self) -> Path:
        return self.store.root / "compilers"

    def drv(self) -> DrvPath:
        self.count += 1
        (drv,) = self.store.instantiate(LOOK.replace("@number@", str(self.count)))
        return DrvPath(drv)

    def build(self, drv: DrvPath) -> str:
        """What the build saw."""
        out = self.store.run("nix-store", "--realise", drv).stdout.strip()
        return Path(out).read_text()

    def base(self) -> Path:
        folder = self.store.root / "a-base"
        folder.mkdir()
        (folder / "file").write_text("as it was\n")
        return Path(self.store.run("nix-store", "--add", str(folder)).stdout.strip())


@pytest.fixture
def hooked(store: PrivateStore) -> Hooked:
    made = Hooked(store)
    for folder in (made.answers, made.view, made.caches):
        folder.mkdir()
    use(made, hook(made.answers, store_view=made.view, compiler_caches=made.caches))
    return made


def use(hooked: Hooked, text: str) -> None:
    """Have Nix run a hook."""
    script = hooked.store.root / "hook"
    script.write_text(text)
    script.chmod(0o755)
    with (hooked.store.root / "conf/nix.conf").open("a") as file:
        file.write(f"pre-build-hook = {script}\n")


@pytest.fixture
def viewed(hooked: Hooked) -> Iterator[Hooked]:
    with mounted(hooked.store.store_dir, hooked.view, options="bind,ro"):
        yield hooked


def test_a_build_is_shown_its_base_and_cannot_change_it(viewed: Hooked) -> None:
    """H12. There are no build users here: the builder owns the base."""
    base, drv = viewed.base(), viewed.drv()
    with mounts.shown(viewed.answers, drv, Mount(kind=Kind.BASE, name=base.name)) as found:
        seen = viewed.build(drv)
    assert found.refused is None
    assert seen.startswith("base\nas it was\n")
    assert "kept: chmod" in seen
    assert "kept: new" in seen
    assert "BROKEN" not in seen
    assert viewed.store.run("nix-store", "--verify-path", str(base)).returncode == 0
    assert list(viewed.answers.iterdir()) == []


def test_without_the_view_the_builder_would_change_it(hooked: Hooked) -> None:
    """H12, without the guard: what is shown lies on the store as it is."""
    text = hook(hooked.answers, store_view=hooked.store.store_dir, compiler_caches=hooked.caches)
    use(hooked, text.replace('if ! is_read_only "$store"; then', "if false; then"))
    base, drv = hooked.base(), hooked.drv()
    with mounts.shown(hooked.answers, drv, Mount(kind=Kind.BASE, name=base.name)):
        seen = hooked.build(drv)
    assert "BROKEN: written to" in seen
    assert hooked.store.run("nix-store", "--verify-path", str(base), check=False).returncode != 0


@pytest.mark.parametrize("options", [None, "bind"])
def test_what_is_not_read_only_is_not_shown(hooked: Hooked, options: str | None) -> None:
    base, drv = hooked.base(), hooked.drv()
    mount = Mount(kind=Kind.BASE, name=base.name)
    with mounts.shown(hooked.answers, drv, mount) as found:
        if options is None:
            seen = hooked.build(drv)
        else:
            with mounted(hooked.store.store_dir, hooked.view, options=options):
                seen = hooked.build(drv)
    assert found.refused is not None
    assert found.refused.startswith("the store's read-only view is not there")
    assert seen == "nothing\n"


def test_others_are_shown_nothing(viewed: Hooked) -> None:
    """Neither another derivation meanwhile nor the same one afterwards."""
    base, drv, other = viewed.base(), viewed.drv(), viewed.drv()
    with mounts.shown(viewed.answers, drv, Mount(kind=Kind.BASE, name=base.name)) as found:
        assert viewed.build(other) == "nothing\n"
    assert found.refused is not None
    assert found.refused.startswith("Nix ran no pre-build-hook of ours for it")
    assert viewed.build(drv) == "nothing\n"


def test_a_base_that_is_gone_is_not_shown(viewed: Hooked) -> None:
    drv = viewed.drv()
    name = f"{'0' * 32}-gone"
    with mounts.shown(viewed.answers, drv, Mount(kind=Kind.BASE, name=name)) as found:
        assert viewed.build(drv) == "nothing\n"
    assert found.refused == "it is not there"


@pytest.mark.parametrize(
    "answer",
    [
        "base ../../../etc",
        "base /etc",
        "base ..",
        "base a/../../etc",
        "base x=/etc",
        "base $(touch here)",
        "base",
        "",
        "/etc",
        "extra-sandbox-paths\n/incremental/base=/etc",
        "compiler-cache ../answers",
        "compiler-cache /etc",
        "compiler-cache .",
        "compiler-cache ..",
    ],
)
def test_nothing_but_what_it_is_for_is_shown(viewed: Hooked, answer: str) -> None:
    """Whatever the reconciler's user writes."""
    drv = viewed.drv()
    (viewed.answers / Path(drv).name).write_text(f"{answer}\n")
    assert viewed.build(drv) == "nothing\n"


def test_nothing_is_reached_through_links(viewed: Hooked) -> None:
    """Nor written through them: the mark is a folder."""
    drv, other = viewed.drv(), viewed.drv()
    base = viewed.base()
    (viewed.caches / "linked").symlink_to("/etc")
    (viewed.answers / Path(drv).name).write_text("compiler-cache linked\n")
    assert viewed.build(drv) == "nothing\n"
    target = viewed.store.root / "target"
    real = viewed.answers / "real"
    real.write_text(f"base {base.name}\n")
    (viewed.answers / Path(other).name).symlink_to(real)
    (viewed.answers / f"{Path(other).name}.shown").symlink_to(target)
    assert viewed.build(other) == "nothing\n"
    assert not target.exists()


def test_what_compilers_keep_is_made_for_the_build_users(hooked: Hooked) -> None:
    drv = hooked.drv()
    hooked.caches.chmod(0o2755)
    with mounts.shown(
        hooked.answers, drv, Mount(kind=Kind.COMPILER_CACHE, name="website-1")
    ) as found:
        assert hooked.build(drv).splitlines()[0] == "compiler-cache"
    assert found.refused is None
    made = (hooked.caches / "website-1").stat()
    assert made.st_mode & 0o7777 == 0o2770
    assert made.st_gid == hooked.caches.stat().st_gid


def test_without_a_sandbox_nothing_is_shown(viewed: Hooked) -> None:
    with (viewed.store.root / "conf/nix.conf").open("a") as file:
        file.write("sandbox = false\n")
    base, drv = viewed.base(), viewed.drv()
    with mounts.shown(viewed.answers, drv, Mount(kind=Kind.BASE, name=base.name)) as found:
        viewed.build(drv)
    assert found.refused is not None


def test_an_audit_by_nix_itself_is_shown_nothing(viewed: Hooked) -> None:
    """H13: `nix-store --check` runs the hook too, when nobody says anything to it any more."""
    base, drv = viewed.base(), viewed.drv()
    with mounts.shown(viewed.answers, drv, Mount(kind=Kind.BASE, name=base.name)):
        viewed.build(drv)
        fooled = viewed.store.run("nix-store", "--realise", "--check", drv, check=False)
        assert fooled.returncode == 0, "without the guard it finds itself right"
    checked = viewed.store.run("nix-store", "--realise", "--check", drv, check=False)
    assert checked.returncode == 104, "it differs, as the first build was shown something"


def test_a_folder_for_answers_that_cannot_be_made_costs_a_full_build(hooked: Hooked) -> None:
    drv = hooked.drv()
    answers = hooked.store.root / "file"
    answers.write_text("")
    with mounts.shown(answers, drv, Mount(kind=Kind.COMPILER_CACHE, name="x")) as found:
        assert hooked.build(drv) == "nothing\n"
    assert found.refused is not None
    assert found.refused.startswith("the hook cannot be told of it: ")


SHARED = """
derivation {
  name = "shared@number@"; system = builtins.currentSystem;
  builder = "/bin/sh"; PATH = "/usr/bin:/bin";
  args = [ "-c" ''
    cd /incremental
    (umask 007; mkdir -p compiler-cache/0; echo @number@ >>compiler-cache/0/file)
    cat compiler-cache/0/file >$out
    :
  '' ];
}
"""


def test_build_users_share_what_compilers_keep(hooked: Hooked) -> None:
    """As on a machine with the usual build users: each build is another user of one group."""
    root = hooked.store.root
    group, users = root / "group", root / "passwd"
    group.write_text("root:x:0:\nbuilders:x:64123:builder1,builder2\nnogroup:x:65534:\n")
    users.write_text(
        "root:x:0:0:root:/root:/bin/sh\n"
        "builder1:x:64121:64123::/var/empty:/bin/sh\nbuilder2:x:64122:64123::/var/empty:/bin/sh\n"
    )
    with (root / "conf/nix.conf").open("a") as file:
        file.write("build-users-group = builders\n")
    os.chown(hooked.caches, 0, 64123)
    hooked.caches.chmod(0o2755)
    seen = []
    for number in (1, 2):
        (drv,) = hooked.store.instantiate(SHARED.replace("@number@", str(number)))
        mount = Mount(kind=Kind.COMPILER_CACHE, name="website-1")
        # The first user that is free builds: of one, make it be the other's turn.
        busy = f"exec 9>{root}/state/userpool/{64121 if number == 2 else 64122}; flock 9"
        with mounts.shown(hooked.answers, DrvPath(drv), mount) as found:
            script = (
                f"mount --bind {group} /etc/group; mount --bind {users} /etc/passwd;"
                f" mkdir -p {root}/state/userpool; {busy}; nix-store --realise {drv}"
            )
            out = hooked.store.run("unshare", "--mount", "sh", "-euc", script).stdout.strip()
        assert found.refused is None
        seen.append(Path(out).read_text())
    assert seen == ["1\n", "1\n2\n"]
    assert (hooked.caches / "website-1/0/file").stat().st_uid == 64121
