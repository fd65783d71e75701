"""What a configuration must fulfil beyond its schema: names refer, nothing contradicts.

Pure. Works on a document without its defaults, which the schema may have refused in parts, so that
every problem is found at once; what has the wrong shape is passed over here. Reads no file.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import islice

from reconciler.config import addresses, branch_rules, cache_rules
from reconciler.config.host_keys import canonical
from reconciler.config.json_schema import secret_files
from reconciler.config.tree import MAX_PROBLEMS, Json, Node, locate, mark_of_key, problem_at
from reconciler.model import S3_PARAMETERS, Strategy
from reconciler.problems import Problem, did_you_mean, quote, render_path, undeclared
from reconciler.quantities import QuantityError, duration, size

_IN_STORE = re.compile(r"^/nix/store/|/store/[0-9a-df-np-sv-z]{32}-")
"""A store path, wherever the store is: Nix's base 32 leaves out e, o, t and u."""
_KEY_ITSELF = re.compile(
    r"(^|/)[^\s/:]+:[A-Za-z0-9+/]{80,}={0,2}$|-----BEGIN |\bpassword +\S|aws_secret_access_key"
)
"""Nix's secret keys, ssh's, a line of a netrc or of a file of credentials. The document's folder
may stand before it: it was taken for a path."""
_PASSWORD = re.compile(r"^[a-z0-9+.-]+://[^/@\s]*:[^/@\s]*@")
_SHORTEST_INTERVAL = 1.0
_SLOWEST = 1024
_KERNELS = frozenset(
    {
        "cygwin", "darwin", "freebsd", "genode", "ghcjs", "linux", "mmixware", "netbsd", "none",
        "openbsd", "redox", "solaris", "uefi", "wasi", "windows",
    }
)  # fmt: skip
_COMMON = ("aarch64-darwin", "aarch64-linux", "i686-linux", "riscv64-linux", "x86_64-linux")
_PROCESSORS = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "x64": "x86_64",
    "x86-64": "x86_64",
    "i386": "i686",
}
"""Other systems' names for them, and Nix's."""

_PROTOCOLS = {"flake": ("garnix", "cache.nix"), "git": ("cache.nix", "arg"), "path": ("arg",)}
"""By kind of source: how a base can reach its expressions."""
_NEEDS = {
    "garnix": "a flake, with an input called garnix-incrementalize",
    "cache.nix": "a git repository, to put a commit on top of the source's",
    "arg": "a file with a function that takes the argument incrementalBases",
}

Refusal = tuple[list[str | int], str, str]
"""Document path, message and mend."""


def problems(root: Node, document: Json) -> list[Problem]:
    """Find everything that contradicts itself or refers to nothing, `MAX_PROBLEMS` at most."""
    if not isinstance(document, dict):
        return []
    found = islice(_refusals(document), MAX_PROBLEMS)
    return [_placed(root, path, message, mend) for path, message, mend in found]


def _placed(root: Node, path: list[str | int], message: str, mend: str) -> Problem:
    node = locate(root, path)
    return problem_at(node.mark if node else mark_of_key(root, path), path, message, mend)


def _refusals(document: dict[str, Json]) -> Iterator[Refusal]:
    caches = _declared(document, "caches")
    builders = _declared(document, "builders")
    jobsets = _declared(document, "jobsets")
    for name, jobset in jobsets.items():
        yield from _jobset(["jobsets", name], jobset, caches)
        source = jobset.get("source")
        if isinstance(source, dict):
            yield from branch_rules.refusals(["jobsets", name], source, jobsets)
        yield from _resource_rules(["jobsets", name, "resources"], jobset, builders)
        yield from _strategy(["jobsets", name, "incremental", "strategy"], jobset, builders)
        yield from _unaudited(["jobsets", name, "incremental", "audit"], jobset)
    yield from _builders(builders)
    yield from _stored_secrets(document)
    yield from addresses.refusals(document)
    for name, store in _declared(document, "artifactStores").items():
        yield from _artifact_store(["artifactStores", name], store)
        yield from _bucket(["artifactStores", name, "url"], store.get("url"))
    for name, cache in caches.items():
        at: list[str | int] = ["caches", name]
        yield from _sent_to(at, cache)
        yield from _password([*at, "uri"], cache.get("uri"))
        yield from _bucket([*at, "uri"], cache.get("uri"))
        yield from _kind_of_cache(at, cache)
        upstreams = cache.get("upstreams")
        for index, upstream in enumerate(upstreams if isinstance(upstreams, list) else ()):
            if isinstance(upstream, dict):
                yield from _password([*at, "upstreams", index, "url"], upstream.get("url"))


