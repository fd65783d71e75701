# ccache or sccache before the compilers of a build, where the daemon shows that build a place for what they make.
let
  usual = [
    "cc"
    "gcc"
    "clang"
    "c++"
    "g++"
    "clang++"
  ];

  make =
    {
      tool ? "ccache",
      ccache ? null,
      sccache ? null,
      compilers ? usual,
      maxSize ? "5G",
    }:
    let
      who = "incremental.compilerCache";
      packages = { inherit ccache sccache; };
      other = if tool == "ccache" then "sccache" else "ccache";
      size = if tool == "ccache" then "[0-9]+[kMGT]i?" else "[0-9]+[KMGT]";
      # The daemon shows a place to derivations with these variables.
      env = {
        compilerCacheSize = maxSize;
        compilerCacheScript = "${./compiler-cache.sh}";
        compilerCacheCompilers = builtins.concatStringsSep " " compilers;
        compilerCacheTool = tool;
        compilerCacheProgram = if packages.${tool} == null then tool else "${packages.${tool}}/bin/${tool}";
      };
      begin = ". \"$compilerCacheScript\"\n";
    in
    if !builtins.isString tool || !packages ? ${tool} then
      throw "${who}: tool must be \"ccache\" or \"sccache\""
    else if packages.${other} != null then
      throw "${who}: ${other} is given, but the tool is ${tool}; set tool = \"${other}\", or leave it away"
    else if !builtins.isString maxSize || builtins.match size maxSize == null then
      throw "${who}: maxSize must be a size as ${tool} has it, such as \"5G\""
    else if !builtins.isList compilers || !builtins.all builtins.isString compilers then
      throw "${who}: compilers must be a list of names of programs, such as [ \"gcc\" ]"
    else
      {
        inherit env;
        setup = begin + "trap incremental_end_compiler_cache EXIT\n";
        __functor =
          _: drv:
          if !(drv ? overrideAttrs) then
            throw "${who}: it has no overrideAttrs, so stdenv.mkDerivation did not make it; give `env` and `setup` of compilerCache to a raw derivation"
          else
            drv.overrideAttrs (
              old:
              env
              // {
                # stdenv has a trap of its own, which runs these.
                compilerCachePhase =
                  begin
                  + "exitHooks+=(incremental_end_compiler_cache)\nfailureHooks+=(incremental_end_compiler_cache)\n";
                preConfigurePhases = old.preConfigurePhases or [ ] ++ [ "compilerCachePhase" ];
                # What the compiler seeds its names with, or each output path would be other flags.
                NIX_OUTPATH_USED_AS_RANDOM_SEED = import ./stable-seed.nix;
              }
            );
      };
in
make
