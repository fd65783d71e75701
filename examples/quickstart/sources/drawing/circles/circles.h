/* Circles on a canvas. */
#ifndef CIRCLES_H
#define CIRCLES_H

#include "canvas.h"

/* The radius is in rows. A character is twice as high as wide, so it is drawn twice as wide. */
void circles_fill(canvas *c, int x, int y, int radius, char ink);

#endif
