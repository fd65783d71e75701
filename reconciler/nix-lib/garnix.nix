# A flake whose input garnix-incrementalize knows bases: `withCaches` gives each package, check and
# dev shell the base that is named by its attribute path. Nothing else of the flake changes, its
# revision and its other inputs included, so what has no base is the derivation that it is without.
#
# (Nix's --override-input takes the revision from the flake it is used on.)
{ flake, bases }:
let
  inherit (builtins)
    attrNames
    elemAt
    foldl'
    match
    ;
  input = "garnix-incrementalize";

  add =
    all: job:
    let
      parts = match "(packages|checks|devShells)[.]([^.]+)[.](.+)" job;
      type = elemAt parts 0;
      system = elemAt parts 1;
      ofType = all.${type} or { };
    in
    if parts == null then
      all
    else
      all
      // {
        ${type} = ofType // {
          ${system} = (ofType.${system} or { }) // {
            ${elemAt parts 2}.intermediates = bases.${job};
          };
        };
      };
  previous = foldl' add { } (attrNames bases);

  original = flake.inputs.${input};
  withCachesFor =
    original.lib.withCachesFor
      or (throw "the flake's input ${input} has no lib.withCachesFor: write `inputs.${input}.url = \"github:garnix-io/incrementalize\"`");

  inputs = flake.inputs // {
    ${input} =
      original
      // previous
      // {
        lib = original.lib // {
          withCaches = withCachesFor previous;
        };
      };
  };
  outputs = (import "${flake}/flake.nix").outputs (inputs // { inherit self; });
  self =
    outputs
    // flake.sourceInfo
    // {
      _type = "flake";
      inherit (flake) outPath sourceInfo;
      inherit inputs outputs;
    };
in
if flake.inputs ? ${input} then self else flake
