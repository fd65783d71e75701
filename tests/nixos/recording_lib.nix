# What the module uses of nixpkgs' lib, with types and options as plain data: they can be compared
# with the schema, written down, and filled in, on a machine that has nothing but Nix. A checked
# type tells which of `candidates` it accepts.
{ candidates }:
let
  inherit (builtins) concatStringsSep substring stringLength;
  startsWith = start: text: substring 0 (stringLength start) text == start;
  mapAttrsToList = f: set: map (name: f name set.${name}) (builtins.attrNames set);
in
{
  inherit concatStringsSep mapAttrsToList;
  toList = value: if builtins.isList value then value else [ value ];
  optionalAttrs = condition: set: if condition then set else { };
  optionalString = condition: text: if condition then text else "";
  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: values: if condition then values else [ ];
  imap0 = f: list: builtins.genList (n: f n (builtins.elemAt list n)) (builtins.length list);
  concatMapStringsSep =
    between: f: list:
    concatStringsSep between (map f list);
  intersectLists = left: builtins.filter (each: builtins.elem each left);
  filterAttrs =
    keep: set:
    builtins.removeAttrs set (builtins.filter (name: !keep name set.${name}) (builtins.attrNames set));
  genAttrs =
    names: f:
    builtins.listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );
  hasPrefix = startsWith;
  hasSuffix =
    end: text:
    stringLength end <= stringLength text
    && substring (stringLength text - stringLength end) (-1) text == end;
  hasInfix = inner: text: builtins.replaceStrings [ inner ] [ "" ] text != text;
  removePrefix =
    start: text: if startsWith start text then substring (stringLength start) (-1) text else text;
  importJSON = file: builtins.fromJSON (builtins.readFile file);
  importTOML = file: builtins.fromTOML (builtins.readFile file);
  generators.toPretty = _: builtins.toJSON;
  showOption = concatStringsSep ".";

  mkOption = option: option;
  mkEnableOption = text: {
    type.kind = "boolean";
    default = false;
    description = "Whether to enable ${text}.";
  };
  literalExpression = text: { inherit text; };
  literalMD = text: { inherit text; };
  mkOptionType = type: {
    kind = type.name;
    alternatives = type.nestedTypes;
  };
  types = {
    str.kind = "string";
    bool.kind = "boolean";
    path.kind = "path";
    package.kind = "package";
    enum = values: {
      kind = "enum";
      inherit values;
    };
    ints.between = lowest: highest: {
      kind = "integer";
      inherit lowest highest;
    };
    numbers.between = lowest: highest: {
      kind = "number";
      inherit lowest highest;
    };
    listOf = items: {
      kind = "list";
      inherit items;
    };
    attrsOf = items: {
      kind = "attributes";
      inherit items;
    };
    oneOf = alternatives: {
      kind = "either";
      inherit alternatives;
    };
    nullOr = inner: {
      kind = "nullable";
      inherit inner;
    };
    submodule = module: {
      kind = "submodule";
      inherit (module) options;
      freeform = module.freeformType;
    };
    addCheck = type: check: type // { accepts = builtins.filter check candidates; };
  };
}
