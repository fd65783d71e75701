# What a worker of the built-in evaluator is asked: `walk`, a few attribute paths at a time.
#
# Answers go to standard error through `trace`, which prints at once, marked by a word that no
# expression under evaluation can know.
{ root, mark }:
let
  inherit (builtins)
    attrNames
    filter
    foldl'
    fromJSON
    isAttrs
    listToAttrs
    stringLength
    substring
    storeDir
    toJSON
    trace
    unsafeDiscardStringContext
    ;

  # An output known only after the build has a placeholder for a path.
  output =
    path:
    if substring 0 (stringLength storeDir) path == storeDir then
      unsafeDiscardStringContext path
    else
      null;

  job = derivation: {
    inherit (derivation) name system meta;
    drvPath = unsafeDiscardStringContext derivation.drvPath;
    outputs = listToAttrs (
      map (name: {
        inherit name;
        value = output derivation.${name}.outPath;
      }) (derivation.outputs or [ "out" ])
    );
  };

  answer =
    value:
    if !isAttrs value then
      { attrs = [ ]; }
    else if value.type or null == "derivation" then
      job value
    else
      { attrs = filter (name: name != "recurseForDerivations") (attrNames value); };

  say = message: trace "${mark} ${toJSON message}" null;
in
{
  # `paths` is JSON, so that a request is one line of plain characters. Each is answered before
  # the next is looked at; an error ends the request.
  walk =
    paths:
    foldl' (_: path: say (answer (foldl' (set: name: set.${name}) root path))) null (fromJSON paths);
  done = number: say { done = number; };
}
