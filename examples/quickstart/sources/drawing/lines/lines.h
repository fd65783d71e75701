/* Straight lines on a canvas. */
#ifndef LINES_H
#define LINES_H

#include "canvas.h"

/* Both ends are drawn. */
void lines_draw(canvas *c, int x0, int y0, int x1, int y1, char ink);

#endif
