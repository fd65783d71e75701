#include <stdio.h>
#include "figures.h"

int main(void)
{
    printf("%s: %.3f\n", PREFIX, total(1.0));
    return 0;
}
