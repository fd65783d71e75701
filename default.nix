# Without flakes: the package, the library and the module, for the nixpkgs at hand.
{
  pkgs ? import <nixpkgs> { },
}:
{
  package = pkgs.callPackage ./nix/package.nix { };
  lib = import ./lib;
  module = ./module.nix;
}