def _jobset(
    at: list[str | int], jobset: dict[str, Json], caches: Mapping[str, dict[str, Json]]
) -> Iterator[Refusal]:
    yield from cache_rules.pushed_to([*at, "caches"], jobset.get("caches"), caches)
    yield from _systems([*at, "systems"], jobset.get("systems"))
    interval = jobset.get("interval")
    if isinstance(interval, str) and 0 < _seconds(interval) < _SHORTEST_INTERVAL:
        yield [*at, "interval"], f"{quote(interval)} is too often", "write at least 1s"
    source = jobset.get("source")
    if isinstance(source, dict):
        yield from _password([*at, "source", "flake"], source.get("flake"))
        git = source.get("git")
        if isinstance(git, dict):
            yield from _password([*at, "source", "git", "url"], git.get("url"))
        yield from _protocols([*at, "incremental", "protocols"], source, jobset)
        incremental = jobset.get("incremental")
        if isinstance(incremental, dict):
            place = [*at, "incremental", "untrusted"]
            yield from branch_rules.untrusted(place, incremental.get("untrusted"), source)
            place = [*at, "incremental", "search"]
            yield from branch_rules.fallback(place, incremental.get("search"))


def _protocols(
    at: list[str | int], source: dict[str, Json], jobset: dict[str, Json]
) -> Iterator[Refusal]:
    """Refuse ways by which no base could ever reach the source's expressions."""
    incremental = jobset.get("incremental")
    protocols = incremental.get("protocols") if isinstance(incremental, dict) else None
    kind = next((kind for kind in _PROTOCOLS if kind in source), None)
    for index, protocol in enumerate(protocols if isinstance(protocols, list) else ()):
        if not isinstance(protocol, str) or kind is None:
            continue
        if protocol in _NEEDS and protocol not in _PROTOCOLS[kind]:
            message = f"{quote(protocol)} needs {_NEEDS[protocol]}"
            fitting = " or ".join(quote(each) for each in _PROTOCOLS[kind])
            yield [*at, index], message, f"for this source write {fitting}"


def _strategy(
    at: list[str | int], jobset: dict[str, Json], builders: dict[str, dict[str, Json]]
) -> Iterator[Refusal]:
    """Refuse to show builds on this machine something where none ever is."""
    incremental = jobset.get("incremental")
    strategy = incremental.get("strategy") if isinstance(incremental, dict) else None
    elsewhere = all(isinstance(each.get("uri"), str) for each in builders.values())
    if builders and elsewhere and strategy in {Strategy.HIDDEN, Strategy.COMPILER_CACHE}:
        message = f"{quote(strategy)} is for builds on this machine, and all builders have a uri"
        yield at, message, 'declare a builder without one, or write "pure"'


def _unaudited(at: list[str | int], jobset: dict[str, Json]) -> Iterator[Refusal]:
    """Refuse audits of builds that are made from no base, since nothing would come of them."""
    incremental = jobset.get("incremental")
    if not isinstance(incremental, dict) or incremental.get("strategy") != Strategy.COMPILER_CACHE:
        return
    audit = incremental.get("audit")
    for key, value in audit.items() if isinstance(audit, dict) else ():
        if value:
            message = f"builds with the strategy {quote(Strategy.COMPILER_CACHE)} are not audited"
            yield [*at, key], message, 'leave it away, or write the strategy "pure" or "hidden"'


