# The jobs of a locked source, as one tree that every evaluator walks by the same rule:
#   - a derivation is a job, its `meta` reduced to what the reconciler reads;
#   - a set is walked into, unless it says `recurseForDerivations = false`;
#   - a function whose arguments are known or have defaults is called;
#   - all else, and derivations of systems nobody asked for, becomes null and is no job.
# Nothing is forced before the attribute it belongs to is: a broken one costs itself only.
#
# The argument is made by reconciler/nix/evaluation.py:
#   source      { flake = URL; } or { git = { ... }; ... } or { tree = { ... }; ... } with file and args
#   attributes  list of attribute paths; null: the default of the kind of source
#   systems     list of wanted systems; null: all
#   system      the machine's own system, which pure evaluation could not tell
# and for incremental builds
#   bases       the locked folder with bases.nix, a set by name of job; null: there are none
#   protocols   how they reach the source: "garnix" by the function garnix.nix is, "arg" as argument
{
  source,
  attributes,
  systems,
  system,
  bases ? null,
  protocols ? [ ],
  garnix ? null,
}:
let
  inherit (builtins)
    attrNames
    elem
    elemAt
    filter
    foldl'
    functionArgs
    getContext
    hasContext
    head
    intersectAttrs
    isAttrs
    isFloat
    isFunction
    isInt
    isString
    length
    listToAttrs
    mapAttrs
    match
    pathExists
    removeAttrs
    substring
    toXML
    typeOf
    unsafeDiscardStringContext
    ;

  # Deep enough for any set written by hand; a set that contains itself ends here.
  maxDepth = 16;

  # Outputs of flakes whose second level is named by system: by the flake schema, not by guess.
  perSystem = [
    "checks"
    "devShells"
    "legacyPackages"
    "packages"
  ];

  dotted = path: builtins.concatStringsSep "." path;
  wantedSystem = system: systems == null || system == "builtin" || elem system systems;

  # What a function is called with. `system` is the machine's own, if jobs for it are wanted.
  arguments =
    (if systems == null then { inherit system; } else { inherit systems; })
    // (if systems == null || systems == [ ] then { } else { system = if elem system systems then system else head systems; })
    // (source.args or { })
    // (if elem "arg" protocols then { incrementalBases = known; } else { });

  known = if bases == null then { } else import "${builtins.fetchTree bases}/bases.nix";

  # Nix's own rule for calling functions without being asked: those that take a set by pattern.
  # `functionArgs` gives { } for `x: ...` and `{ }: ...` alike; only toXML tells them apart.
  # Its beginning is enough, and a regular expression over more may exhaust the stack.
  pattern = function: match ".*<attrspat( [^>]*)?>.*" (substring 0 200 (toXML function));
  call =
    path: function:
    let
      wanted = functionArgs function;
      missing = filter (name: !wanted.${name} && !(arguments ? ${name})) (attrNames wanted);
      shape = head (pattern function);
      ellipsis = shape != null && match ".*ellipsis=.*" shape != null;
    in
    if missing != [ ] then
      throw "the function at '${dotted path}' has no value for its argument '${head missing}': give it one in the source's args, or a default"
    else
      function (if ellipsis then arguments else intersectAttrs wanted arguments);

  isDerivation = value: value.type or null == "derivation";

  # What `value` becomes in the tree.
  mark =
    path: value:
    if isFunction value then
      (if pattern value == null then null else mark path (call path value))
    else if !isAttrs value then
      null
    else if isDerivation value then
      (if wantedSystem value.system then job path value else null)
    else if value.recurseForDerivations or true then
      markSet path value
    else
      null;

  # A functor would be called by some evaluators and not by others; here it is a set.
  markSet =
    path: value:
    if length path >= maxDepth then
      throw "'${dotted path}' is nested too deeply: does a set contain itself? Set recurseForDerivations = false on it"
    else
      mapAttrs (name: mark (path ++ [ name ])) (
        removeAttrs value [
          "__functor"
          "recurseForDerivations"
        ]
      )
      // {
        recurseForDerivations = true;
      };

  job =
    path: derivation:
    removeAttrs derivation [ "__functor" ] // { meta = metaOf path derivation; };

  # Only what is there: some evaluators drop a null, and the list it is in with it.
  metaOf =
    path: derivation:
    let
      meta = derivation.meta or { };
      checked =
        name: kind: check:
        if !(meta ? ${name}) || meta.${name} == null then
          [ ]
        else if check meta.${name} then
          [
            {
              inherit name;
              value = meta.${name};
            }
          ]
        else
          throw "meta.${name} of '${dotted path}' must be ${kind}, not ${shown meta.${name}}";
      shown = value: if isInt value || isFloat value then toString value else "a ${typeOf value}";
      seconds = value: (isInt value || isFloat value) && value >= 0;
      described = checked "description" "a string" isString;
    in
    listToAttrs (
      map (entry: entry // { value = unsafeDiscardStringContext entry.value; }) described
      ++ checked "timeout" "a number of seconds" seconds
      ++ checked "maxSilent" "a number of seconds" seconds
      ++ checked "schedulingPriority" "a whole number" isInt
    )
    // (if derivation._hydraAggregate or false then aggregateOf path derivation else { });

  aggregateOf = path: derivation: {
    aggregate =
      if derivation ? constituents then
        builtins.concatLists (map (constituent path) derivation.constituents)
      else
        throw "the aggregate '${dotted path}' has no constituents";
    aggregateGlobs = derivation._hydraGlobConstituents or false;
  };

  # "job NAME" for what is named, "drv PATH" for what is given.
  constituent =
    path: value:
    if isString value && !hasContext value then
      [ "job ${value}" ]
    else if isString value then
      map (drv: "drv ${drv}") (filter (drv: match ".*[.]drv" drv != null) (attrNames (getContext value)))
    else if isAttrs value && value ? drvPath then
      [ "drv ${unsafeDiscardStringContext value.drvPath}" ]
    else
      throw "a constituent of the aggregate '${dotted path}' is neither a derivation nor the name of a job, but a ${typeOf value}";

  # The value at an attribute path of the source.
  select =
    path: from:
    (foldl'
      (
        at: name:
        let
          here = at.at ++ [ name ];
          value = if isFunction at.value then call at.at at.value else at.value;
        in
        if !isAttrs value then
          throw "'${dotted at.at}' is a ${typeOf value}, so it has no attribute '${name}'"
        else if !(value ? ${name}) then
          throw "the source has no attribute '${dotted here}'"
        else
          {
            at = here;
            value = value.${name};
          }
      )
      {
        at = [ ];
        value = from;
      }
      path
    ).value;

  # A declared attribute in the tree; of per-system outputs, only the systems wanted.
  markAttribute =
    from: path:
    let
      value = select path from;
      unwanted =
        if source ? flake && length path == 1 && elem (head path) perSystem && isAttrs value then
          filter (system: !wantedSystem system) (attrNames value)
        else
          [ ];
    in
    mark path (if unwanted == [ ] then value else removeAttrs value unwanted);

  # { a.b = ...; } of several paths, none of which is the beginning of another.
  nest =
    from: depth: paths:
    let
      names = attrNames (
        listToAttrs (
          map (path: {
            name = elemAt path depth;
            value = null;
          }) paths
        )
      );
      below = name: filter (path: elemAt path depth == name) paths;
      child =
        name:
        let
          mine = below name;
        in
        if length (head mine) == depth + 1 then
          markAttribute from (head mine)
        else
          nest from (depth + 1) mine;
    in
    listToAttrs (
      map (name: {
        inherit name;
        value = child name;
      }) names
    )
    // {
      recurseForDerivations = true;
    };

  flakeDefaults =
    outputs:
    if outputs ? hydraJobs then
      [ [ "hydraJobs" ] ]
    else
      map (name: [ name ]) (
        filter (name: outputs ? ${name}) [
          "checks"
          "packages"
        ]
      );

  ofFlake =
    outputs: nest outputs 0 (if attributes == null then flakeDefaults outputs else attributes);

  ofExpression =
    expression:
    let
      value = if isFunction expression then call [ ] expression else expression;
    in
    if attributes != null then
      nest value 0 attributes
    else if !isAttrs value then
      throw "the file '${source.file}' evaluates to a ${typeOf value}, not to a set of jobs"
    else if isDerivation value then
      {
        default = mark [ "default" ] value;
        recurseForDerivations = true;
      }
    else
      markSet [ ] value;

  tree =
    if source ? git then builtins.fetchGit source.git else builtins.fetchTree source.tree;
  file = "${tree.outPath}/${source.file}";
in
if source ? flake then
  let
    flake = builtins.getFlake source.flake;
  in
  ofFlake (
    if elem "garnix" protocols && known != { } then
      garnix {
        inherit flake;
        bases = known;
      }
    else
      flake
  )
else if !pathExists file then
  throw "the source has no file '${source.file}'"
else
  ofExpression (import file)
