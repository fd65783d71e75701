"""Incremental builds: bases made, offered to evaluations, and recorded so that anyone can replay.

`fingerprint` tells by what means a derivation builds, `bases` puts intermediates into the store,
`history` and `overlay` work on a mirror of a repository, `inputs` writes what an evaluation is
given for each protocol and the command that repeats it. Which base a build starts from is decided
by `reconciler.bases`, when by `reconciler.plan`.
"""
