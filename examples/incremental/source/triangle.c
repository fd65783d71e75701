#include <math.h>
#include "figures.h"

double triangle(double side)
{
    return sqrt(3.0) / 4.0 * side * side;
}
