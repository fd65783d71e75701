# The type of options that a JSON schema describes: types, defaults, descriptions and examples are
# the schema's own, so that the two cannot differ. `json` is the type of any JSON value; what a
# schema says beyond what a type can check is left to `reconciler check`, which has the last word.
{ lib, json }:
schema:
let
  inherit (lib) types;

  inherit (import ./schema.nix { inherit lib schema; }) resolve;

  # Nix matches POSIX regular expressions, which have no look-ahead and no escapes for these.
  posix = builtins.replaceStrings [ "\\u0000-\\u001f" "\\s" "\\]" ] [ controls "[:space:]" "]" ];
  controls = builtins.fromJSON ''"\u0001-\u001f"''; # Nix strings hold no NUL

  text =
    part:
    if !part ? pattern || lib.hasInfix "(?" part.pattern then
      types.str
    else
      types.addCheck types.str (value: builtins.match (posix part.pattern) value != null)
      // {
        description = "string in quotes: ${
          part.errorMessage or "write it like ${builtins.toJSON (builtins.head part.examples)}"
        }";
      };

  kinds = {
    string =
      part:
      if part ? enum then types.enum (builtins.filter (value: value != null) part.enum) else text part;
    boolean = _: types.bool;
    integer = part: types.ints.between part.minimum part.maximum;
    number = part: types.numbers.between part.minimum part.maximum;
    array = part: types.listOf (typeOf part.items);
    object =
      part:
      if part ? properties then
        types.submodule {
          freeformType = json;
          options = builtins.mapAttrs (_: option) part.properties;
        }
      else
        types.attrsOf (if part ? additionalProperties then typeOf part.additionalProperties else json);
  };

  # Alternatives, told apart by the key that each of them needs.
  exclusive =
    alternatives:
    let
      keys = map (part: builtins.head part.required) alternatives;
      byKey = builtins.listToAttrs (
        map (part: {
          name = builtins.head part.required;
          value = typeOf part;
        }) alternatives
      );
      choice = lib.concatStringsSep ", " keys;
    in
    lib.mkOptionType {
      name = "exclusive";
      description = "exactly one of ${choice}, with what belongs to it";
      check = builtins.isAttrs;
      merge =
        loc: defs:
        let
          present = builtins.filter (key: builtins.any (def: def.value ? ${key}) defs) keys;
          has = if present == [ ] then "none" else lib.concatStringsSep " and " present;
        in
        if builtins.length present == 1 then
          byKey.${builtins.head present}.merge loc defs
        else
          throw "The option `${lib.showOption loc}' needs exactly one of ${choice}, and has ${has}: write one, such as ${
            lib.generators.toPretty { multiline = false; } (builtins.head (builtins.head alternatives).examples)
          }.";
      getSubOptions =
        prefix: builtins.foldl' (all: key: all // byKey.${key}.getSubOptions prefix) { } keys;
      nestedTypes = byKey;
    };

  typeOf =
    reference:
    let
      part = resolve reference;
      named = lib.toList part.type;
      either = map (kind: kinds.${kind} part) (builtins.filter (kind: kind != "null") named);
      type = if builtins.length either == 1 then builtins.head either else types.oneOf either;
    in
    if part ? oneOf then
      exclusive (map resolve part.oneOf)
    else if builtins.elem "null" named then
      types.nullOr type
    else
      type;

  option =
    reference:
    let
      part = resolve reference;
    in
    lib.mkOption (
      {
        type = typeOf part;
        inherit (part) description;
        example = builtins.head part.examples;
      }
      // lib.optionalAttrs (part ? default) { inherit (part) default; }
    );
in
typeOf schema
