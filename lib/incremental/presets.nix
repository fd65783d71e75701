# What is known of build tools, as data.
#
#   fullOn     changes of these files are not seen, or not wholly, by the tool: build in full
#   artifacts  what to save: "auto" for all that the build made, or paths relative to the source
#   exclude    what not to save of it
#   structure  "clean": build in full when a file was added or deleted, because the tool may not notice.
#              "keep" for tools that look at all files, or at their contents, each time
#   env        variables for the derivation
#   setup      shell commands to run in the root of the source before it is configured
let
  none = {
    artifacts = "auto";
    exclude = [ ];
    structure = "clean";
    env = { };
    setup = "";
  };

  # Programs that write other files, and are seldom named as what those depend on.
  generators = [
    "configure"
    "configure.ac"
    "configure.in"
    "*.am"
    "*.in"
    "*.m4"
    "*.l"
    "*.y"
  ];

  cmake = [
    "CMakeLists.txt"
    "CMake*Presets.json"
    "*.cmake"
    "*.in"
  ];

  meson = [
    "meson.build"
    "meson.options"
    "meson_options.txt"
    "*.wrap"
    "*.in"
  ];
in
{
  make = none // {
    fullOn = [
      "*[Mm]akefile"
      "[Mm]akefile.*"
      "*.mk"
      "*.mak"
      "Kbuild"
      "Kconfig*"
    ]
    ++ generators;
  };

  cmake = none // {
    fullOn = cmake;
  };

  ninja = none // {
    fullOn = [ "*.ninja" ] ++ generators;
  };

  meson = none // {
    fullOn = meson;
  };

  # cargo compares its inputs and flags itself.
  cargo = none // {
    fullOn = [
      "Cargo.toml"
      "Cargo.lock"
      "build.rs"
      "rust-toolchain"
      "rust-toolchain.toml"
      "*.cargo/config"
      "*.cargo/config.toml"
    ];
    artifacts = [ "target" ];
    exclude = [ ".cargo-lock" ];
    structure = "keep";
    env = {
      CARGO_INCREMENTAL = "0";
    };
  };

  # GHC compares hashes of sources since 9.4, and finds its modules anew each time.
  ghc = none // {
    fullOn = [
      "*.cabal"
      "cabal.project*"
      "package.yaml"
      "Setup.hs"
      "Setup.lhs"
      "*.hsc"
      "*.chs"
    ];
    artifacts = [
      "dist"
      "dist-newstyle"
      ".stack-work"
    ];
    structure = "keep";
  };

  # Go's cache is addressed by the contents of what went into each entry.
  go = none // {
    fullOn = [
      "go.mod"
      "go.sum"
      "go.work"
    ];
    artifacts = [ ".go-cache" ];
    structure = "keep";
    setup = "export GOCACHE=$PWD/.go-cache\n";
  };
}
