# Everything that may go wrong with one attribute, next to what must come out well all the same.
{
  system ? "x86_64-linux",
  greeting ? "none",
  ...
}:
let
  job =
    name: more:
    derivation (
      {
        inherit name system;
        builder = "/bin/sh";
      }
      // more
    );
in
rec {
  # good
  described = job "described" { } // {
    meta = {
      description = "what it is";
      timeout = 5;
      maxSilent = 2.5;
      schedulingPriority = 3;
      maintainers = throw "never looked at";
    };
  };
  greeted = job "greeted-${greeting}" { };
  multi = job "multi" {
    outputs = [
      "out"
      "dev"
      "doc"
    ];
  };
  called = { greeting ? "default" }: job "called-${greeting}" { };
  calledEllipsis = { ... }@given: job "ellipsis-${given.greeting or "none"}" { };
  calledEmpty = { }: job "empty" { };
  foreign = derivation {
    name = "foreign";
    system = "riscv64-linux";
    builder = "/bin/sh";
  };
  builtinSystem = derivation {
    name = "fetch";
    system = "builtin";
    builder = "builtin:fetchurl";
    url = "file:///nowhere";
    outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
    outputHashMode = "flat";
  };
  nested.deep.er = job "deeper" { };
  nested."with.dot" = job "with-dot" { };
  nested."tab\tquote\"dollar\${x}" = job "odd" { };
  nested."größe" = job "umlaut" { };
  functor = {
    __functor = self: x: throw "never called";
    inside = job "in-functor" { };
  };

  # no jobs
  plain = x: throw "never called";
  number = 1;
  text = "text";
  list = [ (throw "never looked at") ];
  nothing = null;
  empty = { };
  off = {
    recurseForDerivations = false;
    broken = throw "never looked at";
  };

  # broken
  aborted = abort "on purpose";
  asserted = assert false; job "asserted" { };
  badMeta = job "bad-meta" { } // {
    meta.timeout = "long";
  };
  badName = job "bad name" { };
  cyclic = {
    inherit cyclic;
  };
  deepOverflow =
    let
      down = n: 1 + down (n + 1);
    in
    down 0;
  impure = job "impure" { secret = builtins.readFile /etc/hostname; };
  missing = { }.attribute;
  needy = { wanted }: job "needy" { };
  noDrv = {
    type = "derivation";
    name = "no-drv";
    inherit system;
  };
  recursive =
    let
      x = x;
    in
    x;
  thrown = throw "first line\nsecond line";
  typed = 1 + "1";

  # aggregates
  aggregate = job "aggregate" { inputs = [ described ]; } // {
    _hydraAggregate = true;
    constituents = [
      described
      multi.dev
      "nested.deep.er"
      "called"
    ];
  };
  aggregateOfAggregates = job "aggregate-2" { } // {
    _hydraAggregate = true;
    constituents = [ "aggregate" ];
  };
  aggregateGlob = job "glob" { } // {
    _hydraAggregate = true;
    _hydraGlobConstituents = true;
    constituents = [
      "nested.*"
      "called*"
    ];
  };
  aggregateNoMatch = job "no-match" { } // {
    _hydraAggregate = true;
    _hydraGlobConstituents = true;
    constituents = [ "nowhere.*" ];
  };
  aggregateUnknown = job "unknown" { } // {
    _hydraAggregate = true;
    constituents = [ "nowhere" ];
  };
  aggregateBroken = job "broken" { } // {
    _hydraAggregate = true;
    constituents = [ "aborted" ];
  };
  aggregateWrong = job "wrong" { } // {
    _hydraAggregate = true;
    constituents = [ 1 ];
  };
  aggregateWithout = job "without" { } // {
    _hydraAggregate = true;
  };
  cycleA = job "cycle-a" { } // {
    _hydraAggregate = true;
    constituents = [ "cycleB" ];
  };
  cycleB = job "cycle-b" { } // {
    _hydraAggregate = true;
    constituents = [ "cycleA" ];
  };
}
