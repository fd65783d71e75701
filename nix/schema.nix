# How a JSON schema refers to its parts.
{ lib, schema }:
rec {
  # A part without its reference into $defs: what stands beside that adds to it.
  resolve =
    part:
    if part ? "$ref" then
      schema."$defs".${lib.removePrefix "#/$defs/" part."$ref"} // removeAttrs part [ "$ref" ]
    else
      part;

  # The part for one entry of a list or of an object, also of one that has alternatives; empty where
  # anything goes.
  within =
    part: name:
    let
      alternatives = map resolve (part.oneOf or [ ]);
      properties = builtins.foldl' (all: each: all // each.properties) (part.properties or { }
      ) alternatives;
    in
    part.items or properties.${name} or part.additionalProperties or { };
}
