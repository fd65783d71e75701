"""Which branches a repository has, asked once for all jobsets that come of them.

Git is asked where the branches stand; of those that are asked for, our own mirror tells when they
were committed to and what they come from. A repository that cannot be listed is an end, too: it
says nothing of what there is.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from msgspec import Struct, field

from reconciler import branches, process
from reconciler.branches import Head
from reconciler.errors import ReconcilerError, SourceError
from reconciler.mirror import Mirror
from reconciler.model import Jobset
from reconciler.outcomes import Listed
from reconciler.source import REVISION, TIMEOUT, fetch_environment, git_url, reason

UNNAMED = "branches-unnamed"
ANCESTRY = "ancestry-unknown"


class _Listing(Struct, frozen=True, kw_only=True):
    heads: Mapping[str, str]
    """Branch to revision."""
    unnamed: list[str] = field(default_factory=list)


async def list_branches(
    jobset: Jobset,
    before: Mapping[str, Head],
    *,
    mirror: Path | None,
    environment: Mapping[str, str],
) -> Listed:
    """List the branches that a jobset is declared for.

    Those that stand where they stood `before` are not looked at again. Without a `mirror` nothing
    is known of a branch but its revision.
    """
    assert jobset.branches is not None
    env = fetch_environment(environment)
    try:
        url = git_url(branches.repository(jobset.source))
        listing = await _list(url, env, branches.places(jobset.branches))
    except ReconcilerError as error:
        return Listed(asked=jobset, error=str(error))
    wanted = {
        branch: revision
        for branch, revision in listing.heads.items()
        if branches.matches(branch, jobset.branches)
    }
    fresh = {
        branch: revision
        for branch, revision in wanted.items()
        if branch not in before
        or before[branch].revision != revision
        or before[branch].committed_at is None
    }
    looked = {branch: Head(branch=branch, revision=fresh[branch]) for branch in fresh}
    problem = None
    if fresh and mirror is not None:
        try:
            looked = await _look(jobset, listing.heads, fresh, Mirror(mirror, url, env))
        except (ReconcilerError, OSError) as error:
            problem = f"what the branches come from is not known: {error}"
    return Listed(
        asked=jobset,
        heads=tuple(looked[branch] if branch in looked else before[branch] for branch in wanted),
        notes={UNNAMED: _left_out(listing.unnamed), ANCESTRY: problem},
    )


async def _list(url: str, env: Mapping[str, str], places: Collection[str]) -> _Listing:
    # Of heads alone a server need not tell more; of other refs git sorts out what it was told.
    kind = ["--heads"] if {*places} == {branches.HEADS} else ["--refs"]
    patterns = [] if "--heads" in kind else [f"{each}*" for each in places]
    asked = await process.run(
        ["git", "ls-remote", *kind, "--", url, *patterns], env=env, timeout=TIMEOUT
    )
    if asked.returncode != 0:
        raise SourceError(f"git cannot read '{url}': {reason(asked.stderr)}")
    heads: dict[str, str] = {}
    unnamed: list[str] = []
    for line in asked.stdout.splitlines():
        revision, _, ref = line.partition(b"\t")
        if not REVISION.fullmatch(revision.decode("latin-1")):
            continue
        name = ref.decode(errors="backslashreplace").removeprefix(branches.HEADS)
        if name.startswith(branches.TAGS):
            continue
        if ref == branches.ref_of(name).encode():
            heads[name] = revision.decode()
        else:
            unnamed.append(name)
    return _Listing(heads=heads, unnamed=unnamed)


def _left_out(unnamed: list[str]) -> str | None:
    if not unnamed:
        return None
    few = ", ".join(unnamed[:5]) + (", …" if len(unnamed) > 5 else "")
    return f"left out, for its name is not UTF-8 or begins with {branches.REFS}: {few}; rename it"


async def _look(
    jobset: Jobset, heads: Mapping[str, str], fresh: Mapping[str, str], mirror: Mirror
) -> dict[str, Head]:
    """Find out what the mirror tells of branches."""
    fallback = jobset.incremental.fallback_branch
    parents = jobset.incremental.parents
    asked = dict(fresh)
    if fallback is not None and fallback in heads:
        asked[fallback] = heads[fallback]
    commits = await mirror.commits(asked, depth=parents + 1)
    others = (
        branches.ancestors(commits, asked[fallback])
        if fallback is not None and fallback in asked
        else frozenset[str]()
    )
    return {
        branch: Head(
            branch=branch,
            revision=revision,
            committed_at=commits[revision].at if revision in commits else None,
            ancestors=branches.first_parents(commits, revision, limit=parents),
            merge_base=None
            if branch == fallback
            else branches.merge_base(commits, revision, others),
        )
        for branch, revision in fresh.items()
    }
