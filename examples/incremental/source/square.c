#include "figures.h"

double square(double side)
{
    return side * side;
}