def _resource_rules(
    at: list[str | int], jobset: dict[str, Json], builders: dict[str, dict[str, Json]]
) -> Iterator[Refusal]:
    """Refuse what no builder could ever give."""
    offered: dict[str, Json] = {}
    for builder in builders.values():
        resources = builder.get("resources")
        if isinstance(resources, dict):
            offered |= resources
    rules = jobset.get("resources")
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        needs = rule.get("needs") if isinstance(rule, dict) else None
        for name, asked in needs.items() if isinstance(needs, dict) else ():
            place = [*at, index, "needs", name]
            if name not in offered:
                how = f"builders: {{NAME: {{resources: {{{name}: {asked}}}}}}}"
                mend = undeclared(name, list(offered), how=how)
                yield place, f"no builder has the resource {quote(name)}", mend
            elif isinstance(asked, str) != isinstance(offered[name], str):
                yield (
                    place,
                    f"{quote(asked)} cannot be taken of the {quote(offered[name])} of a builder",
                    "write sizes for both, or numbers for both",
                )


def _builders(builders: dict[str, dict[str, Json]]) -> Iterator[Refusal]:
    first_by_uri: dict[str | None, str] = {}
    for name, builder in builders.items():
        at: list[str | int] = ["builders", name]
        yield from _by_ssh(at, builder)
        yield from _systems([*at, "systems"], builder.get("systems"))
        uri = builder.get("uri")
        if uri is not None and not isinstance(uri, str):
            continue
        first = first_by_uri.setdefault(uri, name)
        if uri is None:
            yield from _local_builder(at, builder, first=first)
        elif first != name:
            where = render_path(["builders", first])
            yield [*at, "uri"], f"{where} is the same machine", "keep one, with the slots of both"


_OF_NO_STORE: dict[str, tuple[Json, str, str]] = {
    "credentialsFile": (None, "a Nix store is opened by an ssh key", "write sshKeyFile"),
    "compression": ("xz", "a Nix store keeps what it has unpacked", "remove it"),
    "push": ("jobs", *cache_rules.NEVER_ALONE),
    "gc": (True, "a Nix store has a garbage collector of its own", "remove it, and run that there"),
}
"""What a cache reached by ssh-ng cannot have: the value that is refused (None: any), why, and the
mend. Defaults pass: whoever generates documents may write them out."""


def _kind_of_cache(at: list[str | int], cache: dict[str, Json]) -> Iterator[Refusal]:
    """Refuse what the kind of the cache has no use for."""
    uri = cache.get("uri")
    if not isinstance(uri, str):
        return
    if not uri.startswith("ssh-ng:"):
        for key in ("sshKeyFile", "publicHostKey"):
            if cache.get(key) is not None:
                yield [*at, key], "this cache is not reached by ssh", f"remove {key}"
        return
    yield from _by_ssh(at, cache)
    for key, (refused, why, mend) in _OF_NO_STORE.items():
        value = cache.get(key)
        if value is not None and refused in (None, value):
            yield [*at, key], why, mend


_HOST_KEY = re.compile(r"(ssh-|ecdsa-)\S+ |(c3NoL|ZWNkc2Et)[A-Za-z0-9+/=]{64}")
"""What looks like a host key, and passes the schema; of what does not, that tells."""
_PORT = re.compile(r"ssh-ng://.*:([0-9]{1,5})")


def _by_ssh(at: list[str | int], declared: dict[str, Json]) -> Iterator[Refusal]:
    """Refuse what looks like a way to a machine, and leads to none."""
    uri, key = declared.get("uri"), declared.get("publicHostKey")
    port = _PORT.fullmatch(uri) if isinstance(uri, str) else None
    if port is not None and not 0 < int(port[1]) < 2**16:
        yield [*at, "uri"], f"{port[1]} is no port", "write one from 1 to 65535, or none for 22"
    if isinstance(key, str) and _HOST_KEY.match(key) and canonical(key) is None:
        yield (
            [*at, "publicHostKey"],
            f"{quote(key)} is no public host key, or not all of one",
            "copy the whole line of /etc/ssh/ssh_host_ed25519_key.pub there",
        )


def _artifact_store(at: list[str | int], store: dict[str, Json]) -> Iterator[Refusal]:
    """Refuse a key where everyone sees it, and one that opens nothing."""
    url = store.get("url")
    if not isinstance(url, str):
        return
    if url.startswith("s3:") and "@" in url.partition("?")[0]:
        # The value itself is a secret: not to be printed.
        yield [*at, "url"], "it has a key in it", "keep the key in a file, as credentialsFile"
    if url.startswith("file:") and store.get("credentialsFile") is not None:
        yield [*at, "credentialsFile"], "a folder is opened by no key", "remove it"


