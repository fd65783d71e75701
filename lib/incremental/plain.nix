# The plain form: a raw derivation that needs nothing but a shell, coreutils, findutils, grep, sed and awk.
let
  bases = import ./bases.nix;
  policies = import ./policy.nix;

  policyArguments = builtins.mapAttrs (_: _: true) policies.defaults;

  reserved =
    name: builtins.elem name [ "name" "system" "src" "builder" "args" "outputs" "PATH" ]
    || builtins.match "incremental.*" name != null;

  make =
    {
      name,
      system,
      src,
      build,
      install,
      setup ? "",
      configure ? "",
      shell ? "/bin/sh",
      path ? "/usr/bin:/bin",
      env ? { },
      outputs ? [ "out" ],
      base ? null,
      slot ? null,
      fallback ? null,
      bucket ? null,
      preset ? null,
      artifacts ? null,
      exclude ? null,
      fullOn ? null,
      structure ? null,
      stablePrefix ? null,
      stages ? null,
      epoch ? null,
    }@arguments:
    let
      who = "incremental.derivation ${name}";
      policy = policies.complete who (builtins.intersectAttrs policyArguments arguments);
      taken = builtins.filter reserved (builtins.attrNames env);
      stage =
        which: base:
        derivation (
          policy.preset.env
          // env
          // {
            inherit name system;
            src =
              if builtins.isPath src then
                builtins.path {
                  name = "source";
                  path = src;
                }
              else
                src;
            builder = shell;
            args = [ "${./plain-builder.sh}" ];
            PATH = if builtins.isList path then builtins.concatStringsSep ":" (map (p: "${p}/bin") path) else path;
            outputs = outputs ++ [ "intermediates" ];
            incrementalScript = "${./incremental.sh}";
            incrementalOutputs = outputs;
            incrementalBase = bases.toVariable who base;
            incrementalPolicy = policies.render policy which;
            incrementalSetup = policy.preset.setup + setup;
            incrementalConfigure = configure;
            incrementalBuild = build;
            incrementalInstall = install;
          }
        );
      compile = stage "compile" base;
    in
    if taken != [ ] then
      throw "${who}: env.${builtins.head taken} is set by incremental.derivation itself; choose another name"
    else if builtins.elem "intermediates" outputs then
      throw "${who}: outputs must not name \"intermediates\", which is added"
    else
      (if policy.stages == "one" then stage "one" base else stage "finish" compile.intermediates // { inherit compile; })
      // {
        incremental = policy;
        overrideIncremental = changes: make (arguments // changes);
      };
in
make
