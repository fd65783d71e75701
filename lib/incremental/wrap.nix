# The form for what stdenv.mkDerivation made: phases are added, nothing is replaced.
let
  bases = import ./bases.nix;
  policies = import ./policy.nix;

  wrap =
    options: drv:
    let
      who = "incremental.wrap${if drv ? name then " ${drv.name}" else ""}";
      policy = policies.complete who (builtins.removeAttrs options [ "base" ]);
      stage =
        which: base:
        drv.overrideAttrs (
          old:
          let
            outputs = old.outputs or [ "out" ];
          in
          if old ? phases then
            throw "${who}: it sets `phases`, so that none can be added; let it set dontUnpack, dontConfigure and the like instead"
          else if builtins.elem "intermediates" outputs then
            throw "${who}: it has an output \"intermediates\" already"
          else
            builtins.removeAttrs policy.preset.env (builtins.attrNames old)
            // {
              outputs = outputs ++ [ "intermediates" ];
              incrementalScript = "${./incremental.sh}";
              incrementalPhases = "${./stdenv-phases.sh}";
              incrementalOutputs = builtins.concatStringsSep " " outputs;
              incrementalBase = bases.toVariable who base;
              incrementalPolicy = policies.render policy which;
              incrementalRestorePhase = ". \"$incrementalPhases\"; incremental_begin\n" + policy.preset.setup;
              incrementalCompilePhase = "incremental_configured\n[ \"$incremental_stage\" != compile ] || incremental_compile";
              # Before fixup, which is for the outputs; and after it, because it must not touch what is saved.
              incrementalInstalledPhase = "incremental_installed";
              incrementalSavePhase = "incremental_save 0";
              # stdenv's own phases run in between. A hook that adds to these lists comes after ours.
              preConfigurePhases = [ "incrementalRestorePhase" ] ++ old.preConfigurePhases or [ ];
              preBuildPhases = old.preBuildPhases or [ ] ++ [ "incrementalCompilePhase" ];
              preFixupPhases = [ "incrementalInstalledPhase" ] ++ old.preFixupPhases or [ ];
              postPhases = old.postPhases or [ ] ++ [ "incrementalSavePhase" ];
              passthru = old.passthru or { } // {
                incremental = policy;
                overrideIncremental = changes: wrap (options // changes) drv;
              };
            }
            // (if policy.stablePrefix then { NIX_OUTPATH_USED_AS_RANDOM_SEED = import ./stable-seed.nix; } else { })
        );
      compile = stage "compile" (options.base or null);
    in
    if drv ? overrideIncremental then
      drv.overrideIncremental options
    else if !(drv ? overrideAttrs) then
      throw "${who}: it has no overrideAttrs, so stdenv.mkDerivation did not make it; use incremental.derivation for a raw derivation"
    else if policy.stages == "one" then
      stage "one" (options.base or null)
    else
      stage "finish" compile.intermediates // { inherit compile; };
in
wrap
