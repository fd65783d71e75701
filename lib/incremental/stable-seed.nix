# What stands for `out` where stdenv seeds the compiler's random names with it.
"stableprefixstableprefixstable10"