def _bucket(at: list[str | int], uri: Json) -> Iterator[Refusal]:
    """Refuse parameters that a bucket does not have: nothing could be done with it."""
    if not isinstance(uri, str) or not uri.startswith("s3:"):
        return
    for part in filter(None, uri.partition("?")[2].split("&")):
        name, _, value = part.partition("=")
        if name not in S3_PARAMETERS:
            mend = did_you_mean(name, S3_PARAMETERS, label="allowed")
            yield at, f"a bucket has no parameter {quote(name)}", mend
        elif not value:
            yield at, f"{name} is empty", "give it a value, or leave it out"


def _systems(at: list[str | int], systems: Json) -> Iterator[Refusal]:
    """Refuse what no Nix calls a system: nothing would ever be built for it, without a word."""
    for index, system in enumerate(systems if isinstance(systems, list) else ()):
        if not isinstance(system, str) or "-" not in system:
            continue
        processor, kernel = system.rsplit("-", 1)
        meant = _PROCESSORS.get(processor.casefold())
        if kernel not in _KERNELS:
            mend = did_you_mean(system, _COMMON, label="common ones")
            yield [*at, index], f"{quote(system)} is no system of Nix", mend
        elif meant is not None:
            mend = f"write {meant}-{kernel}"
            yield [*at, index], f"{quote(system)} is not what Nix calls it", mend


def _local_builder(
    at: list[str | int], builder: dict[str, Json], *, first: str
) -> Iterator[Refusal]:
    if first != at[-1]:
        where = render_path(["builders", first])
        yield at, f"it is this machine, as is {where}", "give it a uri, or keep one of them"
    for key in ("sshKeyFile", "publicHostKey"):
        if builder.get(key) is not None:
            yield [*at, key], "this machine is not reached by ssh", f"add a uri, or remove {key}"


def _sent_to(at: list[str | int], cache: dict[str, Json]) -> Iterator[Refusal]:
    """Refuse a limit where a cache of this kind has none."""
    uri, bandwidth = cache.get("uri"), cache.get("bandwidth")
    kind = uri.partition(":")[0] if isinstance(uri, str) else ""
    if not isinstance(bandwidth, str):
        return
    if kind in ("file", "ssh-ng"):
        message = f"what is sent to a cache of kind {kind}: is not limited"
        yield [*at, "bandwidth"], message, "remove it"
    elif 0 <= _bytes(bandwidth) < _SLOWEST:
        yield [*at, "bandwidth"], f"{quote(bandwidth)} is too little", "write at least 1KiB"


def _stored_secrets(document: dict[str, Json]) -> Iterator[Refusal]:
    mend = "keep the secret in a file outside, such as one under /run/credentials or /run/secrets"
    for at, file in secret_files(document):
        if "\n" in file:
            continue
        if _KEY_ITSELF.search(file):
            # The value itself is a secret: not to be printed.
            yield at, "it is the secret itself", "write it to a file, and that file's path here"
        elif _IN_STORE.search(file):
            yield at, f"{quote(file)} is in the Nix store, where everyone can read it", mend


def _password(at: list[str | int], value: Json) -> Iterator[Refusal]:
    if isinstance(value, str) and _PASSWORD.search(value):
        # The value itself is a secret: not to be printed.
        yield (
            at,
            "it has a password in it, which logs and process lists would show",
            "keep the password in a file (credentialsFile, or git's own credentials)",
        )


def _seconds(text: str) -> float:
    """Read a duration; 0 for what the schema refuses anyway."""
    try:
        return duration(text)
    except QuantityError:
        return 0.0


def _bytes(text: str) -> int:
    """Read a size; -1 for what the schema refuses anyway."""
    try:
        return size(text)
    except QuantityError:
        return -1


def _declared(document: dict[str, Json], kind: str) -> dict[str, dict[str, Json]]:
    """Give the objects of a kind that have the shape of one."""
    held = document.get(kind)
    if not isinstance(held, dict):
        return {}
    return {name: value for name, value in held.items() if isinstance(value, dict)}
