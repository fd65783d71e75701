# Base 64 of ASCII text, as nix.buildMachines has host keys.
{ lib }:
let
  digits = lib.stringToCharacters "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  valueOf = builtins.listToAttrs (lib.imap0 (value: name: { inherit name value; }) digits);
  characters = builtins.listToAttrs (
    map (value: {
      name = toString (lib.strings.charToInt value);
      inherit value;
    }) (digits ++ lib.stringToCharacters " -=@._:,\n")
  );

  bits = width: number: map (place: lib.mod (number / place) 2) (powers width);
  powers = width: lib.reverseList (lib.take width [ 1 2 4 8 16 32 64 128 ]);
  number = lib.foldl' (sum: bit: 2 * sum + bit) 0;
  groups =
    width: list:
    lib.genList (index: lib.sublist (index * width) width list) (builtins.length list / width);
  zeros = count: lib.genList (_: 0) count;
in
{
  encode =
    text:
    let
      plain = lib.concatMap (character: bits 8 (lib.strings.charToInt character)) (lib.stringToCharacters text);
      missing = lib.mod (3 - lib.mod (builtins.stringLength text) 3) 3;
    in
    lib.concatMapStrings (group: builtins.elemAt digits (number group)) (
      groups 6 (plain ++ zeros (2 * missing))
    )
    + lib.concatStrings (lib.genList (_: "=") missing);

  decode =
    text:
    let
      body = lib.stringToCharacters (lib.replaceStrings [ "=" "\n" ] [ "" "" ] text);
    in
    lib.removeSuffix "\n" (
      lib.concatMapStrings (group: characters.${toString (number group)}) (
        groups 8 (lib.concatMap (digit: bits 6 valueOf.${digit}) body)
      )
    );
}
