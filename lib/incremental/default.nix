# Incremental builds: docs/incremental.md.
let
  bases = import ./bases.nix;
in
{
  wrap = import ./wrap.nix;
  derivation = import ./plain.nix;
  compilerCache = import ./compiler-cache.nix;
  presets = import ./presets.nix;
  inherit (bases)
    baseFromHash
    withCaches
    withCachesFor
    fromCacheNix
    cleanOverlay
    ;
}
