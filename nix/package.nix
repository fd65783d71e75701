# The program, with its completions. Its dependencies are those of pyproject.toml, by their names.
{
  lib,
  stdenv,
  python3Packages,
  installShellFiles,
  fetchPypi,
  nix,
  git,
}:
let
  project = (lib.importTOML ../pyproject.toml).project;
  nameOf = requirement: builtins.head (builtins.match "([A-Za-z0-9._-]+).*" requirement);
  packages = map (requirement: (python3Packages // newer).${nameOf requirement});

  # nixpkgs had 3.39 for long; migrations and `atomic` came with 4.
  newer = lib.optionalAttrs (!lib.versionAtLeast python3Packages.sqlite-utils.version "4") {
    sqlite-utils = python3Packages.sqlite-utils.overridePythonAttrs (_: rec {
      version = "4.2.1";
      src = fetchPypi {
        pname = "sqlite_utils";
        inherit version;
        hash = "sha256-dhFLalQUcU5scOX6XEeBswG1kPaVG12jnIzGDCE4K6E=";
      };
      pythonRelaxDeps = true;
      doCheck = false; # its tests are for its own release of click
    });
  };
in
python3Packages.buildPythonApplication {
  pname = project.name;
  inherit (project) version;
  pyproject = true;
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../LICENSE
      ../README.md
      ../pyproject.toml
      ../reconciler
      ../schemas
      ../scripts/find-nix.sh
      ../tests
    ];
  };

  build-system = [ python3Packages.setuptools ];
  dependencies = packages project.dependencies;
  nativeBuildInputs = [ installShellFiles ];
  nativeCheckInputs = [
    git
    nix
    python3Packages.hypothesis
    python3Packages.pytest
    python3Packages.pytest-asyncio
  ];

  # The pure core: Nix's sandbox holds no second sandbox, which the other tests build in.
  checkPhase = ''
    runHook preCheck
    export HOME=$TMPDIR
    pytest tests/test_{architecture,explain,graph,plan,quantities,scheduler,transitions,work}.py tests/config
    runHook postCheck
  '';

  postInstall = lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
    for shell in bash fish zsh; do
      $out/bin/reconciler completion $shell > reconciler.$shell
    done
    installShellCompletion --cmd reconciler reconciler.{bash,fish,zsh}
  '';

  meta = {
    inherit (project) description;
    license = lib.licenses.mit;
    mainProgram = "reconciler";
    platforms = lib.platforms.linux;
  };
}
