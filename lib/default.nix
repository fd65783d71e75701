# Nix functions of this project: `import ./lib` without flakes, the output `lib` with them. No nixpkgs.
let
  incremental = import ./incremental;
in
{
  inherit incremental;
}
