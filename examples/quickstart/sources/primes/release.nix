# Jobs need not be written one by one: eight slices of the numbers below ten million, counted side by
# side, and a total that waits for all of them and knows what it must be.
{ system ? builtins.currentSystem }:

let
  c = import ../compiler.nix { inherit system; };
  count = 8;
  width = 10 * 1000 * 1000 / count;

  counter = c.program {
    name = "count-primes";
    description = "Counts the primes between two numbers";
    src = ./count;
  };

  slice =
    number:
    c.run {
      name = "primes-${toString number}";
      description = "Primes from ${toString (number * width)} on";
      inherit counter;
      from = number * width;
      to = (number + 1) * width;
      script = "$counter/bin/count-primes $from $to > $out";
    };

  slices = builtins.genList slice count;
in
{
  # A set of jobs within the set: they are called slices.from-0, slices.from-1250000, …
  slices = builtins.listToAttrs (
    map (job: {
      name = "from-${toString job.from}";
      value = job;
    }) slices
  )
  // {
    recurseForDerivations = true;
  };

  total = c.run {
    name = "primes-total";
    description = "How many primes there are below ten million";
    inherit slices;
    script = ''
      sum=0
      for slice in $slices; do sum=$((sum + $(cat $slice))); done
      echo "$sum primes"
      [ $sum = 664579 ]
      echo $sum > $out
    '';
  };
}
