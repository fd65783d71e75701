# One job fails, and what needs it is therefore not built; everything else goes on:
#
#            station
#           /   |   \
#    archive forecast chart ── (lines and canvas, of the jobset drawing: built once for both)
#           \   |
#          bulletin
{ system ? builtins.currentSystem }:

let
  c = import ../compiler.nix { inherit system; };
  drawing = import ../drawing/release.nix { inherit system; };
in
rec {
  station = c.library {
    name = "station";
    description = "Reads what a weather station recorded";
    src = ./station;
  };

  archive = c.program {
    name = "archive";
    description = "The extremes and the mean of all readings";
    src = ./archive;
    libraries = [ station ];
  };

  chart = c.program {
    name = "chart";
    description = "Draws the temperature's curve";
    src = ./chart;
    libraries = [ station drawing.lines drawing.canvas ];
  };

  forecast = c.program {
    name = "forecast";
    description = "Guesses tomorrow; does not compile, on purpose";
    src = ./forecast;
    libraries = [ station ];
  };

  curve = c.run {
    name = "curve";
    description = "The curve of the recorded days";
    inherit chart;
    readings = ./readings.txt;
    script = ''
      mkdir -p $out/nix-support
      $chart/bin/chart < $readings > $out/curve.txt
      cat $out/curve.txt
      echo "doc text $out/curve.txt" > $out/nix-support/hydra-build-products
    '';
  };

  bulletin = c.run {
    name = "bulletin";
    description = "What the paper prints";
    inherit archive forecast;
    readings = ./readings.txt;
    script = ''
      $archive/bin/archive < $readings > $out
      $forecast/bin/forecast < $readings >> $out
      cat $out
    '';
  };
}
