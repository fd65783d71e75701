# The same program made by make and by ninja, each of which starts where its last build ended.
#
# Bases come as an argument (protocol `arg`) or in a file beside this one (protocol `cache.nix`).
{
  incrementalBases ? { },
  system ? builtins.currentSystem,
  # Beside this file where the folder was copied out of the project.
  lib ? import (if builtins.pathExists ./lib then ./lib else ../../lib),
}:

let
  inherit (lib) incremental;

  baseOf = job: incrementalBases.${job} or (incremental.fromCacheNix ./cache.nix job);

  # What nixpkgs' stdenv and incremental.wrap are to a real project: the host's compiler in Nix's sandbox.
  program =
    job: arguments:
    incremental.derivation (
      {
        inherit system;
        name = "figures";
        slot = job;
        bucket = "builds"; # one of the reconciler's artifactStores
        base = baseOf job;
        src = ./source;
        install = ''
          mkdir -p $out/bin
          cp figures $out/bin
        '';
      }
      // arguments
    );
in
{
  with-make = program "with-make" {
    build = "make PREFIX=$out";
  };

  with-ninja = program "with-ninja" {
    preset = incremental.presets.ninja;
    build = ''
      sed "s|@PREFIX@|$out|" build.ninja >figures.ninja
      ninja -v -f figures.ninja
    '';
  };
}
