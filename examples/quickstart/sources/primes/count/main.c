#include <stdio.h>
#include <stdlib.h>

static int is_prime(long n)
{
    if (n < 4)
        return n > 1;
    if (n % 2 == 0 || n % 3 == 0)
        return 0;
    for (long d = 5; d * d <= n; d += 6)
        if (n % d == 0 || n % (d + 2) == 0)
            return 0;
    return 1;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: %s FROM TO\n", argv[0]);
        return 2;
    }
    long primes = 0;
    for (long n = strtol(argv[1], NULL, 10); n < strtol(argv[2], NULL, 10); n++)
        primes += is_prime(n);
    printf("%ld\n", primes);
    return 0;
}
