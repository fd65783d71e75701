# ccache before the compilers of a build, where the daemon shows that build a place for what they make.
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
      ccache ? null,
      compilers ? usual,
      maxSize ? "5G",
    }:
    let
      who = "incremental.compilerCache";
      # The daemon shows a place to derivations with these variables.
      env = {
        compilerCacheSize = maxSize;
        compilerCacheScript = "${./compiler-cache.sh}";
        compilerCacheCompilers = builtins.concatStringsSep " " compilers;
        compilerCacheProgram = if ccache == null then "ccache" else "${ccache}/bin/ccache";
      };
      setup = ". \"$compilerCacheScript\"\n";
    in
    if !builtins.isString maxSize || builtins.match "[0-9]+[kMGT]i?" maxSize == null then
      throw "${who}: maxSize must be a size as ccache has it, such as \"5G\""
    else if !builtins.isList compilers || !builtins.all builtins.isString compilers then
      throw "${who}: compilers must be a list of names of programs, such as [ \"gcc\" ]"
    else
      {
        inherit env setup;
        __functor =
          _: drv:
          if !(drv ? overrideAttrs) then
            throw "${who}: it has no overrideAttrs, so stdenv.mkDerivation did not make it; give `env` and `setup` of compilerCache to a raw derivation"
          else
            drv.overrideAttrs (
              old:
              env
              // {
                compilerCachePhase = setup;
                preConfigurePhases = old.preConfigurePhases or [ ] ++ [ "compilerCachePhase" ];
              }
            );
      };
in
make
