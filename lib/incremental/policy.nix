# What a build saves and when it starts from nothing: one text, a word and a value a line, in the one
# variable incrementalPolicy, so that a change of policy changes nothing else of the derivation.
let
  presets = import ./presets.nix;
  show = value: if builtins.isString value then "\"${value}\"" else builtins.toJSON value;
in
rec {
  # The arguments of policy, with their defaults.
  defaults = {
    slot = null;
    fallback = null;
    bucket = null;
    preset = presets.make;
    artifacts = null;
    exclude = null;
    fullOn = null;
    structure = null;
    stablePrefix = true;
    stages = "one";
    epoch = "auto";
  };

  # The first time at which a restored artifact may be: sources are one second older.
  firstEpoch = 315532801;

  # Arguments checked and completed; `who` is named in errors.
  complete =
    who: given:
    let
      arguments = defaults // given;
      unknown = builtins.attrNames (builtins.removeAttrs given (builtins.attrNames defaults));
      fromPreset = name: if arguments.${name} == null then arguments.preset.${name} else arguments.${name};
      fail = name: wanted: throw "${who}: ${name} must be ${wanted}, not ${show arguments.${name}}";
      check =
        name: wanted: valid: value:
        if valid value then value else fail name wanted;
      isLine = text: builtins.isString text && text != "" && builtins.match "[^\n]*" text != null;
      lines = name: check name "a list of strings without line breaks" (
        value: builtins.isList value && builtins.all isLine value
      );
      label = name: check name "a string without line breaks, or null" (
        value: value == null || isLine value
      ) arguments.${name};
      # The path of an artifact is one inside the source.
      inside = pattern: builtins.match "/.*|(.*/)?\\.\\.(/.*)?|\\./.*" pattern == null;
    in
    if unknown != [ ] then
      throw "${who}: ${builtins.head unknown} is no argument; there are base, ${builtins.concatStringsSep ", " (builtins.attrNames defaults)}"
    else if !(builtins.isAttrs arguments.preset && arguments.preset ? fullOn) then
      throw "${who}: preset must be one of presets (make, cmake, ninja, meson, cargo, ghc, go), for example presets.cmake"
    else
      {
        slot = label "slot";
        fallback = label "fallback";
        bucket =
          let
            value = arguments.bucket;
          in
          # What was given may hold a key, so it is not shown.
          if value == null || (builtins.isString value && builtins.match "[0-9A-Za-z][0-9A-Za-z._@+-]*" value != null) then
            value
          else
            throw "${who}: bucket must be the name of one of the daemon's artifactStores, such as \"builds\", or null; the address and the credentials are in that option alone";
        artifacts =
          let
            value = fromPreset "artifacts";
          in
          if value == "auto" then
            [ "auto" ]
          else
            check "artifacts" "\"auto\" or a list of paths relative to the source, such as [ \"dist\" ]" (
              paths: builtins.isList paths && builtins.all (path: isLine path && inside path) paths
            ) value;
        exclude = lines "exclude" (fromPreset "exclude");
        fullOn = lines "fullOn" (fromPreset "fullOn");
        structure = check "structure" "\"clean\" or \"keep\"" (
          value: value == "clean" || value == "keep"
        ) (fromPreset "structure");
        stablePrefix = check "stablePrefix" "true or false" builtins.isBool arguments.stablePrefix;
        stages = check "stages" "\"one\" or \"compile-finish\"" (
          value: value == "one" || value == "compile-finish"
        ) arguments.stages;
        epoch =
          check "epoch" "\"auto\" or a time in seconds since 1970, ${toString firstEpoch} at the least"
            (value: value == "auto" || (builtins.isInt value && value >= firstEpoch))
            arguments.epoch;
        inherit (arguments) preset;
      };

  # The text for incrementalPolicy; `stage` is one, compile or finish.
  render =
    policy: stage:
    let
      line = word: value: "${word} ${toString value}\n";
      optional = word: value: if value == null then "" else line word value;
      each = word: values: builtins.concatStringsSep "" (map (line word) values);
    in
    optional "slot" policy.slot
    + optional "fallback" policy.fallback
    + optional "bucket" policy.bucket
    + line "stage" stage
    + each "artifacts" policy.artifacts
    + each "exclude" policy.exclude
    + each "fullOn" policy.fullOn
    + line "structure" policy.structure
    + line "stablePrefix" (if policy.stablePrefix then "yes" else "no")
    + line "epoch" policy.epoch;
}
