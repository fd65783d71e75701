#include "lines.h"

#include <stdlib.h>

void lines_draw(canvas *c, int x0, int y0, int x1, int y1, char ink)
{
    int dx = x1 - x0, dy = y1 - y0;
    int steps = abs(dx) > abs(dy) ? abs(dx) : abs(dy);

    canvas_dot(c, x0, y0, ink);
    for (int i = 1; i <= steps; i++)
        canvas_dot(c, x0 + dx * i / steps, y0 + dy * i / steps, ink);
}
