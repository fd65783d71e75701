#include "circles.h"

void circles_fill(canvas *c, int x, int y, int radius, char ink)
{
    for (int dy = -radius; dy <= radius; dy++)
        for (int dx = -2 * radius; dx <= 2 * radius; dx++)
            if (dx * dx + 4 * dy * dy <= 4 * radius * radius)
                canvas_dot(c, x + dx, y + dy, ink);
}
