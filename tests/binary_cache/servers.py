"""Real servers of objects for the tests: rclone's S3 and WebDAV servers, and nginx; each on a
folder.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3

KEY_ID, SECRET = "TESTKEYID", "test-secret-of-no-worth"
USER, PASSWORD = "pusher", "test-password-of-no-worth"

_RCLONE = Path(sys.executable).parent / "rclone"
_CONTROL = re.compile(r"remote control on (http://127\.0\.0\.1:[0-9]+/)")
_READY = re.compile(r"(?i)server.*http://(127\.0\.0\.1:[0-9]+)/")


@dataclass(frozen=True)
class Server:
    """A server that runs: its HOST:PORT, and where it takes commands."""

    address: str
    control: str | None
    """None: it remembers nothing."""

    def refresh(self) -> None:
        """Have it forget what it knows of its folder, which was changed by hand."""
        if self.control is not None:
            assert urllib3.request("POST", f"{self.control}vfs/forget").status == 200


@contextmanager
def _serve(what: str, folder: Path, *options: str) -> Iterator[Server]:
    argv = [str(_RCLONE), "serve", what, "--addr", "127.0.0.1:0", "--config", "", *options]
    argv += ["--rc", "--rc-addr", "127.0.0.1:0", "--rc-no-auth", str(folder)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            while not ((ready := _READY.search(said)) and (control := _CONTROL.search(said))):
                line = process.stderr.readline()
                assert line, f"rclone ended: {said}"
                said += line
            # A pipe that nobody reads would stop it in the end.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            yield Server(address=ready.group(1), control=control.group(1))
        finally:
            process.kill()


_AS_S3 = (
    # Of itself it has no more uploads in parts at once than go on one page of their listing.
    *("--multipart-max-uploads", "0"),
    # Where a PUT is cut off while another object of its folder is put, rclone (1.75.2) may take
    # that for the temporary file it was, and answer 500 to every GET until it reads the folder
    # anew: after five minutes of itself, like this before a reader has given up.
    *("--dir-cache-time", "500ms"),
)


@contextmanager
def s3_server(folder: Path) -> Iterator[Server]:
    """S3 whose buckets are the folders below; signatures are checked."""
    with _serve("s3", folder, "--auth-key", f"{KEY_ID},{SECRET}", *_AS_S3) as server:
        yield server


@contextmanager
def open_s3_server(folder: Path) -> Iterator[Server]:
    """The same for anybody: Debian's Nix signs nothing."""
    with _serve("s3", folder) as server:
        yield server


@contextmanager
def dav_server(folder: Path) -> Iterator[Server]:
    """HTTP with PUT, for one user. A PUT that breaks off leaves half a file."""
    with _serve("webdav", folder, "--user", USER, "--pass", PASSWORD) as server:
        yield server


_NGINX = """
{modules}
{user}
daemon off;
pid {scratch}/pid;
error_log {scratch}/errors;
events {{}}
http {{
  access_log off;
  client_body_temp_path {scratch}/bodies;
  client_max_body_size 0;
  server {{
    listen {address};
    root {folder};
    location / {{
      auth_basic cache;
      auth_basic_user_file {scratch}/users;
      dav_methods PUT DELETE;
      create_full_put_path on;
      {listing}
    }}
  }}
}}
"""
_DAV_MODULE = "/usr/lib/nginx/modules/ngx_http_dav_ext_module.so"


@contextmanager
def nginx_server(folder: Path, *, lists: bool = True) -> Iterator[Server]:
    """nginx with its dav module for one user, and with the further module that `lists` folders."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")
    if program is None or not Path(_DAV_MODULE).exists():
        pytest.fail("there is no nginx with its dav modules: run `make tools`")
    with ExitStack() as stack:
        # A name without the marks of pytest's folders: nginx has no quotes for its own.
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nginx-")))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        (scratch / "users").write_text(f"{USER}:{{PLAIN}}{PASSWORD}\n")
        (scratch / "conf").write_text(
            _NGINX.format(
                modules=f"load_module {_DAV_MODULE};" if lists else "",
                user="user root;" if os.geteuid() == 0 else "",
                scratch=scratch,
                address=address,
                folder=folder,
                listing="dav_ext_methods PROPFIND OPTIONS;" if lists else "",
            )
        )
        # As it hands its sockets on to a newer nginx: there is a port without a race for it, and
        # who connects before it runs waits.
        environment = {**os.environ, "NGINX": f"{listener.fileno()};"}
        argv = (program, "-p", str(scratch), "-c", str(scratch / "conf"), "-e", "stderr")
        process = stack.enter_context(
            subprocess.Popen(
                argv, env=environment, pass_fds=(listener.fileno(),), stderr=subprocess.DEVNULL
            )
        )
        # Killed, it would leave its workers behind.
        stack.callback(process.terminate)
        listener.close()
        yield Server(address=address, control=None)


def s3_credentials(file: Path, *, key_id: str = KEY_ID, secret: str = SECRET) -> Path:
    """A credentials file of the form of `~/.aws/credentials`."""
    file.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = {secret}\n")
    return file


def netrc(file: Path, *, user: str = USER, password: str = PASSWORD) -> Path:
    """A credentials file of the form of curl's, and Nix's."""
    file.write_text(f"machine 127.0.0.1 login {user} password {password}\n")
    return file
