# Nix functions of this project: `import ./lib` without flakes, the output `lib` with them. No nixpkgs.
let
  incremental = import ./incremental;
in
{
  inherit incremental;

  buildCache = import ./incremental/build-cache.nix;

  # By the names that garnix's library has them.
  inherit (incremental) withCaches withCachesFor;
}
