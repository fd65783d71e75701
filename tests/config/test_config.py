"""The configuration: what it becomes, and everything wrong with it at its place with the mend."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.config import ConfigError, Problem, load, parse
from reconciler.model import (
    Amount,
    ArtifactStore,
    Builder,
    BuilderName,
    CacheName,
    Compression,
    Desired,
    EvaluationSettings,
    FlakeSource,
    GitSource,
    Incremental,
    JobsetName,
    Limits,
    PathSource,
    Protocol,
    PushRule,
    PushScope,
    ResourceRule,
    Retry,
    Upstream,
)

KEY = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJhPb0xqvbcAWJv2MvYwwVBsYNlMCrEyRuTRnNvQ4J8Y"
CUT_HOST_KEY = base64.b64encode(HOST_KEY[:-6].encode()).decode()
"""In the form of nix.buildMachines, and not all of it."""

EVERYTHING = f"""
jobsets:
  website:
    source:
      git: {{url: "https://git.example.org/w", ref: on}}
      file: release.nix
      args: {{n: 1.0}}
    attributes: [hydraJobs, 'packages."a.b"']
    systems: [x86_64-linux]
    interval: null
    enabled: false
    shares: 200
    caches: [main]
    keep: 5
    limits: {{timeout: 4h, maxSilent: 20m, maxLog: 16MiB, maxOutput: 4GiB}}
    retry: {{attempts: 5, backoff: 1m}}
    resources: [{{match: "*.tests.*", needs: {{memory: 8GiB}}}}]
    evaluation:
      workers: 2
      maxMemory: 8GiB
      timeout: 20m
      allowImportFromDerivation: true
      pure: false
    incremental:
      enable: true
      protocols: [cache.nix, arg]
      strategy: pure
      search: {{parents: 5, fallbackBranch: trunk}}
      chain: {{maxDepth: 3, fullEvery: 1d}}
      audit: {{fraction: 1, beforeRelease: true}}
      retention: {{perSlot: 2, maxSize: 1GiB}}
      share: {{read: false, write: false}}
      retryClean: false
artifactStores:
  builds: {{url: "s3://b?region=r", credentialsFile: /run/keys/artifacts}}
builders:
  local: {{maxJobs: 2, speedFactor: 2.0}}
  big:
    uri: ssh-ng://nix@big.example.org
    sshKeyFile: /run/credentials/reconciler.service/big-key
    publicHostKey: "{HOST_KEY}"
    systems: [x86_64-linux, i686-linux]
    maxJobs: 16
    supportedFeatures: [big-parallel]
    mandatoryFeatures: [kvm]
    drain: true
    resources: {{memory: 32GiB, licences: 2}}
caches:
  main:
    uri: "s3://nix-cache?region=eu-central-1&endpoint=s3.example.org"
    signingKeyFile: /run/keys/sign
    credentialsFile: /run/keys/s3
    compression: xz
    push: all
    upstreams: [{{url: "https://cache.nixos.org", publicKey: "{KEY}"}}]
