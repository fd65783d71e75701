# What incremental.wrap relies on of nixpkgs' stdenv, with the host's compiler: mkDerivation, overrideAttrs,
# and a setup script with its phases and hooks.
let
  mkDerivation =
    attributes:
    let
      passthru = attributes.passthru or { };
      made = derivation (
        {
          system = builtins.currentSystem;
          builder = "/usr/bin/bash";
          args = [
            "-e"
            "${./builder.sh}"
          ];
          setup = "${./setup.sh}";
          outputs = [ "out" ];
        }
        // builtins.removeAttrs attributes [ "passthru" ]
      );
    in
    made
    // passthru
    // {
      inherit passthru;
      overrideAttrs = change: mkDerivation (attributes // change attributes);
    };
in
{
  inherit mkDerivation;
}
