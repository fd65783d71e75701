"""Incremental builds: bases made, offered to evaluations, and recorded so that anyone can replay.

`fingerprint` tells by what means a derivation builds, `intermediates` makes bases of what builds
leave, `decisions` finds out what the jobs of an evaluation start from. `inputs` writes the bases
for an evaluation, `overlay` as a commit on top of the source's; `replay` prints the commands that
repeat it. `comparison` tells whether a build came to the same as its twin without a base. Which
base is chosen, and why, is decided by `reconciler.bases`.
"""
