# A diamond:          canvas
#                    /      \
#                 lines    circles
#                    \      /
#                    picture ── test ── release
{ system ? builtins.currentSystem }:

let
  c = import ../compiler.nix { inherit system; };
in
rec {
  canvas = c.library {
    name = "canvas";
    description = "A drawing surface made of characters";
    src = ./canvas;
  };

  lines = c.library {
    name = "lines";
    description = "Straight lines on a canvas";
    src = ./lines;
    libraries = [ canvas ];
  };

  circles = c.library {
    name = "circles";
    description = "Circles on a canvas";
    src = ./circles;
    libraries = [ canvas ];
  };

  picture = c.program {
    name = "picture";
    description = "Draws a house under the sun";
    src = ./picture;
    libraries = [ lines circles canvas ];
  };

  test = c.run {
    name = "picture-test";
    description = "Draws the picture and compares it with the one we want";
    inherit picture;
    expected = ./expected.txt;
    script = ''
      mkdir -p $out/nix-support
      $picture/bin/picture > $out/picture.txt
      cat $out/picture.txt
      diff -u $expected $out/picture.txt
      echo "doc text $out/picture.txt" > $out/nix-support/hydra-build-products
      echo "ink $(tr -d ' \n' < $out/picture.txt | wc -c) dots" > $out/nix-support/hydra-metrics
    '';
  };

  release = c.aggregate {
    name = "drawing-release";
    description = "All that a release needs";
    constituents = [ picture test ];
  };
}
