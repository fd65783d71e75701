"""The page that a person sees who opens a cache's address: its public keys, and what to write in
nix.conf.

Somebody else's page is left alone.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

from reconciler.binary_cache.interface import ObjectStore
from reconciler.binary_cache.signing import PublicKey

PAGE = "index.html"
_MARK = "<!-- written by nix-reconciler: remove this line and it is left as it is -->"


async def place(store: ObjectStore, uri: str, keys: Sequence[PublicKey], *, store_dir: str) -> None:
    """Write the page where there is none, or one of ours that says something else.

    That it cannot be written is no fault of the cache: pushes will tell.
    """
    wanted = page(uri, keys, store_dir=store_dir).encode()
    there = await store.read(PAGE)
    if there is None or (there != wanted and there.startswith(_MARK.encode())):
        await store.put({PAGE: wanted})


def page(uri: str, keys: Sequence[PublicKey], *, store_dir: str) -> str:
    """The page's text."""
    # Of a folder or a bucket it is not known here under which address it is served.
    known = uri if uri.startswith(("http://", "https://")) else None
    address = f'<b id="address">{html.escape(known or "THE ADDRESS OF THIS PAGE")}</b>'
    lines = [f"extra-substituters = {address}"]
    if keys:
        trusted = " ".join(html.escape(str(key)) for key in keys)
        lines.append(f"extra-trusted-public-keys = {trusted}")
    says = "<p>What is here is signed with:</p>" if keys else "<p>What is here is not signed.</p>"
    listed = "".join(f"<li><code>{html.escape(str(key))}</code></li>" for key in keys)
    here = "document.getElementById('address').textContent = new URL('.', location).href"
    script = "" if known else f"<script>{here}</script>\n"
    return (
        f'{_MARK}\n<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        "<title>A binary cache for Nix</title>\n"
        '<meta name="viewport" content="width=device-width">\n'
        "<style>body { max-width: 60em; margin: 2em auto; padding: 0 1em; font-family: sans-serif }"
        " pre, code { overflow-wrap: anywhere; white-space: pre-wrap }</style>\n"
        "<h1>A binary cache for Nix</h1>\n"
        f"{says}\n<ul>{listed}</ul>\n"
        "<p>To use it, put this into <code>/etc/nix/nix.conf</code>:</p>\n"
        f"<pre>{chr(10).join(lines)}</pre>\n"
        f"<p>It holds paths of the store <code>{html.escape(store_dir)}</code>.</p>\n{script}"
    )
