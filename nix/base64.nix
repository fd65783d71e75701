# Base 64 of ASCII text, as nix.buildMachines has host keys.
{ lib }:
text:
let
  digits = lib.stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  missing = lib.mod (3 - lib.mod (builtins.stringLength text) 3) 3;
  codes = map lib.strings.charToInt (lib.stringToCharacters text) ++ lib.genList (_: 0) missing;
  # Three characters are four digits.
  four =
    index:
    let
      code = offset: builtins.elemAt codes (3 * index + offset);
      number = (code 0 * 256 + code 1) * 256 + code 2;
    in
    map (place: builtins.elemAt digits (lib.mod (number / place) 64)) [
      262144
      4096
      64
      1
    ];
  written = lib.concatLists (lib.genList four (builtins.length codes / 3));
in
lib.concatStrings (
  lib.take (builtins.length written - missing) written ++ lib.genList (_: "=") missing
)