""".encode()


def read(text: str | bytes, folder: Path = Path("/")) -> Desired:
    return parse(text.encode() if isinstance(text, str) else text, name="farm.yaml", folder=folder)


def refused(text: str | bytes) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as error:
        read(text)
    assert error.value.exit_status == 2
    return error.value.problems


def test_every_key_reaches_the_model() -> None:
    desired = read(EVERYTHING)
    jobset = desired.jobsets[JobsetName("website")]
    assert jobset.name == "website"
    assert jobset.source == GitSource(
        url="https://git.example.org/w", ref="on", file="release.nix", args={"n": 1.0}
    )
    assert isinstance(jobset.source, GitSource)
    assert isinstance(jobset.source.args["n"], float)
    assert jobset.attributes == ("hydraJobs", 'packages."a.b"')
    assert jobset.systems == ("x86_64-linux",)
    assert jobset.interval is None
    assert not jobset.enabled
    cache = desired.caches[CacheName("main")]
    assert (jobset.shares, jobset.caches, jobset.keep) == (200, {"main": cache.rule}, 5)
    assert jobset.limits == Limits(
        timeout=14400.0, max_silent=1200.0, max_log=2**24, max_output=2**32
    )
    assert jobset.retry == Retry(attempts=5, backoff=60.0)
    assert jobset.evaluation == EvaluationSettings(
        workers=2, max_memory=2**33, timeout=1200.0, allow_import_from_derivation=True, pure=False
    )
    assert jobset.incremental == Incremental(
        enable=True,
        protocols=(Protocol.CACHE_NIX, Protocol.ARG),
        parents=5,
        fallback_branch="trunk",
        max_depth=3,
        full_every=86400.0,
        audit_fraction=1.0,
        audit_before_release=True,
        per_slot=2,
        max_size=2**30,
        retry_clean=False,
        share_read=False,
        share_write=False,
    )
    assert desired.artifact_stores["builds"] == ArtifactStore(
        name="builds", url="s3://b?region=r", credentials_file="/run/keys/artifacts"
    )
    assert desired.builders[BuilderName("big")] == Builder(
        name=BuilderName("big"),
        uri="ssh-ng://nix@big.example.org",
        systems=("x86_64-linux", "i686-linux"),
        max_jobs=16,
        speed_factor=1.0,
        supported_features=("big-parallel", "kvm"),
        mandatory_features=("kvm",),
        drain=True,
        ssh_key_file="/run/credentials/reconciler.service/big-key",
        public_host_key=HOST_KEY,
        resources={"memory": Amount(2**35, is_size=True), "licences": Amount(2, is_size=False)},
    )
    eight = frozenset([("memory", Amount(2**33, is_size=True))])
    assert jobset.resources == (ResourceRule(match="*.tests.*", needs=eight),)
    assert desired.builders[BuilderName("local")].speed_factor == 2.0
    assert cache.signing_key_file == "/run/keys/sign"
    assert cache.credentials_file == "/run/keys/s3"
    assert (cache.compression, cache.rule.scope) == (Compression.XZ, PushScope.ALL)
    assert cache.upstreams == (Upstream(url="https://cache.nixos.org", public_key=KEY),)


@pytest.mark.parametrize(
    ("source", "protocol"),
    [
        ("flake: 'git+https://x'", Protocol.GARNIX),
        ("{path: /x, file: a.nix}", Protocol.ARG),
        ("{git: {url: 'https://x'}, file: a.nix}", Protocol.ARG),
    ],
)
def test_a_base_reaches_a_source_by_the_way_that_fits(source: str, protocol: Protocol) -> None:
    source = source if source.startswith("{") else f"{{{source}}}"
    desired = read(f"jobsets: {{a: {{source: {source}}}}}")
    # What is said nowhere is as the model has it.
    assert desired.jobsets[JobsetName("a")].incremental == Incremental(protocols=(protocol,))


def test_an_empty_document_of_braces_declares_one_local_builder_with_one_slot() -> None:
    desired = read("{}")
    assert (desired.jobsets, desired.caches) == ({}, {})
    assert list(desired.builders) == ["local"]
    local = desired.builders[BuilderName("local")]
    assert (local.uri, local.max_jobs, local.systems, local.drain) == (None, 1, None, False)
    assert local.supported_features == ("benchmark", "big-parallel", "nixos-test")


def test_defaults_of_a_jobset_and_a_cache() -> None:
    desired = read("jobsets: {a: {source: {path: /srv/a}}}\ncaches: {c: {uri: 'file:///srv/c'}}\n")
    jobset = desired.jobsets[JobsetName("a")]
    assert jobset.source == PathSource(path="/srv/a", file="default.nix", args={})
    assert (jobset.attributes, jobset.systems, jobset.caches) == (None, None, {})
    assert (jobset.interval, jobset.enabled, jobset.shares, jobset.keep) == (300.0, True, 100, 3)
    assert jobset.limits == Limits(timeout=36000.0, max_silent=7200.0, max_log=2**26)
    assert jobset.retry == Retry(attempts=3, backoff=30.0)
    assert jobset.evaluation == EvaluationSettings(
        workers=1, max_memory=2**32, timeout=3600.0, allow_import_from_derivation=False, pure=True
    )
    cache = desired.caches[CacheName("c")]
    assert cache.compression is Compression.ZSTD
    assert cache.rule == PushRule(scope=PushScope.REQUISITES, exclude=())
    assert (cache.signing_key_file, cache.credentials_file, cache.upstreams) == (None, None, ())


def test_empty_is_empty_and_absent_is_absent() -> None:
    desired = read(
        "jobsets: {a: {source: {flake: x}, attributes: [], systems: []}}\n"
        "builders: {local: {systems: [], supportedFeatures: []}}\n"
    )
    jobset = desired.jobsets[JobsetName("a")]
    local = desired.builders[BuilderName("local")]
    assert (jobset.attributes, jobset.systems) == ((), ())
    assert (local.systems, local.supported_features) == ((), ())
    assert read("builders: {}").builders == {}
    assert (
        read("jobsets: {a: {source: {flake: x}, limits: {maxLog: null}}}")
        .jobsets[JobsetName("a")]
        .limits.max_log
        is None
    )


def test_its_document_is_canonical_and_reads_back_to_the_same() -> None:
    desired = read(EVERYTHING)
    assert parse(desired.document.encode(), name="stored") == desired
    assert desired.digest == hashlib.sha256(desired.document.encode()).hexdigest()
    assert json.loads(desired.document)["builders"]["local"]["speedFactor"] == 2


def test_the_digest_knows_what_is_declared_and_not_how_it_is_written() -> None:
    plain = read("jobsets: {b: {source: {flake: x}}, a: {source: {flake: y}}}")
    same = read(
        '# a comment\n{"builders": {"local": {"maxJobs": 1}}, "jobsets": '
        '{"a": {"source": {"flake": "y"}, "keep": 3}, "b": {"source": {"flake": "x"}}}}'
    )
    other = read("jobsets: {b: {source: {flake: x}}, a: {source: {flake: y}, keep: 4}}")
    assert plain.digest == same.digest != other.digest


def test_anchors_serve_several_jobsets() -> None:
    desired = read(
        "jobsets:\n"
        "  a: &shared {source: {flake: x}, keep: 7}\n"
        "  b: {<<: *shared, source: {flake: y}}\n"
    )
    second = desired.jobsets[JobsetName("b")]
    assert (second.keep, second.source) == (7, FlakeSource(url="y"))


def test_relative_paths_start_from_the_documents_folder(tmp_path: Path) -> None:
    file = tmp_path / "farm.yaml"
    file.write_text(
        "jobsets:\n"
        "  p: {source: {path: src}}\n"
        "  g: {source: {git: {url: ./repo}}}\n"
        "  f: {source: {flake: 'path:./flake'}}\n"
        "  h: {source: {flake: 'git+file:./repo?ref=main'}}\n"
        "  d: {source: {flake: .}}\n"
        "  r: {source: {flake: nixpkgs}}\n"
        "caches:\n"
        "  c: {uri: 'file:cache', signingKeyFile: ../key}\n"
        "  d: {uri: 'file://./cache/d'}\n"
        "  e: {uri: 'file:/srv/e'}\n"
    )
    desired = load(file)
    sources = {name: jobset.source for name, jobset in desired.jobsets.items()}
    assert sources == {
        "p": PathSource(path=f"{tmp_path}/src", file="default.nix"),
        "g": GitSource(url=f"{tmp_path}/repo", ref="HEAD", file="default.nix"),
        "f": FlakeSource(url=f"path:{tmp_path}/flake"),
        "h": FlakeSource(url=f"git+file://{tmp_path}/repo?ref=main"),
        "d": FlakeSource(url=str(tmp_path)),
        "r": FlakeSource(url="nixpkgs"),
    }
    caches = {name: cache.uri for name, cache in desired.caches.items()}
    assert caches == {
        "c": f"file://{tmp_path}/cache",
        "d": f"file://{tmp_path}/cache/d",
        "e": "file:///srv/e",
    }
    assert desired.caches[CacheName("c")].signing_key_file == f"{tmp_path.parent}/key"


def test_a_folder_that_a_uri_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="file:///PATH"):
        read("caches: {c: {uri: 'file:cache'}}", folder=tmp_path / "my farm")


# Each: the document with the place of the problem after ^^ (removed before it is read), the
# document path, and words of the message.
J = "jobsets: {a: {source: {flake: x}, "
SSH = "caches: {c: {uri: 'ssh-ng://h', "
R = "builders: {b: {resources: {memory: 8GiB}}}\njobsets: {a: {source: {flake: x}, "
WRONG = [
    ("^^hello", "", 'must be a mapping, is the text "hello"; write it like {"jobsets"'),
    ("^^[]", "", "must be a mapping, is a list"),
    ("^^3", "", "must be a mapping, is the number 3"),
    ("jobsets:^^\n", "jobsets", "must be a mapping, is null (nothing is written)"),
    (
        "^^jobset: {}",
        "jobset",
        'did you mean "jobsets"? (allowed: jobsets, builders, caches, artifactStores)',
    ),
    ('artifactStores: {a: {url: ^^"s3://k:s@b"}}', "artifactStores.a.url", "keep the key in a"),
    (
        "caches: {c: {uri: ^^'s3://b?regoin=x&endpoint=e'}}",
        "caches.c.uri",
        'a bucket has no parameter "regoin"; did you mean "region"?',
    ),
    (
        "artifactStores: {a: {url: ^^'s3://b?access-key=k'}}",
        "artifactStores.a.url",
        'a bucket has no parameter "access-key"; allowed: region, endpoint, scheme',
    ),
    ("caches: {c: {uri: ^^'s3://b?region='}}", "caches.c.uri", "region is empty; give it a value"),
    ("caches: {c: {uri: ^^'ftp://h/x'}}", "caches.c.uri", "does not fit here; write file:///PATH"),
    ("caches: {c: {uri: ^^'https:///x'}}", "caches.c.uri", "s3://BUCKET?region=…, https://HOST"),
    ("caches: {c: {uri: ^^'s3://'}}", "caches.c.uri", "s3://BUCKET?region=…, https://HOST/PATH"),
    ('artifactStores: {a: {url: ^^"ssh://b"}}', "artifactStores.a.url", "write file:///PATH or s3"),
    (
        'artifactStores: {a: {url: "file:/x", credentialsFile: ^^/k}}',
        "artifactStores.a.credentialsFile",
        "a folder is opened by no key; remove it",
    ),
    ("^^version: 3", "version", "there is no such key; allowed: jobsets, builders, caches"),
    ("jobsets: {^^we b: {source: {flake: x}}}", 'jobsets."we b"', "at most 100 letters"),
    ("jobsets: {^^-a: {source: {flake: x}}}", "jobsets.-a", "starting with a letter or digit"),
    ("builders: {^^a/b: {}}", 'builders."a/b"', "starting with a letter or digit"),
    ('caches: {^^"a\\n": {uri: "file:/x"}}', 'caches."a\\n"', "starting with a letter or digit"),
    ("jobsets: {^^'': {source: {flake: x}}}", 'jobsets.""', "starting with a letter or digit"),
    ("jobsets: {^^a: {}}", "jobsets.a", '"source" is missing; add source: {"flake": '),
    ("jobsets: {a: {^^source: x}}", "jobsets.a.source", 'is the text "x"; write {"flake"'),
    ("jobsets: {a: {^^source: {}}}", "jobsets.a.source", "has none of flake, git, path"),
    ("jobsets: {a: {^^source: {flak: x}}}", "jobsets.a.source", 'did you mean "flake"?'),
    (
        "jobsets: {a: {^^source: {flake: x, path: /x}}}",
        "jobsets.a.source",
        "has flake and path, which exclude each other; keep one of flake, path",
    ),
    (
        "jobsets: {a: {source: {flake: x, ^^file: y}}}",
        "jobsets.a.source.file",
        "(allowed: flake, branches, maxBranches)",
    ),
    (
        "jobsets: {a: {source: {^^git: {}}}}",
        "jobsets.a.source.git",
        '"url" is missing; add url: "https',
    ),
    (
        "jobsets:\n  a:\n    source:\n      git:\n        url: x\n        ref: ^^1.10\n",
        "jobsets.a.source.git.ref",
        'must be a text or null, is the number 1.1; write it in quotes: "1.10"',
    ),
    (
        "jobsets: {a: {source: {git: {url: x, ref: ^^-x}}}}",
        "jobsets.a.source.git.ref",
        "name of a branch",
    ),
    (
        "jobsets: {a: {source: {git: {url: ^^--upload-pack=x}}}}",
        "jobsets.a.source.git.url",
        "write a URL",
    ),
    (
        "jobsets: {a: {source: {flake: ^^'x#y'}}}",
        "jobsets.a.source.flake",
        "what would follow a # goes under attributes",
    ),
    (
        "jobsets: {a: {source: {path: /x, file: ^^/etc/x.nix}}}",
        "jobsets.a.source.file",
        "below the root of the source",
    ),
    (
        "jobsets: {a: {source: {path: /x, file: ^^a/../../b}}}",
        "jobsets.a.source.file",
        "without ..",
    ),
    (
        "jobsets: {a: {source: {path: ^^~/x}}}",
        "jobsets.a.source.path",
        "~ is not expanded",
    ),
    (
        "jobsets: {a: {source: {path: /x, args: {^^1a: 2}}}}",
        "jobsets.a.source.args.1a",
        "the name of an argument as Nix has it",
    ),
    (J + "^^Intervall: 5m}}", "jobsets.a.Intervall", 'did you mean "interval"?'),
    (J + "interval: ^^5}}", "jobsets.a.interval", 'write it with a unit, such as "5m"'),
    (J + "interval: ^^1:30}}", "jobsets.a.interval", 'write "1h30m" or "1m30s"'),
    (J + "interval: ^^0s}}", "jobsets.a.interval", "write more than zero"),
    (J + "interval: ^^10ms}}", "jobsets.a.interval", "is too often; write at least 1s"),
    (
        "caches: {c: {uri: 's3://b', bandwidth: ^^1B}}",
        "caches.c.bandwidth",
        "is too little; write at least 1KiB",
    ),
    (
        "caches: {c: {uri: 'file:/x', bandwidth: ^^1MiB}}",
        "caches.c.bandwidth",
        "a cache of kind file: is not limited; remove it",
    ),
    (J + "enabled: ^^yes}}", "jobsets.a.enabled", 'is the text "yes"; write true'),
    (J + "enabled: ^^Off}}", "jobsets.a.enabled", 'is the text "Off"; write false'),
    (J + "enabled: ^^1}}", "jobsets.a.enabled", "must be true or false, is the number 1"),
    (J + 'shares: ^^"010"}}', "jobsets.a.shares", "write 10, without quotes or leading zeros"),
    (J + "shares: ^^010}}", "jobsets.a.shares", "write 10, without quotes or leading zeros"),
    (J + "keep: ^^0}}", "jobsets.a.keep", "must be at least 1, is 0; write 1 or more"),
    (J + "keep: ^^20000}}", "jobsets.a.keep", "must be at most 10000, is 20000"),
    (J + "keep: ^^2.5}}", "jobsets.a.keep", "write a whole number from 1 to 10000"),
    (J + "keep: ^^true}}", "jobsets.a.keep", "must be a whole number, is true"),
    (J + "systems: ^^x86_64-linux}}", "jobsets.a.systems", 'a list: ["x86_64-linux"]'),
    (J + "systems: [^^linux]}}", "jobsets.a.systems[0]", "such as x86_64-linux"),
    (J + "systems: [a-none, ^^a-none]}}", "jobsets.a.systems[1]", "is listed twice"),
    (J + "attributes: [^^a..b]}}", "jobsets.a.attributes[0]", "names joined by dots"),
    (J + "limits: {maxLog: ^^4G}}}", "jobsets.a.limits.maxLog", 'write "4GiB"'),
    (J + "limits: {^^maxlog: 4GiB}}}", "jobsets.a.limits.maxlog", 'did you mean "maxLog"?'),
    (J + "limits: {timeout: ^^300w10000w}}}", "jobsets.a.limits.timeout", "each unit once"),
    (J + "retry: ^^[]}}", "jobsets.a.retry", "must be a mapping, is a list"),
    (J + "evaluation: {workers: ^^0}}}", "jobsets.a.evaluation.workers", "from 1 to 256"),
    (J + "evaluation: {maxMemory: ^^0B}}}", "jobsets.a.evaluation.maxMemory", "more than zero"),
    (J + "incremental: {strategy: ^^hiden}}}", "jobsets.a.incremental.strategy", '"hidden"'),
    (
        J + "incremental: {strategy: ^^hidden}}}\nbuilders: {big: {uri: ssh-ng://big}}",
        "jobsets.a.incremental.strategy",
        "all builders have a uri; declare a builder without one",
    ),
    (
        J + "incremental: {strategy: compiler-cache, audit: {beforeRelease: ^^true}}}}",
        "jobsets.a.incremental.audit.beforeRelease",
        'are not audited; leave it away, or write the strategy "pure" or "hidden"',
    ),
    (
        J + "incremental: {strategy: compiler-cache, audit: {fraction: ^^0.2}}}}",
        "jobsets.a.incremental.audit.fraction",
        'with the strategy "compiler-cache" are not audited',
    ),
    ("jobsets: {a: {source: {path: /x}, incremental: {protocols: [^^garnix]}}}",
     "jobsets.a.incremental.protocols[0]",
     'a flake, with an input called garnix-incrementalize; for this source write "arg"'),
    ("jobsets: {a: {source: {path: /x}, incremental: {protocols: [arg, ^^cache.nix]}}}",
     "jobsets.a.incremental.protocols[1]", "needs a git repository"),
    (J + "incremental: {protocols: [^^arg]}}}", "jobsets.a.incremental.protocols[0]",
     'write "garnix" or "cache.nix"'),
    (J + "incremental: {protocols: [^^cachix]}}}", "jobsets.a.incremental.protocols[0]",
     'did you mean "cache.nix"?'),
    (J + "incremental: {audit: {fraction: ^^5}}}}", "jobsets.a.incremental.audit.fraction",
     "from 0 to 1"),
    (J + "incremental: {chain: {maxDepth: ^^0}}}}", "jobsets.a.incremental.chain.maxDepth",
     "write enable: false"),
    (J + "incremental: {retention: {maxSize: ^^20G}}}}",
     "jobsets.a.incremental.retention.maxSize", 'write "20GiB"'),
    (J + "incremental: {search: {fallbackBranch: ^^-x}}}}",
     "jobsets.a.incremental.search.fallbackBranch", "the name of a branch"),
    (J + "caches: [^^mian]}}\ncaches: {main: {uri: 'file:/x'}}", "jobsets.a.caches[0]",
     'there is no cache "mian"; did you mean "main"? (declared: main)'),
    (J + "caches: [^^main]}}", "jobsets.a.caches[0]", "declare it: caches: {main: {uri: …}}"),
    ("builders: {local: {maxJobs: ^^0}}", "builders.local.maxJobs", "write drain: true"),
    ("builders: {local: {maxJobs: ^^99999}}", "builders.local.maxJobs", "from 1 to 10000"),
    ("builders: {local: {speedFactor: ^^0}}", "builders.local.speedFactor", "at least 0.001"),
    ("builders: {local: {drain: ^^'true'}}", "builders.local.drain", "write true"),
    ("builders: {b: {uri: ^^'ssh://x'}}", "builders.b.uri", "write ssh-ng://USER@HOST"),
    ("builders: {b: {uri: ^^'ssh-ng://-x'}}", "builders.b.uri", "write ssh-ng://USER@HOST"),
    ("builders: {b: {uri: ^^'ssh-ng://x?a=b'}}", "builders.b.uri", "write ssh-ng://USER@HOST"),
    ('builders: {b: {uri: ^^"ssh-ng://x\\n"}}', "builders.b.uri", "write ssh-ng://USER@HOST"),
    ("builders: {b: {uri: 'ssh-ng://x', publicHostKey: ^^AAAA}}", "builders.b.publicHostKey",
     "as in /etc/ssh/ssh_host_ed25519_key.pub"),
    ("builders: {b: {uri: 'ssh-ng://x', publicHostKey: ^^ssh-ed25519 AAAAB3NzaC1yc2EAAAADAQAB}}",
     "builders.b.publicHostKey", "or not all of one; copy the whole line of"),
    ("builders: {b: {uri: 'ssh-ng://x', publicHostKey: ^^" + HOST_KEY[:-3] + "}}",
     "builders.b.publicHostKey", "or not all of one"),
    ("builders: {b: {uri: 'ssh-ng://x', publicHostKey: ^^" + CUT_HOST_KEY + "}}",
     "builders.b.publicHostKey", "or not all of one"),
    ("builders: {b: {uri: ^^'ssh-ng://x:99999'}}", "builders.b.uri", "99999 is no port; write one"),
    ("builders: {b: {uri: ^^'ssh-ng://[::1]:0'}}", "builders.b.uri", "0 is no port; write one"),
    (SSH + "publicHostKey: ^^" + HOST_KEY[:-3] + "}}", "caches.c.publicHostKey", "not all of one"),
    ("builders: {a: {uri: 'ssh-ng://x'}, b: {uri: ^^'ssh-ng://x'}}", "builders.b.uri",
     "builders.a is the same machine; keep one"),
    ("builders: {a: {}, b: ^^{}}", "builders.b", "it is this machine, as is builders.a"),
    ("builders: {a: {sshKeyFile: ^^/k}}", "builders.a.sshKeyFile", "not reached by ssh; add a uri"),
    ("builders: {a: {supportedFeatures: [^^a b]}}", "builders.a.supportedFeatures[0]",
     "such as big-parallel"),
    ("builders: {a: {uri: 'ssh-ng://x', sshKeyFile: ^^/nix/store/x}}", "builders.a.sshKeyFile",
     "is in the Nix store, where everyone can read it"),
    ("builders: {a: {systems: [^^x86_64-linx]}}", "builders.a.systems[0]",
     'is no system of Nix; did you mean "x86_64-linux"?'),
    ("builders: {a: {systems: [^^amd64-linux]}}", "builders.a.systems[0]", "write x86_64-linux"),
    ("builders: {a: {maxJobs: ^^0}}", "builders.a.maxJobs", "to give it no builds write drain"),
    ("builders: {a: {resources: {memory: ^^lots}}}", "builders.a.resources.memory", "not a size"),
    ("builders: {a: {resources: {memory: ^^0}}}", "builders.a.resources.memory",
     'write a size such as "32GiB", or a whole number'),
    ("builders: {a: {resources: {memory: ^^true}}}", "builders.a.resources.memory",
     "a text or a whole number, is true"),
    ("builders: {a: {resources: {^^a b: 1}}}", 'builders.a.resources."a b"', "at most 100 letters"),
    ("builders: {a: {resources: {gpu: ^^9999999999}}}", "builders.a.resources.gpu",
     "must be at most 999999999"),
    (R + "resources: [^^{match: '*'}]}}", "jobsets.a.resources[0]", '"needs" is missing'),
    (R + "resources: [{match: '*', needs: {memroy: ^^1GiB}}]}}",
     "jobsets.a.resources[0].needs.memroy", 'has the resource "memroy"; did you mean "memory"?'),
    (R + "resources: [{match: '*', needs: {memory: ^^1}}]}}", "jobsets.a.resources[0].needs.memory",
     "1 cannot be taken of the \"8GiB\" of a builder; write sizes for both"),
    ("caches: {^^c: {}}", "caches.c", '"uri" is missing; add uri: "file:///srv/cache"'),
    ("caches: {c: {uri: ^^/srv/c}}", "caches.c.uri", "write file:///PATH"),
    ("caches: {c: {uri: ^^'file://srv/c'}}", "caches.c.uri", "write file:///PATH"),
    ("caches: {c: {uri: ^^'file:///srv/c?compression=xz'}}", "caches.c.uri", "a key of its own"),
    ("caches: {c: {uri: ^^'ssh-ng://h?compress=true'}}", "caches.c.uri", "ssh-ng://USER@HOST"),
    ("caches: {c: {uri: ^^'ssh-ng://-x'}}", "caches.c.uri", "ssh-ng://USER@HOST"),
    (SSH + "compression: ^^xz}}", "caches.c.compression", "keeps what it has unpacked; remove it"),
    (SSH + "push: ^^jobs}}", "caches.c.push", "without what that refers to; write requisites"),
    (SSH + "gc: ^^true}}", "caches.c.gc", "has a garbage collector of its own; remove it"),
    (SSH + "credentialsFile: ^^/k}}", "caches.c.credentialsFile", "write sshKeyFile"),
    (SSH + "publicHostKey: ^^AAAA}}", "caches.c.publicHostKey", "as in /etc/ssh/"),
    (SSH + "sshKeyFile: ^^/nix/store/x}}", "caches.c.sshKeyFile", "everyone can read it"),
    ("caches: {c: {uri: 'file:/x', sshKeyFile: ^^/k}}", "caches.c.sshKeyFile",
     "this cache is not reached by ssh; remove sshKeyFile"),
    ("caches: {c: {uri: 'file:/x', push: ^^reqisites}}", "caches.c.push",
     'did you mean "requisites"? (allowed: jobs, requisites, all)'),
    ("caches: {c: {uri: 'file:/x', compression: ^^3}}", "caches.c.compression", "must be a text"),
    ("caches: {c: {uri: 'file:/x', signingKeyFile: ^^//nix/store/k}}", "caches.c.signingKeyFile",
     "is in the Nix store"),
    ("caches: {c: {uri: 'file:/x', credentialsFile: ^^/t/store/%s-k}}" % ("0" * 32),
     "caches.c.credentialsFile", "is in the Nix store"),
    ("caches: {c: {uri: 'file:/x', upstreams: [{url: 'https://x', publicKey: ^^'k:x'}]}}",
     "caches.c.upstreams[0].publicKey", "write NAME:KEY"),
    ("caches: {a: {uri: 'file:/x'}, b: {uri: ^^'file:///x/'}}", "caches.b.uri",
     "caches.a is at the same place; give each a place of its own"),
    ("caches: {a: {uri: 's3://b'}}\nartifactStores: {s: {url: ^^'s3://b?region=r'}}",
     "artifactStores.s.url", "caches.a is at the same place"),
    ("caches: {a: {uri: ^^'file:///nix/store/cache'}}", "caches.a.uri",
     '"file:///nix/store/cache" is in the Nix store, where only Nix may write; name a folder'),
    ("artifactStores: {s: {url: ^^'file:/srv/x/../../nix/store'}}", "artifactStores.s.url",
     "is in the Nix store"),
    ("a: 1\n^^a: 2\njobsets: {}", "a", None),
]  # fmt: skip


@pytest.mark.parametrize(("marked", "path", "words"), WRONG)
def test_each_mistake_is_named_at_its_place_with_the_mend(
    marked: str, path: str, words: str | None
) -> None:
    before, after = marked.split("^^")
    problems = refused(before + after)
    if words is None:
        assert [p.message for p in problems][1:] == ['"a" is written twice, first on line 1']
        problems = problems[1:]
        words = "keep one of them"
    (problem,) = problems
    assert problem.path == path
    assert words in f"{problem.message}; {problem.mend}"
    assert (problem.line, problem.column) == (
        before.count("\n") + 1,
        len(before.split("\n")[-1]) + 1,
    )


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (J + "source: {flake: 'https://u:hunter2@h/x'}}}", None),
        ("jobsets: {a: {source: {flake: 'git+https://u:hunter2@h/x'}}}", "jobsets.a.source.flake"),
        ("jobsets: {a: {source: {git: {url: 'https://u:hunter2@h'}}}}", "jobsets.a.source.git.url"),
        ("caches: {c: {uri: 'https://u:hunter2@h/ x'}}", "caches.c.uri"),
        ("caches: {c: {uri: 'file:/x', upstreams: [{url: 'https://u:hunter2@h'}]}}",
         "caches.c.upstreams[0].url"),
    ],
)  # fmt: skip
def test_a_password_in_a_url_is_refused_and_not_repeated(text: str, path: str | None) -> None:
    with pytest.raises(ConfigError) as error:
        read(text)
    assert "hunter2" not in str(error.value)
    assert path is None or path in {problem.path for problem in error.value.problems}


VALUES = ["null", "true", "0", "-1", "1.5", '""', '"x"', '"5m"', "[]", "[1, 1]", "{}", '{"x": 1}']


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_any_value_anywhere_is_accepted_or_refused_at_its_place(data: st.DataObject) -> None:
    document = json.loads(read(EVERYTHING).document)
    for _ in range(data.draw(st.integers(1, 3))):
        held = document
        while True:
            keys = list(held) if isinstance(held, dict) else list(range(len(held)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(held[key], dict | list) and data.draw(st.integers(0, 3)):
                held = held[key]
                continue
            held[key] = json.loads(data.draw(st.sampled_from(VALUES)))
            break
    try:
        desired = read(json.dumps(document, indent=1))
    except ConfigError as error:
        problems = error.problems
    else:
        assert read(desired.document) == desired
        problems = ()
    assert all(problem.line and problem.path and problem.mend for problem in problems)


def test_every_mistake_is_named_at_once_in_the_order_of_the_text() -> None:
    with pytest.raises(ConfigError) as error:
        read(
            "jobset: {}\n"
            "jobsets:\n"
            "  a: {source: {path: /x}, caches: [mian], caches: []}\n"
            "  b: {source: {git: {ur: x}, fil: y}, interval: soon}\n"
            "caches: {main: {uri: 'file:/x', push: everything}}\n"
        )
    assert [str(error.value).splitlines()[i].partition(" ")[0] for i in range(8)] == [
        "farm.yaml:1:1:",
        "farm.yaml:3:36:",
        "farm.yaml:3:43:",
        "farm.yaml:4:16:",
        "farm.yaml:4:22:",
        "farm.yaml:4:30:",
        "farm.yaml:4:49:",
        "farm.yaml:5:39:",
    ]
    first = str(error.value).splitlines()[0]
    assert first == (
        "farm.yaml:1:1: jobset: there is no such key; "
        'did you mean "jobsets"? (allowed: jobsets, builders, caches, artifactStores)'
    )


def test_a_mistake_in_json_has_its_place_too() -> None:
    (problem,) = refused('{\n  "jobsets": {\n    "a": {"source": {"flake": "x"}, "keep": "3"}}}')
    assert (problem.line, problem.column, problem.path) == (3, 45, "jobsets.a.keep")


def test_a_mistake_in_a_repeated_part_is_placed_where_it_is_written() -> None:
    problems = refused("jobsets:\n  a: &a {source: {flake: x}, keep: 0}\n  b: *a\n")
    assert {(p.line, p.column, p.path) for p in problems} == {
        (2, 36, "jobsets.a.keep"),
        (2, 36, "jobsets.b.keep"),
    }


def test_control_characters_and_length_of_input_do_not_reach_the_message() -> None:
    (problem,) = refused('jobsets: {a: {source: {flake: "\\e[31m' + "x " * 10_000 + '"}}}')
    assert "\x1b" not in problem.message
    assert len(problem.message) < 200


def test_thousands_of_mistakes_are_bounded() -> None:
    with pytest.raises(ConfigError) as error:
        read("".join(f"a{i}: 1\n" for i in range(50_000)))
    assert len(error.value.problems) == 1000
    lines = str(error.value).splitlines()
    assert len(lines) == 101
    assert lines[-1] == "farm.yaml: and 900 more problems"


def test_more_jobsets_than_any_farm_has_are_refused_at_once() -> None:
    (problem,) = refused(
        "jobsets:\n" + "".join(f"  j{i}: {{source: {{path: x}}}}\n" for i in range(10_001))
    )
    assert problem.path == "jobsets"
    assert "has 10,001 entries, more than 10,000" in problem.message


def test_a_syntax_error_is_a_configuration_error() -> None:
    (problem,) = refused("jobsets: [")
    assert "this is not YAML" in problem.message


def test_a_missing_secret_is_not_the_documents_fault() -> None:
    desired = read("caches: {c: {uri: 'file:/x', signingKeyFile: /nowhere/at/all}}")
    assert desired.caches[CacheName("c")].signing_key_file == "/nowhere/at/all"


@pytest.mark.parametrize(
    "secret",
    [
        "farm-1:" + "Qk3/" * 21 + "Qk3=",
        "farm-1:" + "Qk3/" * 21 + "Qw==",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nQk3Qk3Qk3Qk3\n",
        "machine cache.example.org login me password Qk3Qk3Qk3",
        "[default] aws_secret_access_key = Qk3Qk3Qk3",
    ],
)
def test_a_secret_in_place_of_its_file_is_refused_and_not_printed(secret: str) -> None:
    cache = {"uri": "https://c.example.org", "signingKeyFile": secret, "credentialsFile": secret}
    found = refused(json.dumps({"caches": {"c": cache | {"signingKeyFiles": [secret]}}}))
    assert [each.path for each in found] == [
        f"caches.c.{key}" for key in ("signingKeyFile", "credentialsFile", "signingKeyFiles[0]")
    ]
    for each in found:
        assert "path" in each.mend
        assert "Qk3" not in str(each)
        assert "BEGIN" not in str(each)


def test_what_is_sent_to_a_cache() -> None:
    caches = read("caches: {a: {uri: 's3://b', bandwidth: 1.5MiB, logs: true}, d: {uri: 's3://e'}}")
    declared, default = caches.caches.values()
    assert (declared.bandwidth, declared.logs) == (1536 * 1024, True)
    assert (default.bandwidth, default.logs) == (None, False)


def test_what_other_issues_will_do_is_accepted_already() -> None:
    desired = read(
        "builders: {b: {uri: 'ssh-ng://nix@[::1]:22'}, c: {uri: 'ssh-ng://host.example.org'}}\n"
        "caches: {h: {uri: 'https://h.example.org/x'}, s: {uri: 'ssh-ng://u@h'}}\n"
    )
    assert [builder.uri for builder in desired.builders.values()] == [
        "ssh-ng://nix@[::1]:22",
        "ssh-ng://host.example.org",
    ]


def test_a_file_that_cannot_be_read_is_one_clear_message(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "large").write_bytes(b"#" * (16 * 2**20 + 1))
    for name, words in [
        ("none.yaml", "there is no such file; create it"),
        ("", "it is a folder; name the document itself"),
        ("fifo", "not a regular file"),
        ("loop", "it cannot be read: Too many levels of symbolic links"),
        ("a\0b", "it cannot be read: embedded null byte"),
        ("large", "larger than 16 MiB"),
    ]:
        with pytest.raises(ConfigError) as error:
            load(tmp_path / name)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert "\0" not in str(error.value)


def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    # Root reads everything, so a file whose reading fails for it, too: a process's memory map.
    file = tmp_path / "secret.yaml"
    file.write_text("{}")
    file.chmod(0)
    if os.access(file, os.R_OK):
        file = Path("/proc/self/mem")
    with pytest.raises(ConfigError, match=r"it cannot be read: .*; make it readable"):
        load(file)
